//! One state machine for both ends of the stream, without I/O.
//!
//! ```text
//!            ┌────────────── peer's Open block / framing error / lost() ──────────────┐
//!            ▼                                                                        │
//!  guest: Waiting ──Open──► Offered ──Confirm (our nonce)──► Open ──────────────────────┤
//!  host:  Opening ──Accept (our nonce)──────────────────────► Open ──violation──► Broken┘
//! ```
//!
//! The owner feeds received bytes with [`Mux::feed`], sends what [`Mux::output`] holds, and acts
//! on [`Mux::next_event`]. A request is a stream: the host opens it, data flows on numbered
//! channels, the guest closes it with an outcome or either side resets it. Streams are named by
//! a [`StreamKey`] that also carries the session, so a handle that outlived its session sees
//! [`Inbound::Lost`] and never another request's data.
//!
//! Memory is bounded whatever the peer sends: per stream by [`WINDOW`] (a data or message frame
//! costs its length plus [`FRAME_COST`]; more than the credit is a violation), in number by
//! [`MAX_STREAMS`], output by [`OUTPUT_HIGH`] (data waits, and the owner of a guest's end stops
//! reading while [`Mux::wants_input`] is false).

use std::collections::{BTreeMap, VecDeque};

use crate::block::{Block, BlockKind, Nonce};
use crate::decoder::{Decoder, Piece};
use crate::frame::{DATA_CHUNK, FLUSH, Frame, Header, Kind, MAX_PAYLOAD};
use crate::message::{ErrorKind, Failure};
use crate::{MIN_VERSION, VERSION};

mod send;
mod stream;

pub use stream::Inbound;
use stream::Stream;

/// Bytes a sender may have on its way on one stream, in each direction.
pub const WINDOW: u32 = 128 * 1024;
/// What a frame costs besides its payload, so that tiny frames are not free.
pub const FRAME_COST: u32 = 32;
/// Streams open at once in a session.
pub const MAX_STREAMS: usize = 64;
/// Output above which data waits and no more input should be read.
pub const OUTPUT_HIGH: usize = 128 * 1024;
/// Credit a sender can be given in all; more is a violation.
const MAX_CREDIT: u32 = 1 << 24;

/// A stream of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    session: u32,
    id: u32,
}

/// Something the owner should act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The session is open; host: streams can be opened.
    SessionOpened,
    /// The session ended; all its streams are lost. A guest waits for the next one.
    SessionLost(Violation),
    /// Guest: a new stream with its request.
    Request(StreamKey, Vec<u8>),
    /// Input, credit or an end came for this stream.
    Stream(StreamKey),
    /// Output drained: senders that found no room can go on.
    Writable,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// No session is open.
    NoSession,
    /// [`MAX_STREAMS`] are open.
    TooManyStreams,
    /// The request is larger than [`MAX_PAYLOAD`].
    TooLarge,
}

/// What the transport may already hold when a host opens a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A connection of its own: nothing was ever sent on it.
    Fresh,
    /// A lasting stream (virtio-serial): the peer may be in the middle of an older frame.
    Lasting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Waiting,
    Offered { host: Nonce, guest: Nonce },
    Opening { host: Nonce },
    Open,
    Broken,
}

/// Which side we are, with what only that side has.
#[derive(Debug, Clone, Copy)]
enum Side {
    Host,
    Guest { fresh_nonce: fn() -> Nonce },
}

/// The state machine. See the module's header.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    session: Session,
    /// Counts sessions; part of every [`StreamKey`].
    epoch: u32,
    decoder: Decoder,
    streams: BTreeMap<u32, Stream>,
    /// Highest id opened in this session.
    last_id: u32,
    output: VecDeque<u8>,
    /// A sender found no room since the output was last low.
    starved: bool,
    events: VecDeque<Event>,
}

