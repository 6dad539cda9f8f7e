//! What an agent and a client must bear: garbage, half frames, floods, silence.

use std::time::Duration;

use mvm_guest_proto::block::{Block, BlockKind};
use mvm_guest_proto::frame::{Header, Kind};
use mvm_guest_proto::message::{FROM_GUEST, ReadFile};
use mvm_guest_proto::mux::Inbound;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Agent, LIMIT, noise, shell};
use crate::guest::client::Asking;
use crate::guest::{GuestClient, GuestError, Transport};

async fn answers(agent: &Agent) {
    let client = agent.client().await;
    let captured = client.run(shell("echo alive"), b"", 1000, LIMIT).await.unwrap();
    assert_eq!(captured.stdout, b"alive\n");
}

/// Opens a session by hand.
async fn handshake(agent: &Agent) -> UnixStream {
    let mut socket = UnixStream::connect(agent.socket()).await.unwrap();
    let host = [7; 16];
    let open = Block { kind: BlockKind::Open, version: 1, host, guest: [0; 16] };
    socket.write_all(&open.encode()).await.unwrap();
    let mut bytes = [0; 64];
    socket.read_exact(&mut bytes).await.unwrap();
    let accept = Block::decode(&bytes).unwrap();
    assert_eq!((accept.kind, accept.host), (BlockKind::Accept, host));
    let confirm = Block { kind: BlockKind::Confirm, version: 1, host, guest: accept.guest };
    socket.write_all(&confirm.encode()).await.unwrap();
    socket
}

fn frame(stream: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let header = Header { stream, length: payload.len(), kind, channel: 0 };
    [&header.encode()[..], payload].concat()
}

