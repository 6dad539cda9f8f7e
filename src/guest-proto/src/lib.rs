//! The words between a host and the agent inside a guest.
//!
//! ```text
//!  byte stream (virtio-serial, AF_VSOCK, unix socket)
//!      │ bytes in                                   ▲ bytes out
//!      ▼                                            │
//!  [`decoder`] ── blocks and frames ──► [`mux`] ── streams with credit ──► caller
//! ```
//!
//! - [`block`]: the handshake that opens a session on a stream that may hold stale bytes.
//! - [`frame`]: the 8-byte header and its limits.
//! - [`mux`]: one state machine for both sides, without I/O.
//! - [`message`]: requests, messages and outcomes (JSON maps inside control frames).
//! - [`config`]: the document on a guest's config drive.
//!
//! `mvm-guest` drives the mux from threads and `poll`, the host side from tokio; both see the
//! same rules. Version 1 is frozen by golden bytes: a guest that slept for months still speaks
//! it, so a change of meaning is a new version, never an edit.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod block;
pub mod config;
pub mod decoder;
pub mod frame;
pub mod message;
pub mod mux;

#[cfg(test)]
mod golden;

/// Protocol version this crate speaks.
pub const VERSION: u8 = 1;
/// Oldest protocol version this crate still speaks.
pub const MIN_VERSION: u8 = 1;
/// AF_VSOCK port the agent listens on.
pub const VSOCK_PORT: u32 = 5252;
/// Name of the virtio-serial port the agent serves.
pub const PORT_NAME: &str = "mvm.agent";