impl Mux {
    fn new(side: Side, session: Session) -> Self {
        Self {
            side,
            session,
            epoch: 1,
            decoder: Decoder::default(),
            streams: BTreeMap::new(),
            last_id: 0,
            output: VecDeque::new(),
            starved: false,
            events: VecDeque::new(),
        }
    }

    /// The guest's end; `fresh_nonce` is called for each session a host opens.
    pub fn guest(fresh_nonce: fn() -> Nonce) -> Self {
        Self::new(Side::Guest { fresh_nonce }, Session::Waiting)
    }

    /// The host's end. `nonce` is random and never used twice.
    pub fn host(nonce: Nonce, transport: Transport) -> Self {
        let mut mux = Self::new(Side::Host, Session::Opening { host: nonce });
        mux.offer(nonce, transport);
        mux
    }

    /// Host: opens a new session on the same transport, which may hold anything.
    pub fn reopen(&mut self, nonce: Nonce) {
        if matches!(self.side, Side::Host) {
            self.forget_session();
            self.decoder.scan();
            self.offer(nonce, Transport::Lasting);
        }
    }

    fn offer(&mut self, host: Nonce, transport: Transport) {
        self.session = Session::Opening { host };
        if transport == Transport::Lasting {
            self.output.resize(FLUSH, 0);
        }
        let open = Block { kind: BlockKind::Open, version: VERSION, host, guest: [0; 16] };
        self.output.extend(open.encode());
    }

    /// True while a session is open.
    pub fn is_open(&self) -> bool {
        self.session == Session::Open
    }

    /// Number of streams that are open.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Host: a request was sent of which the guest did not say yet that it saw it.
    pub fn awaits_answer(&self) -> bool {
        self.streams.values().any(Stream::is_unanswered)
    }

    /// False while too much output waits: a peer that does not read is not read from. A host
    /// always reads, or two full outputs would wait for each other; nothing a guest sends makes
    /// a host say more than the credit it is given.
    pub fn wants_input(&self) -> bool {
        matches!(self.side, Side::Host) || self.output.len() < OUTPUT_HIGH
    }

    /// Bytes to send now; acknowledge what was sent with [`Mux::sent`].
    pub fn output(&self) -> &[u8] {
        let (front, back) = self.output.as_slices();
        if front.is_empty() { back } else { front }
    }

    /// The first `n` bytes of [`Mux::output`] were sent.
    pub fn sent(&mut self, n: usize) {
        let n = n.min(self.output.len());
        // What was sent may be secret, and a guest's memory is written to disk when it sleeps.
        let (front, back) = self.output.as_mut_slices();
        let in_front = n.min(front.len());
        front[..in_front].fill(0);
        back[..n - in_front].fill(0);
        self.output.drain(..n);
        if self.starved && self.output.len() < OUTPUT_HIGH / 2 {
            self.starved = false;
            self.events.push_back(Event::Writable);
        }
    }

    /// What happened since the last call.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Guest: tells a host that may believe in an older session that there is none. Zeros are no
    /// frame, so it notices at once; a host that is opening a session does not mind.
    pub fn disown(&mut self) {
        if matches!(self.side, Side::Guest { .. }) {
            self.output.resize(self.output.len() + FLUSH, 0);
        }
    }

    /// The transport ended. A guest waits for the next session, a host is done.
    pub fn lost(&mut self, why: &str) {
        self.end_session(Violation(why.to_owned()));
    }

