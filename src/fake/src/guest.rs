//! Who answers behind the vsock's socket: the guest agent's protocol, and a guest that has one
//! word of memory and one drive.
//!
//! `exec` knows `remember WORD` (in memory: a snapshot keeps it), `recall`, `write WORD` (to the
//! data drive, synced), `read` and `echo …`. So a test sees whether memory and drive belong
//! together and whether anything that was acknowledged is gone.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mvm_guest_proto::block::Nonce;
use mvm_guest_proto::message::{
    Call, ErrorKind, ExecExit, FROM_GUEST, Failure, Hello, Memory, Message, NotUnderstood, Outcome,
    Request, SecretsMounted, SecretsStep, SleepPrepared, Status, VERBS, Woken, WorkloadStatus,
};
use mvm_guest_proto::mux::{Event, Mux, StreamKey};
use mvm_guest_proto::{VERSION, VSOCK_PORT};
use serde_json::{Value, json};

use crate::machine::Machine;

/// Answers connections to the socket.
pub fn serve(listener: UnixListener, machine: Arc<Machine>) {
    for stream in listener.incoming().flatten() {
        let machine = Arc::clone(&machine);
        std::thread::spawn(move || drop(connect(stream, &machine)));
    }
}

/// `CONNECT <port>`, then the session. A snapshot that is taken ends it.
fn connect(mut stream: UnixStream, machine: &Arc<Machine>) -> std::io::Result<()> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && line.len() < 32 {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    if line != format!("CONNECT {VSOCK_PORT}\n").as_bytes() || !machine.guest_listens() {
        return Ok(());
    }
    stream.write_all(b"OK 1073741824\n")?;
    let number = machine.connected(stream.try_clone()?);
    let ended = converse(&mut stream, machine);
    machine.disconnected(number);
    ended
}

fn converse(stream: &mut UnixStream, machine: &Arc<Machine>) -> std::io::Result<()> {
    let mut mux = Mux::guest(nonce);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        // A paused guest says nothing until it runs again.
        machine.wait_until_running();
        mux.feed(&buffer[..read]);
        let mut ends = false;
        while let Some(event) = mux.next_event() {
            if let Event::Request(key, bytes) = event {
                ends |= answer(&mut mux, key, &bytes, machine);
            }
        }
        let output = mux.output().to_vec();
        stream.write_all(&output)?;
        mux.sent(output.len());
        if ends {
            std::process::exit(0);
        }
    }
}

/// Answers one request; true when the guest turns itself off after it.
fn answer(mux: &mut Mux, key: StreamKey, bytes: &[u8], machine: &Machine) -> bool {
    let call = match Call::from_bytes(bytes) {
        Ok(call) => call,
        Err(error) => {
            let (kind, words) = match error {
                NotUnderstood::Malformed(words) => (ErrorKind::Invalid, words),
                NotUnderstood::Unsupported(words) => (ErrorKind::Unsupported, words),
            };
            mux.reset(key, &Failure::new(kind, words));
            return false;
        }
    };
    if let Request::Exec(exec) = &call.request {
        let (text, code) = run(&exec.argv, machine);
        mux.message(key, &Message::Started { pid: 1 }.to_bytes());
        mux.send(key, FROM_GUEST, text.as_bytes());
        mux.eof(key, FROM_GUEST);
        mux.close(key, &Outcome::Ok(ExecExit::Code(code)).to_bytes());
        return false;
    }
    let ends = matches!(call.request, Request::Poweroff(_));
    match outcome(call.request, machine) {
        Some(value) => mux.close(key, &Outcome::Ok(value).to_bytes()),
        None => mux.reset(key, &Failure::new(ErrorKind::Unsupported, "the fake does not do that")),
    }
    ends
}

fn outcome(request: Request, machine: &Machine) -> Option<Value> {
    let value = match request {
        Request::Hello => serde_json::to_value(Hello {
            version: VERSION,
            agent: "fake".into(),
            verbs: VERBS.map(str::to_owned).into(),
        }),
        Request::Status => serde_json::to_value(status(machine)),
        Request::SleepPrep(_) => serde_json::to_value(SleepPrepared::default()),
        Request::Wake(wake) => {
            machine.set_secrets_epoch(wake.secrets_epoch);
            serde_json::to_value(Woken::default())
        }
        Request::Secrets(SecretsStep::Release) => serde_json::to_value(SecretsMounted::default()),
        Request::Secrets(SecretsStep::Mount { epoch }) => {
            machine.set_secrets_epoch(epoch);
            serde_json::to_value(SecretsMounted { uuid: machine.secrets_uuid() })
        }
        Request::Poweroff(_) => Ok(json!({})),
        _ => return None,
    };
    value.ok()
}

fn status(machine: &Machine) -> Status {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Status {
        boot_id: machine.boot_id(),
        uptime_ms: 1000,
        clock_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        ready: true,
        problems: Vec::new(),
        ready_after_ms: Some(1),
        workload: WorkloadStatus::default(),
        secrets_epoch: machine.secrets_epoch(),
        config_epoch: 0,
        prepared_to_sleep: false,
        memory: Memory { total_kib: 1, available_kib: 1 },
        agent_kib: 1,
    }
}

fn run(argv: &[String], machine: &Machine) -> (String, i32) {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    match words[..] {
        ["remember", word] => {
            machine.remember(word);
            (String::new(), 0)
        }
        ["recall"] => (machine.recall(), 0),
        ["write", word] => told(machine.write_data(word).map(|()| String::new())),
        ["read"] => told(machine.read_data()),
        ["boot-id"] => (machine.boot_id(), 0),
        ["echo", ..] => (format!("{}\n", words[1..].join(" ")), 0),
        _ => ("the fake runs no programs\n".into(), 127),
    }
}

fn told(result: std::io::Result<String>) -> (String, i32) {
    match result {
        Ok(text) => (text, 0),
        Err(error) => (format!("{error}\n"), 1),
    }
}

fn nonce() -> Nonce {
    let mut bytes = [0; 16];
    // SAFETY: the buffer is as long as it is said to be.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    bytes
}
