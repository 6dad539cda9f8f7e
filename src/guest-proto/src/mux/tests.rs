//! Both ends against each other, and each against what no end should send.

use proptest::prelude::*;

use super::*;
use crate::block::BLOCK_LEN;
use crate::frame::HEADER_LEN;

fn guest() -> Mux {
    Mux::guest(|| [2; 16])
}

fn host() -> Mux {
    Mux::host([1; 16], Transport::Fresh)
}

/// Moves everything from one to the other, in pieces of `size`.
fn pass(from: &mut Mux, to: &mut Mux, size: usize) {
    while !from.output().is_empty() {
        let n = from.output().len().min(size);
        let bytes = from.output()[..n].to_vec();
        from.sent(n);
        to.feed(&bytes);
    }
}

fn exchange(a: &mut Mux, b: &mut Mux) {
    while !a.output().is_empty() || !b.output().is_empty() {
        pass(a, b, usize::MAX);
        pass(b, a, usize::MAX);
    }
}

fn events(mux: &mut Mux) -> Vec<Event> {
    std::iter::from_fn(|| mux.next_event()).collect()
}

/// Both ends of an open session.
fn session() -> (Mux, Mux) {
    let (mut host, mut guest) = (host(), guest());
    exchange(&mut host, &mut guest);
    assert!(host.is_open() && guest.is_open());
    events(&mut host);
    events(&mut guest);
    (host, guest)
}

/// A session with one stream: both ends, and its key at each.
fn stream() -> (Mux, Mux, StreamKey, StreamKey) {
    let (mut host, mut guest) = session();
    let key = host.open(b"request").unwrap();
    exchange(&mut host, &mut guest);
    let Some(Event::Request(guest_key, request)) = guest.next_event() else {
        panic!("no request");
    };
    assert_eq!(request, b"request");
    assert_eq!(host.recv(key), Some(Inbound::Opened));
    (host, guest, key, guest_key)
}

fn raw(stream: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let header = Header { stream, length: payload.len(), kind, channel: 0 };
    [&header.encode()[..], payload].concat()
}

#[test]
fn a_request_is_answered_in_order() {
    let (mut host, mut guest, key, theirs) = stream();
    assert_eq!(host.send(key, 0, b"in"), 2);
    host.eof(key, 0);
    exchange(&mut host, &mut guest);
    assert_eq!(guest.recv(theirs), Some(Inbound::Data(0, b"in".to_vec())));
    assert_eq!(guest.recv(theirs), Some(Inbound::Eof(0)));
    assert_eq!(guest.recv(theirs), None);
    guest.send(theirs, 1, b"out");
    guest.close(theirs, b"done");
    exchange(&mut host, &mut guest);
    assert_eq!(host.recv(key), Some(Inbound::Data(1, b"out".to_vec())));
    assert_eq!(host.recv(key), Some(Inbound::Close(b"done".to_vec())));
    assert_eq!(host.recv(key), Some(Inbound::Lost));
    assert_eq!((host.open_streams(), guest.open_streams()), (0, 0));
}

#[test]
fn data_stops_at_the_window_and_goes_on_with_credit() {
    let (mut host, mut guest, key, theirs) = stream();
    let mut sent = 0;
    while let n @ 1.. = host.send(key, 0, &[7; 50_000]) {
        sent += n;
        exchange(&mut host, &mut guest);
    }
    assert!(sent > 100_000 && sent < WINDOW as usize);
    let mut received = 0;
    while let Some(Inbound::Data(_, bytes)) = guest.recv(theirs) {
        received += bytes.len();
    }
    assert_eq!(received, sent);
    exchange(&mut host, &mut guest);
    assert_eq!(events(&mut host), [Event::Stream(key)]);
    assert!(host.room(key) > 0);
}

#[test]
fn more_than_the_credit_ends_the_session() {
    let (mut host, mut guest, key, theirs) = stream();
    let flood = raw(1, Kind::Data, &[0; 50_000]).repeat(3);
    guest.feed(&flood);
    assert!(matches!(events(&mut guest).last(), Some(Event::SessionLost(_))));
    assert_eq!(guest.recv(theirs), Some(Inbound::Lost));
    // The guest says so, and the host notices.
    exchange(&mut host, &mut guest);
    assert!(matches!(events(&mut host).last(), Some(Event::SessionLost(_))));
    assert_eq!(host.recv(key), Some(Inbound::Lost));
}

#[test]
fn tiny_frames_are_not_free() {
    let (_, mut guest, ..) = stream();
    let most = WINDOW / (FRAME_COST + 1);
    guest.feed(&raw(1, Kind::Data, b"x").repeat(most as usize));
    assert!(guest.is_open());
    guest.feed(&raw(1, Kind::Data, b"x"));
    assert!(!guest.is_open());
}

