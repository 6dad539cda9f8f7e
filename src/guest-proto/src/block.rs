//! The handshake: three 64-byte blocks found by scanning, so stale bytes do no harm.
//!
//! ```text
//!  host                                     guest
//!   │ zeros (FLUSH), Open{host nonce}  ────►  │ forgets its session, draws a nonce
//!   │ ◄────  Accept{host nonce, guest nonce}  │
//!   │ Confirm{host nonce, guest nonce} ────►  │ from here on: frames
//! ```
//!
//! Each side acts only on a block that carries *its own* fresh nonce, which no stale byte and
//! no file that happens to pass through the stream can contain.
//!
//! Layout: magic 16, kind 1, version 1, reserved 2, host nonce 16, guest nonce 16, reserved 12.
//! Reserved bytes are written 0 and ignored.

/// Bytes of a block.
pub const BLOCK_LEN: usize = 64;
/// What a block starts with.
pub const MAGIC: [u8; 16] = *b"\0mvm guest open\n";

/// 16 random bytes that make a session unmistakable.
pub type Nonce = [u8; 16];

/// Step of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockKind {
    /// Host to guest: forget everything, open a session.
    Open = 1,
    /// Guest to host: agreed.
    Accept = 2,
    /// Host to guest: frames follow.
    Confirm = 3,
}

/// A handshake block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Step.
    pub kind: BlockKind,
    /// Highest version the sender speaks; in `Confirm` the version of the session.
    pub version: u8,
    /// Drawn by the host.
    pub host: Nonce,
    /// Drawn by the guest; zeros in `Open`.
    pub guest: Nonce,
}

impl Block {
    /// The block's bytes.
    pub fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut bytes = [0; BLOCK_LEN];
        bytes[..16].copy_from_slice(&MAGIC);
        bytes[16] = self.kind as u8;
        bytes[17] = self.version;
        bytes[20..36].copy_from_slice(&self.host);
        bytes[36..52].copy_from_slice(&self.guest);
        bytes
    }

    /// Reads a block; `None` when it is none.
    pub fn decode(bytes: &[u8; BLOCK_LEN]) -> Option<Self> {
        if bytes[..16] != MAGIC {
            return None;
        }
        let kind = match bytes[16] {
            1 => BlockKind::Open,
            2 => BlockKind::Accept,
            3 => BlockKind::Confirm,
            _ => return None,
        };
        let nonce = |from: usize| -> Nonce {
            let mut nonce = [0; 16];
            nonce.copy_from_slice(&bytes[from..from + 16]);
            nonce
        };
        Some(Self { kind, version: bytes[17], host: nonce(20), guest: nonce(36) })
    }
}