    /// Takes bytes from the transport.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        loop {
            let outcome = match self.decoder.next_piece() {
                Ok(None) => return,
                Ok(Some(Piece::Block(block))) => {
                    self.on_block(block);
                    Ok(())
                }
                Ok(Some(Piece::Frame(frame))) => self.on_frame(frame),
                Err(error) => Err(Violation(error.to_string())),
            };
            if let Err(violation) = outcome {
                self.end_session(violation);
            }
        }
    }

    fn end_session(&mut self, why: Violation) {
        let was_open = self.session == Session::Open;
        self.session = match self.side {
            Side::Host => Session::Broken,
            Side::Guest { .. } => Session::Waiting,
        };
        self.decoder.scan();
        self.forget_session();
        self.events.clear();
        if was_open {
            self.disown();
        }
        if was_open || matches!(self.side, Side::Host) {
            self.events.push_back(Event::SessionLost(why));
        }
    }

    fn forget_session(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.streams.clear();
        self.last_id = 0;
        self.output.clear();
        self.starved = false;
    }

    fn on_block(&mut self, block: Block) {
        match (self.side, self.session, block.kind) {
            (
                Side::Guest { fresh_nonce },
                Session::Waiting | Session::Offered { .. },
                BlockKind::Open,
            ) => {
                if block.version < MIN_VERSION {
                    return;
                }
                let (host, guest) = (block.host, fresh_nonce());
                self.forget_session();
                self.session = Session::Offered { host, guest };
                let accept = Block { kind: BlockKind::Accept, version: VERSION, host, guest };
                self.output.extend(accept.encode());
            }
            (Side::Guest { .. }, Session::Offered { host, guest }, BlockKind::Confirm)
                if block.host == host && block.guest == guest =>
            {
                self.open_session();
            }
            (Side::Host, Session::Opening { host }, BlockKind::Accept) if block.host == host => {
                let version = block.version.min(VERSION);
                if version < MIN_VERSION {
                    let spoken = block.version;
                    self.end_session(Violation(format!("guest speaks version {spoken} only")));
                    return;
                }
                let confirm = Block { kind: BlockKind::Confirm, version, host, guest: block.guest };
                self.output.extend(confirm.encode());
                self.open_session();
            }
            _ => {}
        }
    }

    fn open_session(&mut self) {
        self.session = Session::Open;
        self.decoder.read_frames();
        self.events.push_back(Event::SessionOpened);
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), Violation> {
        match (self.side, frame.kind) {
            (Side::Guest { .. }, Kind::Open) => self.on_open(frame),
            (Side::Guest { .. }, Kind::Close | Kind::Opened) | (Side::Host, Kind::Open) => {
                Err(Violation(format!("{:?} from the wrong side", frame.kind)))
            }
            _ if frame.stream > self.last_id => {
                Err(Violation(format!("stream {} was never opened", frame.stream)))
            }
            _ => self.on_stream_frame(frame),
        }
    }

    fn on_open(&mut self, frame: Frame) -> Result<(), Violation> {
        if frame.stream <= self.last_id {
            return Err(Violation(format!("stream {} was opened twice", frame.stream)));
        }
        self.last_id = frame.stream;
        if self.streams.len() >= MAX_STREAMS {
            let busy = Failure::new(ErrorKind::Busy, "too many requests at once");
            self.push_frame(frame.stream, Kind::Reset, 0, &busy.to_bytes());
            return Ok(());
        }
        self.streams.insert(frame.stream, Stream::default());
        self.push_frame(frame.stream, Kind::Opened, 0, &[]);
        let key = self.key(frame.stream);
        self.events.push_back(Event::Request(key, frame.payload));
        Ok(())
    }

    fn on_stream_frame(&mut self, frame: Frame) -> Result<(), Violation> {
        let id = frame.stream;
        // A stream that ended here may still be on its way to ending there.
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.take(frame)?;
        let key = self.key(id);
        // One note per stream is enough, and keeps a flood of tiny frames from piling up notes.
        if self.events.back() != Some(&Event::Stream(key)) {
            self.events.push_back(Event::Stream(key));
        }
        Ok(())
    }

    fn key(&self, id: u32) -> StreamKey {
        StreamKey { session: self.epoch, id }
    }

    fn push_frame(&mut self, stream: u32, kind: Kind, channel: u8, payload: &[u8]) {
        let header = Header { stream, length: payload.len(), kind, channel };
        self.output.extend(header.encode());
        self.output.extend(payload);
    }
}

#[cfg(test)]
mod tests;
