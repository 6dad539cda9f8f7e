//! The API's socket: requests are read whole, one after another, and answered with a status.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use crate::faults::{self, Fault};
use crate::machine::{Done, Machine, Refusal};

/// The largest body, as with the real one.
const MAX_BODY: usize = 51_200;
/// The longest head.
const MAX_HEAD: usize = 8192;

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

/// Serves until the machine ends. A socket that is there already is an error, not replaced.
pub fn serve(socket: &str, machine: &Arc<Machine>) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    for stream in listener.incoming() {
        // A client that breaks off is no reason to end.
        let _ = converse(stream?, machine);
    }
    Ok(())
}

fn converse(mut stream: UnixStream, machine: &Arc<Machine>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    while let Some(request) = read(&mut stream)? {
        let fault = faults::ask(machine.id(), &request.method, &request.path);
        match &fault {
            Fault::Hang => loop {
                std::thread::park();
            },
            Fault::Close => return Ok(()),
            Fault::DieBefore => die(),
            Fault::Slow(millis) => std::thread::sleep(Duration::from_millis(*millis)),
            _ => {}
        }
        let done = match &fault {
            Fault::Refuse(words) => Err(Refusal::stays(words.clone())),
            _ if request.body.len() > MAX_BODY => Err(Refusal::stays("Payload too large")),
            _ => machine.carry_out(&request.method, &request.path, &request.body, &fault),
        };
        if fault == Fault::DieAfter {
            die();
        }
        answer(&mut stream, &done)?;
        let ends = matches!(&done, Err(refusal) if refusal.ends);
        if ends || fault == Fault::AnswerAndDie {
            std::process::exit(1);
        }
    }
    Ok(())
}

fn die() -> ! {
    // As a killed process ends: nothing is written or closed in order.
    std::process::abort()
}

fn read(stream: &mut UnixStream) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
        if head.len() > MAX_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, path) = (word(), word());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.unwrap_or(0);
    let mut body = vec![0; length.min(MAX_BODY + 1)];
    stream.read_exact(&mut body)?;
    Ok(Some(Request { method, path, body }))
}

fn answer(stream: &mut UnixStream, done: &Result<Done, Refusal>) -> io::Result<()> {
    let (status, body) = match done {
        Ok(Done::Nothing) => ("204 ", String::new()),
        Ok(Done::Told(body)) => ("200 ", body.to_string()),
        Err(refusal) => ("400 ", serde_json::json!({ "fault_message": refusal.words }).to_string()),
    };
    let length = match body.is_empty() {
        true => String::new(),
        false => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
    };
    let head = format!("HTTP/1.1 {status}\r\nServer: Firecracker API\r\n{length}\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
