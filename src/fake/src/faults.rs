//! What goes wrong, when somebody wants it to.
//!
//! Before each request the abstract socket `@mvm-fake` of this network namespace is asked, with a
//! line `<id> <METHOD> <path>`; one line comes back. Where nobody listens all goes well. An
//! abstract name is reached from inside a jail, and each test has a namespace of its own.

use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

/// The socket's name.
const NAME: &str = "mvm-fake";

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is carried out: `go`.
    None,
    /// It is refused in these words: `refuse <words>`.
    Refuse(String),
    /// It is never answered: `hang`.
    Hang,
    /// Its connection is closed: `close`.
    Close,
    /// The process ends before it: `die`.
    DieBefore,
    /// The process ends after it, before the answer: `die-after`.
    DieAfter,
    /// The process ends after the answer: `answer-and-die`.
    AnswerAndDie,
    /// Of a snapshot's memory so many bytes are written, then the process ends: `short <bytes>`.
    Short(u64),
    /// It takes so many milliseconds longer: `slow <milliseconds>`.
    Slow(u64),
}

/// Asks what becomes of a request.
pub fn ask(id: &str, method: &str, path: &str) -> Fault {
    parse(say(&format!("{id} {method} {path}")).unwrap_or_default().trim())
}

/// Says a line to whoever listens; what they answer.
pub fn say(words: &str) -> std::io::Result<String> {
    let address = SocketAddr::from_abstract_name(NAME)?;
    let mut stream = UnixStream::connect_addr(&address)?;
    writeln!(stream, "{words}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

fn parse(line: &str) -> Fault {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let number = rest.parse().unwrap_or(0);
    match word {
        "refuse" => Fault::Refuse(rest.to_owned()),
        "hang" => Fault::Hang,
        "close" => Fault::Close,
        "die" => Fault::DieBefore,
        "die-after" => Fault::DieAfter,
        "answer-and-die" => Fault::AnswerAndDie,
        "short" => Fault::Short(number),
        "slow" => Fault::Slow(number),
        _ => Fault::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_word_and_anything_else_is_none() {
        assert_eq!(parse("refuse no such drive"), Fault::Refuse("no such drive".into()));
        assert_eq!(parse("short 4096"), Fault::Short(4096));
        assert_eq!(parse("slow 20"), Fault::Slow(20));
        for (word, fault) in [
            ("hang", Fault::Hang),
            ("close", Fault::Close),
            ("die", Fault::DieBefore),
            ("die-after", Fault::DieAfter),
            ("answer-and-die", Fault::AnswerAndDie),
            ("go", Fault::None),
            ("", Fault::None),
        ] {
            assert_eq!(parse(word), fault);
        }
    }
}
