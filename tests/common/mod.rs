//! What the tests with real guests share: a world of their own and a small vocabulary.
//!
//! A test binary enters a fresh network and mount namespace before it starts a thread, so that
//! no bridge, rule or mount of a test is ever seen by the machine, and none of the machine's by
//! a test. Its scenarios run one after the other on one world and read as sentences.

pub mod harness;
pub mod patience;
#[allow(dead_code, reason = "not every binary has a terminal")]
pub mod terminal;
#[allow(dead_code, reason = "not every binary says every word")]
pub mod world;

pub use harness::{Outcome, main};
pub use world::World;