#[test]
fn a_message_overtakes_data_when_asked_for() {
    let (mut host, mut guest, key, theirs) = stream();
    host.send(key, 0, b"data");
    assert!(host.message(key, b"message"));
    exchange(&mut host, &mut guest);
    assert_eq!(guest.recv_message(theirs), Some(b"message".to_vec()));
    assert_eq!(guest.recv_message(theirs), None);
    assert_eq!(guest.recv(theirs), Some(Inbound::Data(0, b"data".to_vec())));
}

#[test]
fn a_reset_overtakes_everything() {
    let (mut host, mut guest, key, theirs) = stream();
    host.send(key, 0, b"data");
    host.reset(key, &Failure::new(ErrorKind::Cancelled, "no"));
    exchange(&mut host, &mut guest);
    assert!(!guest.is_live(theirs));
    assert!(matches!(guest.recv(theirs), Some(Inbound::Reset(_))));
    // What was on its way is nobody's.
    guest.close(theirs, b"late");
    exchange(&mut host, &mut guest);
    assert!(host.is_open() && guest.is_open());
}

#[test]
fn too_many_streams_are_busy() {
    let (mut host, mut guest) = session();
    for _ in 0..MAX_STREAMS {
        host.open(b"x").unwrap();
    }
    assert_eq!(host.open(b"x"), Err(OpenError::TooManyStreams));
    exchange(&mut host, &mut guest);
    guest.feed(&raw(100, Kind::Open, b"x"));
    assert!(guest.is_open() && guest.open_streams() == MAX_STREAMS);
    let answer = guest.output().to_vec();
    assert!(answer.windows(4).any(|window| window == b"busy"));
    assert_eq!(host.open(&[0; MAX_PAYLOAD + 1]), Err(OpenError::TooLarge));
}

#[test]
fn what_is_against_the_rules_ends_the_session() {
    let breaking = [
        raw(2, Kind::Data, b"never opened"),
        raw(1, Kind::Open, b"twice"),
        raw(1, Kind::Close, b"{}"),
        raw(1, Kind::Opened, b""),
        raw(1, Kind::Credit, &u32::MAX.to_le_bytes()),
        raw(1, Kind::Credit, b"12345"),
        [raw(1, Kind::Eof, b""), raw(1, Kind::Data, b"after the end")].concat(),
        vec![0; HEADER_LEN],
        vec![0xff; HEADER_LEN],
    ];
    for bytes in breaking {
        let (_, mut guest, ..) = stream();
        guest.feed(&bytes);
        assert!(!guest.is_open(), "{bytes:?}");
    }
    let (mut host, ..) = stream();
    host.feed(&raw(9, Kind::Open, b"from a guest"));
    assert!(!host.is_open());
}

#[test]
fn a_host_takes_over_from_the_middle_of_anything() {
    let whole = [raw(1, Kind::Data, &[3; 5000]), raw(1, Kind::Message, b"{}")].concat();
    for cut in [0, 1, 7, 8, 9, 3000, 5008, 5011, whole.len()] {
        let (_, mut guest, _, theirs) = stream();
        guest.feed(&whole[..cut]);
        let mut second = Mux::host([9; 16], Transport::Lasting);
        exchange(&mut second, &mut guest);
        assert!(second.is_open() && guest.is_open(), "cut at {cut}");
        assert_eq!(guest.recv(theirs), Some(Inbound::Lost));
        let lost = events(&mut guest).into_iter().any(|it| matches!(it, Event::SessionLost(_)));
        assert!(lost, "the old session's streams were not told");
    }
}

