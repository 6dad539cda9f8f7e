//! One host's kernel and disk things: network, drives, snapshots, secrets, images, facts.
//!
//! Plain modules, no trait between them; called by `mvm-agent` only. Nothing here knows what a
//! VMM is or decides what should exist: callers say so, these modules make it so, idempotently.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod child;
pub mod drive;
pub mod facts;
pub mod file;
pub mod image;
pub mod lock;
pub mod net;
pub mod packages;
pub mod progress;
pub mod secrets;
pub mod snapshot;
