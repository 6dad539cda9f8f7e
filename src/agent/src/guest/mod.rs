//! The host's end of a guest agent: a client, and the relay that shares one port.
//!
//! ```text
//!  CLI, agent ──GuestClient──┐
//!  CLI, agent ──GuestClient──┤ unix socket   ┌───────┐  virtio-serial
//!  CLI, agent ──GuestClient──┴──────────────►│ relay ├───────────────► mvm-guest   (QEMU)
//!                                            └───────┘
//!  CLI, agent ──GuestClient── unix socket, CONNECT 5252 ─── vsock ───► mvm-guest   (Firecracker)
//! ```
//!
//! Both ways speak the same protocol (`mvm_guest_proto`), so a client does not know which it is
//! on. Nothing a guest says is trusted: every call has a deadline, every collection a cap, and
//! text meant for people loses its control characters.

mod client;
mod dial;
mod error;
mod files;
mod logs;
mod port;
mod process;
pub mod relay;
mod session;
mod stream;
pub(crate) mod vsock;

pub use client::{GuestClient, fresh_id};
pub use dial::{DialError, connect_firecracker, connect_unix};
pub use error::GuestError;
pub use logs::LogStream;
pub use mvm_guest_proto::message as proto;
pub use mvm_guest_proto::mux::Transport;
pub use process::{Captured, Process, ProcessEvent, ProcessInput};

#[cfg(test)]
mod tests;