#[test]
fn stale_bytes_do_not_open_a_session() {
    let mut guest = guest();
    let open = |nonce, guest| Block { kind: BlockKind::Open, version: 1, host: nonce, guest };
    let confirm = Block { kind: BlockKind::Confirm, ..open([5; 16], [0; 16]) };
    guest.feed(&open([5; 16], [0; 16]).encode());
    guest.feed(&confirm.encode());
    guest.feed(&raw(1, Kind::Open, br#"{"verb":"poweroff"}"#));
    assert!(!guest.is_open() && events(&mut guest).is_empty());
    // Nor does an answer to somebody else's opening convince a host.
    let mut host = host();
    let accept = Block { kind: BlockKind::Accept, ..open([5; 16], [2; 16]) };
    host.feed(&accept.encode());
    assert!(!host.is_open());
}

#[test]
fn a_host_that_reopens_starts_anew() {
    let (mut host, mut guest, key, _) = stream();
    host.send(key, 0, b"half of it");
    let half = host.output()[..4].to_vec();
    guest.feed(&half);
    host.reopen([8; 16]);
    exchange(&mut host, &mut guest);
    assert!(host.is_open() && guest.is_open());
    assert_eq!(host.recv(key), Some(Inbound::Lost));
    assert!(host.open(b"again").is_ok() && host.awaits_answer());
    exchange(&mut host, &mut guest);
    assert!(!host.awaits_answer());
}

#[test]
fn output_nobody_takes_stops_input_and_data() {
    let (mut host, mut guest) = session();
    let mut keys = Vec::new();
    for _ in 0..8 {
        host.open(b"x").unwrap();
    }
    exchange(&mut host, &mut guest);
    for event in events(&mut guest) {
        if let Event::Request(key, _) = event {
            keys.push(key);
        }
    }
    for key in &keys {
        while guest.send(*key, 1, &[0; 16_000]) > 0 {}
    }
    assert!(!guest.wants_input() && guest.output().len() < OUTPUT_HIGH + MAX_PAYLOAD);
    assert_eq!((guest.room(keys[7]), guest.message(keys[7], b"{}")), (0, false));
    guest.sent(guest.output().len());
    while !guest.output().is_empty() {
        guest.sent(guest.output().len());
    }
    assert!(guest.wants_input() && events(&mut guest).contains(&Event::Writable));
}

/// Something one side does.
#[derive(Debug, Clone)]
enum Act {
    Open,
    Send(usize, u8, usize),
    Message(usize),
    Eof(usize, u8),
    Recv(usize),
    Reset(usize),
    Close(usize),
    Pass(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let stream = 0..8_usize;
    prop_oneof![
        Just(Act::Open),
        (stream.clone(), 0..4_u8, 0..20_000_usize).prop_map(|(s, c, n)| Act::Send(s, c, n)),
        stream.clone().prop_map(Act::Message),
        (stream.clone(), 0..4_u8).prop_map(|(s, c)| Act::Eof(s, c)),
        stream.clone().prop_map(Act::Recv),
        stream.clone().prop_map(Act::Reset),
        stream.prop_map(Act::Close),
        (1..100_000_usize).prop_map(Act::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever two well-behaved ends do, neither finds fault with the other, and what arrives
    /// on a channel is what was sent on it, in order.
    #[test]
    fn two_ends_understand_each_other(acts in prop::collection::vec((any::<bool>(), act()), 0..200)) {
        let (mut host, mut guest) = session();
        let epochs = (host.epoch, guest.epoch);
        let mut ended = std::collections::BTreeSet::new();
        let mut sent: BTreeMap<(bool, u32, u8), Vec<u8>> = BTreeMap::new();
        let mut got: BTreeMap<(bool, u32, u8), Vec<u8>> = BTreeMap::new();
        let mut opened: u32 = 0;
        for (is_host, act) in acts {
            let (mux, other) =
                if is_host { (&mut host, &mut guest) } else { (&mut guest, &mut host) };
            let session = if is_host { epochs.0 } else { epochs.1 };
            let key = |n: usize| StreamKey { session, id: n as u32 + 1 };
            match act {
                Act::Open if is_host => opened += u32::from(mux.open(b"x").is_ok()),
                Act::Send(n, channel, length) if !ended.contains(&(is_host, n, channel)) => {
                    let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
                    let taken = mux.send(key(n), channel, &bytes);
                    let record = sent.entry((is_host, n as u32, channel)).or_default();
                    record.extend(&bytes[..taken]);
                }
                Act::Message(n) => {
                    mux.message(key(n), b"{}");
                }
                Act::Eof(n, channel) if mux.is_live(key(n)) => {
                    mux.eof(key(n), channel);
                    ended.insert((is_host, n, channel));
                }
                Act::Recv(n) => {
                    if let Some(Inbound::Data(channel, bytes)) = mux.recv(key(n)) {
                        got.entry((!is_host, n as u32, channel)).or_default().extend(bytes);
                    }
                }
                Act::Reset(n) => mux.reset(key(n), &Failure::new(ErrorKind::Cancelled, "")),
                Act::Close(n) if !is_host => mux.close(key(n), b"{}"),
                Act::Pass(n) => {
                    let n = n.min(mux.output().len());
                    let bytes = mux.output()[..n].to_vec();
                    mux.sent(n);
                    other.feed(&bytes);
                }
                _ => {}
            }
            prop_assert!(host.is_open() && guest.is_open());
        }
        for (way, bytes) in got {
            prop_assert!(sent.get(&way).is_some_and(|sent| sent.starts_with(&bytes)));
        }
        prop_assert!(opened <= 200);
    }

    /// Whatever comes, a guest holds little, and the next host gets its session.
    #[test]
    fn nothing_keeps_the_next_host_out(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..20),
        opened in any::<bool>(),
    ) {
        let mut guest = if opened { stream().1 } else { guest() };
        for piece in pieces {
            guest.feed(&piece);
            prop_assert!(guest.output().len() <= OUTPUT_HIGH);
            prop_assert!(guest.open_streams() <= MAX_STREAMS);
        }
        let mut next = Mux::host([9; 16], Transport::Lasting);
        exchange(&mut next, &mut guest);
        prop_assert!(next.is_open() && guest.is_open());
        prop_assert!(guest.decoder.held() < BLOCK_LEN);
    }
}