#[tokio::test]
async fn an_unknown_verb_is_unsupported_and_nonsense_is_refused() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let requests = [
        (&br#"{"verb":"levitate","height":3}"#[..], "unsupported"),
        (br#"{"verb":"exec","argv":3}"#, "invalid"),
        (br#"{"argv":[]}"#, "invalid"),
        (b"[1,2", "invalid"),
        (b"", "invalid"),
    ];
    for (request, kind) in requests {
        let stream = client.session.open(request).unwrap();
        let outcome = loop {
            match timeout(LIMIT, stream.recv()).await.unwrap() {
                Inbound::Close(outcome) => break String::from_utf8(outcome).unwrap(),
                Inbound::Opened => {}
                other => panic!("{other:?}"),
            }
        };
        assert!(outcome.contains(kind), "{outcome}");
    }
    let asking = Asking::new("testing", LIMIT);
    let unsupported = asking.outcome::<()>(br#"{"error":{"kind":"unsupported"}}"#);
    assert!(matches!(unsupported, Err(GuestError::Unsupported { .. })));
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let request = br#"{"verb":"status","from":"the future","id":"x"}"#;
    let stream = client.session.open(request).unwrap();
    assert_eq!(timeout(LIMIT, stream.recv()).await.unwrap(), Inbound::Opened);
    let Inbound::Close(outcome) = timeout(LIMIT, stream.recv()).await.unwrap() else {
        panic!("no outcome");
    };
    assert!(outcome.starts_with(br#"{"ok":"#));
}

#[tokio::test]
async fn a_host_may_vanish_at_any_byte() {
    let agent = Agent::start().await;
    let request = br#"{"verb":"exec","argv":["sleep","600"]}"#;
    let conversation = [
        frame(1, Kind::Open, request),
        frame(1, Kind::Data, b"input"),
        frame(1, Kind::Message, br#"{"type":"resize","rows":1,"cols":1}"#),
        frame(1, Kind::Eof, b""),
        frame(2, Kind::Open, br#"{"verb":"write-file","path":"/x"}"#),
        frame(2, Kind::Data, b"content"),
    ]
    .concat();
    for cut in 0..=conversation.len() {
        let mut socket = handshake(&agent).await;
        socket.write_all(&conversation[..cut]).await.unwrap();
    }
    answers(&agent).await;
    // No file was half written.
    super::within(|| std::fs::read_dir(agent.root()).unwrap().count() == 0).await;
}

#[tokio::test]
async fn garbage_before_a_session_is_discarded() {
    let agent = Agent::start().await;
    let garbage = [noise(300_000), b"\0mvm guest open\n".to_vec(), vec![1; 20]].concat();
    for cut in [0, 1, 15, 16, 17, 40, 100_000, garbage.len()] {
        let mut socket = UnixStream::connect(agent.socket()).await.unwrap();
        socket.write_all(&garbage[garbage.len() - cut..]).await.unwrap();
        let client = GuestClient::connect(socket, Transport::Lasting, LIMIT).await.unwrap();
        client.hello(LIMIT).await.unwrap();
    }
}

#[tokio::test]
async fn a_new_host_takes_over_from_the_middle_of_a_frame() {
    let agent = Agent::start().await;
    let sleep = frame(1, Kind::Open, br#"{"verb":"exec","argv":["sleep","600"]}"#);
    let data = frame(1, Kind::Data, &noise(50_000));
    for cut in [1, 7, 8, 9, 4000, data.len()] {
        let mut socket = handshake(&agent).await;
        socket.write_all(&sleep).await.unwrap();
        socket.write_all(&data[..cut]).await.unwrap();
        // The same byte stream, another host: it knows nothing of the frame it interrupts.
        let client = GuestClient::connect(socket, Transport::Lasting, LIMIT).await.unwrap();
        let captured = client.run(shell("echo mine"), b"", 1000, LIMIT).await.unwrap();
        assert_eq!(captured.stdout, b"mine\n", "cut at {cut}");
    }
}

#[tokio::test]
async fn what_breaks_the_rules_ends_its_own_session_only() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let breaking = [
        frame(0, Kind::Open, b"{}"),
        frame(5, Kind::Data, b"never opened"),
        frame(1, Kind::Close, b"{}"),
        [frame(2, Kind::Open, b"{}"), frame(1, Kind::Open, b"{}")].concat(),
        vec![0xff; 100],
    ];
    for bytes in breaking {
        let mut socket = handshake(&agent).await;
        socket.write_all(&bytes).await.unwrap();
        client.hello(LIMIT).await.unwrap();
    }
    // More data than there is credit.
    let mut socket = handshake(&agent).await;
    let cat = frame(1, Kind::Open, br#"{"verb":"exec","argv":["sleep","600"]}"#);
    socket.write_all(&cat).await.unwrap();
    for _ in 0..1000 {
        let sent = timeout(LIMIT, socket.write_all(&frame(1, Kind::Data, &[0; 10_000]))).await;
        sent.unwrap().unwrap();
    }
    client.hello(LIMIT).await.unwrap();
    assert!(agent.resident() < 8 * 1024, "{} KiB", agent.resident());
}

#[tokio::test]
async fn a_host_that_asks_and_never_reads_is_not_served_for_ever() {
    let agent = Agent::start().await;
    let mut socket = handshake(&agent).await;
    let mut asked = 0_u32;
    // Until the agent stops reading, because its answers have nowhere to go.
    let flood = async {
        loop {
            asked += 1;
            let status = frame(asked, Kind::Open, br#"{"verb":"status"}"#);
            socket.write_all(&status).await.unwrap();
        }
    };
    assert!(timeout(Duration::from_secs(3), flood).await.is_err());
    assert!(asked < 1_000_000);
    answers(&agent).await;
    assert!(agent.resident() < 16 * 1024, "{} KiB", agent.resident());
}

#[tokio::test]
async fn a_guest_that_says_nothing_times_out() {
    let (ours, _theirs) = tokio::io::duplex(1000);
    let limit = Duration::from_millis(100);
    let error = GuestClient::connect(ours, Transport::Lasting, limit).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { .. }), "{error:?}");
}

/// A guest that opens a session and then answers every request with `answer`.
async fn fake_guest(mut socket: tokio::io::DuplexStream, answer: Vec<u8>) {
    let mut open = [0; 64];
    socket.read_exact(&mut open).await.unwrap();
    let open = Block::decode(&open).unwrap();
    let accept = Block { kind: BlockKind::Accept, guest: [9; 16], ..open };
    socket.write_all(&accept.encode()).await.unwrap();
    let mut confirm = [0; 64];
    socket.read_exact(&mut confirm).await.unwrap();
    let mut request = [0; 8];
    while socket.read_exact(&mut request).await.is_ok() {
        let length = usize::from(u16::from_le_bytes([request[4], request[5]]));
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).await.unwrap();
        if socket.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn asked(answer: Vec<u8>) -> GuestError {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(fake_guest(theirs, answer));
    let client = GuestClient::connect(ours, Transport::Fresh, LIMIT).await.unwrap();
    client.hello(Duration::from_millis(500)).await.unwrap_err()
}

#[tokio::test]
async fn a_lying_guest_gets_a_typed_error() {
    let flood = frame(1, Kind::Data, &[0; 50_000]).repeat(4);
    assert!(matches!(asked(flood).await, GuestError::Lost { .. }));
    assert!(matches!(asked(vec![0; 100]).await, GuestError::Lost { .. }));
    assert!(matches!(asked(Vec::new()).await, GuestError::Timeout { .. }));
    let malformed = frame(1, Kind::Close, br#"{"ok":{"version":"\u001b[31m"}}"#);
    let error = asked(malformed).await;
    assert!(matches!(error, GuestError::Protocol { .. }), "{error:?}");
    let escape = frame(1, Kind::Close, br#"{"error":{"kind":"refused","message":"\u001b[31m\n"}}"#);
    let error = asked(escape).await.to_string();
    assert!(!error.contains(|c: char| c.is_control()), "{error:?}");
}

/// Reads a file of a guest that says it has `size` bytes and answers with `data` and silence;
/// less than the client thanks for with new credit.
async fn read_from_liar(size: u64, data: Vec<u8>) -> (Result<u64, GuestError>, Vec<u8>) {
    let stat = format!(
        r#"{{"type":"file","kind":"file","size":{size},"mode":420,"uid":0,"gid":0,"mtime":0}}"#
    );
    let header = |payload: &[u8]| Header {
        stream: 1,
        length: payload.len(),
        kind: Kind::Data,
        channel: FROM_GUEST,
    };
    let pieces = data.chunks(5000).map(|piece| [&header(piece).encode()[..], piece].concat());
    let answer = [frame(1, Kind::Message, stat.as_bytes()), pieces.collect::<Vec<_>>().concat()];
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(fake_guest(theirs, answer.concat()));
    let client = GuestClient::connect(ours, Transport::Fresh, LIMIT).await.unwrap();
    let read = ReadFile { path: "/f".into(), offset: 0, length: None };
    let mut bytes = Vec::new();
    let limit = Duration::from_millis(500);
    let outcome = client.read_file(read, &mut bytes, limit).await.map(|stat| stat.size);
    (outcome, bytes)
}

#[tokio::test]
async fn a_file_has_no_more_bytes_than_it_said() {
    let (outcome, bytes) = read_from_liar(10, vec![7; 20_000]).await;
    assert_eq!((outcome.unwrap(), bytes), (10, vec![7; 10]));
    // What the kernel makes up has no size, and ends all the same.
    let (outcome, bytes) = read_from_liar(0, vec![7; 20_000]).await;
    assert!(matches!(outcome, Err(GuestError::Timeout { .. })), "{outcome:?}");
    assert_eq!(bytes.len(), 20_000);
}
