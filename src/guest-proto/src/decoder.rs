//! Bytes to blocks and frames.
//!
//! Two modes. *Scanning* looks for handshake blocks and discards everything else; *framed*
//! reads frames and stops at the first byte that cannot be one. The mux decides the mode. The
//! decoder holds at most one frame (or 63 bytes of a possible block) between two calls to
//! [`Decoder::push`] that are each followed by draining [`Decoder::next`].

use crate::block::{BLOCK_LEN, Block, MAGIC};
use crate::frame::{Frame, FrameError, HEADER_LEN, Header};

/// How bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Scanning,
    Framed,
}

/// What was found in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A handshake block.
    Block(Block),
    /// A frame.
    Frame(Frame),
}

/// Cuts a byte stream into pieces.
#[derive(Debug)]
pub struct Decoder {
    mode: Mode,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were used up.
    start: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { mode: Mode::Scanning, buffer: Vec::new(), start: 0 }
    }
}

impl Decoder {
    /// Adds bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// From the next byte on, reads frames.
    pub fn read_frames(&mut self) {
        self.mode = Mode::Framed;
    }

    /// From the next byte on, looks for a block.
    pub fn scan(&mut self) {
        self.mode = Mode::Scanning;
    }

    /// Bytes held, for the tests of boundedness.
    pub fn held(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The next piece, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`] in framed mode; nothing is consumed, the caller is expected to [`scan`].
    ///
    /// [`scan`]: Decoder::scan
    pub fn next_piece(&mut self) -> Result<Option<Piece>, FrameError> {
        match self.mode {
            Mode::Scanning => Ok(self.next_block().map(Piece::Block)),
            Mode::Framed => Ok(self.next_frame()?.map(Piece::Frame)),
        }
    }

    fn next_block(&mut self) -> Option<Block> {
        loop {
            self.start += possible_magic(&self.buffer[self.start..]);
            let block: &[u8; BLOCK_LEN] = self.buffer[self.start..].first_chunk()?;
            match Block::decode(block) {
                Some(block) => {
                    self.start += BLOCK_LEN;
                    return Some(block);
                }
                None => self.start += 1,
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let Header { stream, length, kind, channel } = Header::decode(*header)?;
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.start += HEADER_LEN + length;
        Ok(Some(Frame { stream, kind, channel, payload }))
    }
}

/// Offset of the first place where the magic is, or may still turn out to be once more bytes
/// have come; the length of `bytes` when there is none.
fn possible_magic(bytes: &[u8]) -> usize {
    let starts_like_magic = |at: &usize| {
        let rest = &bytes[*at..];
        let n = rest.len().min(MAGIC.len());
        rest[..n] == MAGIC[..n]
    };
    (0..bytes.len()).find(starts_like_magic).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests;
