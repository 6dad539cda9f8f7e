//! Reading secrets: one value, or lines `NAME=VALUE`; from stdin, a file or a terminal.
//!
//! Everything is read into one buffer that is large enough from the start and overwritten in the
//! end. No message repeats anything of what was read.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use mvm_agent::error::{Error, Kind, Result};
use mvm_model::TenantName;
use mvm_model::secret::{MAX_TOTAL, MAX_VALUE, SecretName, SecretValue, Secrets};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Names, '=' and line ends beside the values.
const ROOM_FOR_NAMES: usize = 64 << 10;

/// Where secrets are read from.
pub(super) enum Source {
    /// Standard input: a value loses one line end at its end, as `echo` adds.
    Stdin,
    /// A file: a value is the file, byte for byte.
    File(PathBuf),
}

/// Reads the value of one secret.
///
/// # Errors
/// When there is none, it is too large or cannot be read.
pub(super) fn value(name: &SecretName, source: &Source) -> Result<SecretValue> {
    let bytes = match source {
        Source::File(_) => read(source, MAX_VALUE)?,
        Source::Stdin if std::io::stdin().is_terminal() => ask(name)?,
        Source::Stdin => without_line_end(read(source, MAX_VALUE + 2)?),
    };
    match bytes.is_empty() {
        false => Ok(SecretValue::new(bytes.to_vec())),
        true => Err(Error::new(Kind::Invalid, name, "the value is empty; nothing was set")
            .hint("pipe the value in, or name a file with --from-file")),
    }
}

/// Reads lines `NAME=VALUE`; empty ones and those that begin with '#' are left out.
///
/// # Errors
/// When a line is something else (naming its number only), or nothing can be read.
pub(super) fn lines(tenant: &TenantName, source: &Source) -> Result<Secrets> {
    if matches!(source, Source::Stdin) && std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Invalid, tenant, "there is nothing to read")
            .hint(format!("name a secret: mvm tenant secrets set {tenant} NAME")));
    }
    parse(tenant, &read(source, MAX_TOTAL + ROOM_FOR_NAMES)?)
}

fn parse(tenant: &TenantName, bytes: &[u8]) -> Result<Secrets> {
    let mut secrets = Secrets::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let bad = |what: &str| {
            Error::new(Kind::Invalid, tenant, format!("line {} {what}; nothing was set", at + 1))
                .hint("write NAME=VALUE, one a line; a value of several lines goes in by itself")
        };
        let (name, value) = entry(line).ok_or_else(|| bad("is not NAME=VALUE"))?;
        if secrets.insert(name, value).is_some() {
            return Err(bad("names a secret that an earlier line names too"));
        }
    }
    match secrets.is_empty() {
        false => Ok(secrets),
        true => Err(Error::new(Kind::Invalid, tenant, "there is no secret in what was read")),
    }
}

fn entry(line: &[u8]) -> Option<(SecretName, SecretValue)> {
    let at = line.iter().position(|byte| *byte == b'=')?;
    let name = std::str::from_utf8(&line[..at]).ok()?.parse().ok()?;
    let value = &line[at + 1..];
    (!value.is_empty()).then(|| (name, SecretValue::new(value.to_vec())))
}

fn read(source: &Source, most: usize) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |what: String, error: std::io::Error| {
        Error::new(Kind::Failed, "", format!("cannot read {what}")).because(error)
    };
    match source {
        Source::Stdin => read_all(std::io::stdin().lock(), most)
            .map_err(|error| failed("stdin".into(), error))?,
        Source::File(path) => File::open(path)
            .and_then(|file| read_all(file, most))
            .map_err(|error| failed(path.display().to_string(), error))?,
    }
    .ok_or_else(|| {
        Error::new(Kind::Invalid, "", format!("that is more than {most} bytes; nothing was set"))
    })
}

/// `None` for more than `most` bytes. The buffer does not grow: no copy is left behind.
fn read_all(from: impl Read, most: usize) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 64));
    from.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= most).then_some(bytes))
}

fn without_line_end(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.ends_with(b"\n") {
        let len = bytes.len() - 1;
        bytes.truncate(len);
        if bytes.ends_with(b"\r") {
            bytes.truncate(len - 1);
        }
    }
    bytes
}

/// Asks for a value on the terminal, which does not show it.
fn ask(name: &SecretName) -> Result<Zeroizing<Vec<u8>>> {
    let stdin = std::io::stdin();
    let failed = |error: std::io::Error| {
        Error::new(Kind::Failed, name, "cannot read from the terminal").because(error)
    };
    let before = tcgetattr(stdin.as_fd()).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    eprint!("value of {name} (not shown): ");
    tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &silent).map_err(|error| failed(error.into()))?;
    let line = read_line(stdin.lock());
    let _ = tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &before);
    eprintln!();
    line.map(without_line_end).map_err(failed)
}

fn read_line(mut from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_VALUE + 64));
    let mut byte = [0];
    while line.len() <= MAX_VALUE && from.read(&mut byte)? == 1 {
        line.push(byte[0]);
        if byte[0] == b'\n' {
            break;
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> TenantName {
        "acme".parse().unwrap()
    }

    #[test]
    fn lines_are_names_and_values_as_they_are() {
        let text = b"# comment\nTOKEN=a=b \"c\"\r\n\nOTHER= x\nLAST=y";
        let secrets = parse(&tenant(), text).unwrap();
        let shown: Vec<_> =
            secrets.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        let expected: [(&str, &[u8]); 3] =
            [("LAST", b"y"), ("OTHER", b" x"), ("TOKEN", b"a=b \"c\"")];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_not_repeated() {
        for text in ["A=1\nhunter2", "A=1\nB=", "A=1\nhun ter2=x", "A=1\nA=hunter2"] {
            let error = parse(&tenant(), text.as_bytes()).unwrap_err();
            let told = format!("{} {:?}", error.chain(), error.hint);
            assert!(told.contains("line 2 ") && !told.contains("hunter2"), "{told}");
        }
        assert!(parse(&tenant(), b"\n# nothing\n").is_err());
    }

    #[test]
    fn one_line_end_of_a_piped_value_goes() {
        for (piped, kept) in [("x\n", "x"), ("x\r\n", "x"), ("x\n\n", "x\n"), ("x", "x")] {
            let bytes = Zeroizing::new(piped.as_bytes().to_vec());
            assert_eq!(without_line_end(bytes).as_slice(), kept.as_bytes());
        }
    }

    #[test]
    fn too_much_is_not_read_and_the_buffer_stays_where_it_is() {
        assert!(read_all(std::io::repeat(1), 1000).unwrap().is_none());
        let bytes = read_all(std::io::repeat(1).take(1000), 1000).unwrap().unwrap();
        assert_eq!((bytes.len(), bytes.capacity()), (1000, 1064));
    }
}
