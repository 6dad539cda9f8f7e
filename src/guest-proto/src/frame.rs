//! One frame: an 8-byte header and its payload, little endian.
//!
//! ```text
//!  0        4          6      7         8
//!  ├ stream ┼ length   ┼ kind ┼ channel ┼ payload (length bytes) …
//! ```
//!
//! Kind 0 never exists: [`FLUSH`] zero bytes therefore end any half-received frame and make
//! the next header invalid. That is how a host takes over a stream of unknown state, and how a
//! guest says that a session is no more.

/// Bytes of a header.
pub const HEADER_LEN: usize = 8;
/// Largest payload of any frame.
pub const MAX_PAYLOAD: usize = 60 * 1024;
/// Largest piece of data a sender puts into one frame; keeps control frames prompt.
pub const DATA_CHUNK: usize = 16 * 1024;
/// Zero bytes that complete whatever frame a peer may be in the middle of.
pub const FLUSH: usize = MAX_PAYLOAD + 2 * HEADER_LEN;
/// Channels a stream has, numbered from 0.
pub const CHANNELS: u8 = 4;

/// What a frame does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Host: opens a stream; payload is the request.
    Open = 1,
    /// A control message on a stream.
    Message = 2,
    /// Raw bytes on one channel.
    Data = 3,
    /// No more data on one channel.
    Eof = 4,
    /// The receiver consumed; payload is a `u32` to add to the sender's credit.
    Credit = 5,
    /// Either side gives the stream up; payload is a failure.
    Reset = 6,
    /// Guest: the request is done; payload is its outcome.
    Close = 7,
    /// Guest: the request was seen and is being worked on.
    Opened = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Open,
            2 => Self::Message,
            3 => Self::Data,
            4 => Self::Eof,
            5 => Self::Credit,
            6 => Self::Reset,
            7 => Self::Close,
            8 => Self::Opened,
            _ => return None,
        })
    }
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Stream the frame belongs to; never 0.
    pub stream: u32,
    /// Payload bytes that follow.
    pub length: usize,
    /// What the frame does.
    pub kind: Kind,
    /// Channel, for data and end of data; 0 otherwise.
    pub channel: u8,
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Stream the frame belongs to.
    pub stream: u32,
    /// What the frame does.
    pub kind: Kind,
    /// Channel, for data and end of data.
    pub channel: u8,
    /// Content.
    pub payload: Vec<u8>,
}

/// Bytes that are not a frame of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The kind byte is none we know.
    Kind(u8),
    /// The length is above [`MAX_PAYLOAD`], or wrong for the kind.
    Length(usize),
    /// The channel does not exist or the kind has none.
    Channel(u8),
    /// Stream 0.
    Stream,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "frame of unknown kind {kind}"),
            Self::Length(length) => write!(f, "frame of impossible length {length}"),
            Self::Channel(channel) => write!(f, "frame on impossible channel {channel}"),
            Self::Stream => f.write_str("frame on stream 0"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError`] for anything version 1 never sends; the stream is then out of step.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [a, b, c, d, low, high, kind, channel] = bytes;
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        let stream = u32::from_le_bytes([a, b, c, d]);
        if stream == 0 {
            return Err(FrameError::Stream);
        }
        let length = usize::from(u16::from_le_bytes([low, high]));
        let length_fits = match kind {
            Kind::Credit => length == 4,
            Kind::Eof | Kind::Opened => length == 0,
            _ => length <= MAX_PAYLOAD,
        };
        if !length_fits {
            return Err(FrameError::Length(length));
        }
        let channels = if matches!(kind, Kind::Data | Kind::Eof) { CHANNELS } else { 1 };
        if channel >= channels {
            return Err(FrameError::Channel(channel));
        }
        Ok(Self { stream, length, kind, channel })
    }

    /// Writes a header.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d] = self.stream.to_le_bytes();
        // Callers never build a frame above MAX_PAYLOAD, which fits 16 bits.
        let [low, high] = u16::try_from(self.length).unwrap_or(u16::MAX).to_le_bytes();
        [a, b, c, d, low, high, self.kind as u8, self.channel]
    }
}
