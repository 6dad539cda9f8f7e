//! The wire: what can be asked of an agent, what it answers, and a client that asks.
//!
//! ```text
//!  cli ── Session::call(C) ─┬─ in this process ───────────────► agent::handle(Request) ─► Service
//!                           └─ Client ── HTTP on a unix socket ─► agent::serve ─┘
//! ```
//!
//! Every operation is a struct that is a [`Call`]: its fields are the request, [`Call::Reply`] is
//! the answer. [`Request`] is the closed set of them. On the wire a call is
//! `POST /v1/<noun>/<verb>` with the struct as JSON; the answer is a stream of JSON lines
//! ([`wire::Event`]) that ends with the reply or a [`Failure`]. The bytes of a guest's streams
//! travel on a connection of their own ([`Client::guest`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod client;
pub mod deployment;
mod error;
pub mod event;
pub mod image;
pub mod instance;
pub mod net;
pub mod node;
pub mod pool;
pub mod repair;
mod request;
pub mod secret;
pub mod tenant;
pub mod update;
pub mod wire;

pub use client::Client;
pub use error::{Failure, Kind};
pub use request::{Call, Effect, Request, Unknown};
