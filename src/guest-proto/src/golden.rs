//! Version 1, byte for byte. These tests never change: a guest that slept since the first
//! release sends and expects exactly this. Another meaning is another version.

use crate::block::{Block, BlockKind};
use crate::config::GuestConfig;
use crate::frame::{FLUSH, Header, Kind, MAX_PAYLOAD};
use crate::message::*;
use crate::mux::{Event, FRAME_COST, MAX_STREAMS, Mux, Transport, WINDOW};

const HANDSHAKE: &[u8; 192] = include_bytes!("../golden/v1-handshake.bin");
const SESSION_HOST: &[u8] = include_bytes!("../golden/v1-session-host.bin");
const SESSION_GUEST: &[u8] = include_bytes!("../golden/v1-session-guest.bin");
const REQUESTS: &str = include_str!("../golden/v1-requests.jsonl");
const ANSWERS: &str = include_str!("../golden/v1-answers.jsonl");
const CONFIG: &str = include_str!("../golden/v1-config.json");

const HOST: [u8; 16] = *b"nonce of a host.";
const GUEST: [u8; 16] = *b"nonce of a guest";

#[test]
fn limits_are_those_of_version_1() {
    assert_eq!((MAX_PAYLOAD, FLUSH), (61_440, 61_456));
    assert_eq!((WINDOW, FRAME_COST, MAX_STREAMS), (131_072, 32, 64));
    assert_eq!((crate::VERSION, crate::VSOCK_PORT, crate::PORT_NAME), (1, 5252, "mvm.agent"));
}

#[test]
fn the_handshake_is_that_of_version_1() {
    let block = |kind, guest| Block { kind, version: 1, host: HOST, guest };
    let blocks = [
        block(BlockKind::Open, [0; 16]),
        block(BlockKind::Accept, GUEST),
        block(BlockKind::Confirm, GUEST),
    ];
    for (golden, block) in HANDSHAKE.as_chunks::<64>().0.iter().zip(blocks) {
        assert_eq!(block.encode(), *golden);
        assert_eq!(Block::decode(golden), Some(block));
    }
}

#[test]
fn headers_are_those_of_version_1() {
    let header = |stream, length, kind, channel| Header { stream, length, kind, channel };
    let golden: [(&[u8; 8], Header); 8] = [
        (b"\x01\0\0\0\x10\0\x01\0", header(1, 16, Kind::Open, 0)),
        (b"\x02\x01\0\0\0\x01\x02\0", header(258, 256, Kind::Message, 0)),
        (b"\xff\xff\xff\xff\0\xf0\x03\x02", header(u32::MAX, 61_440, Kind::Data, 2)),
        (b"\x01\0\0\0\0\0\x04\x01", header(1, 0, Kind::Eof, 1)),
        (b"\x01\0\0\0\x04\0\x05\0", header(1, 4, Kind::Credit, 0)),
        (b"\x01\0\0\0\x02\0\x06\0", header(1, 2, Kind::Reset, 0)),
        (b"\x01\0\0\0\x02\0\x07\0", header(1, 2, Kind::Close, 0)),
        (b"\x01\0\0\0\0\0\x08\0", header(1, 0, Kind::Opened, 0)),
    ];
    for (bytes, header) in golden {
        assert_eq!(header.encode(), *bytes);
        assert_eq!(Header::decode(*bytes), Ok(header));
    }
}

fn hand_over(from: &mut Mux, to: &mut Mux, record: &mut Vec<u8>) {
    let bytes = from.output().to_vec();
    from.sent(bytes.len());
    to.feed(&bytes);
    record.extend(bytes);
}

/// A whole session: handshake, `exec` with input and output, outcome, a reset.
#[test]
fn a_session_is_that_of_version_1() {
    let mut host = Mux::host(HOST, Transport::Fresh);
    let mut guest = Mux::guest(|| GUEST);
    let (mut from_host, mut from_guest) = (Vec::new(), Vec::new());
    let mut pass = |host: &mut Mux, guest: &mut Mux| {
        while !host.output().is_empty() || !guest.output().is_empty() {
            hand_over(host, guest, &mut from_host);
            hand_over(guest, host, &mut from_guest);
        }
    };
    pass(&mut host, &mut guest);
    let exec = host.open(br#"{"argv":["cat"],"verb":"exec"}"#).unwrap();
    pass(&mut host, &mut guest);
    host.send(exec, TO_GUEST, b"to and fro");
    host.eof(exec, TO_GUEST);
    let request = std::iter::from_fn(|| guest.next_event()).last();
    let Some(Event::Request(theirs, _)) = request else {
        panic!("no request but {request:?}");
    };
    assert!(guest.message(theirs, &Message::Started { pid: 7 }.to_bytes()));
    guest.send(theirs, FROM_GUEST, b"to and fro");
    guest.eof(theirs, FROM_GUEST);
    guest.close(theirs, &Outcome::Ok(ExecExit::Code(0)).to_bytes());
    pass(&mut host, &mut guest);
    let second = host.open(br#"{"verb":"status"}"#).unwrap();
    host.reset(second, &Failure::new(ErrorKind::Cancelled, "enough"));
    pass(&mut host, &mut guest);
    assert_eq!(from_host, SESSION_HOST);
    assert_eq!(from_guest, SESSION_GUEST);
}

/// Each line is understood, and is what we say ourselves.
#[test]
fn requests_are_those_of_version_1() {
    let mut verbs = Vec::new();
    for line in REQUESTS.lines() {
        let call = Call::from_bytes(line.as_bytes()).unwrap();
        let ours: serde_json::Value = serde_json::from_slice(&call.to_bytes()).unwrap();
        let golden: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(ours, golden);
        let verb = golden["verb"].as_str().unwrap().to_owned();
        if !verbs.contains(&verb) {
            verbs.push(verb);
        }
    }
    assert_eq!(verbs, VERBS);
}

fn is_said<T: serde::Serialize + serde::de::DeserializeOwned>(line: &str) {
    let value: Outcome<T> = Outcome::from_bytes(line.as_bytes()).unwrap();
    let ours: serde_json::Value = serde_json::from_slice(&value.to_bytes()).unwrap();
    assert_eq!(ours, serde_json::from_str::<serde_json::Value>(line).unwrap());
}

#[test]
fn answers_are_those_of_version_1() {
    let readers: [fn(&str); 12] = [
        is_said::<Hello>,
        is_said::<Status>,
        is_said::<ExecExit>,
        is_said::<ExecExit>,
        is_said::<Transferred>,
        is_said::<Done>,
        is_said::<FileStat>,
        is_said::<SleepPrepared>,
        is_said::<Woken>,
        is_said::<Done>,
        is_said::<Done>,
        is_said::<SecretsMounted>,
    ];
    assert_eq!(ANSWERS.lines().count(), readers.len());
    for (line, reader) in ANSWERS.lines().zip(readers) {
        reader(line);
    }
}

#[test]
fn the_config_document_is_that_of_version_1() {
    let config = GuestConfig::from_bytes(CONFIG.as_bytes()).unwrap();
    let ours: serde_json::Value = serde_json::from_slice(&config.to_bytes()).unwrap();
    assert_eq!(ours, serde_json::from_str::<serde_json::Value>(CONFIG).unwrap());
}
