//! What to do: pure functions over model values. No I/O, no clock, no random numbers.
//!
//! ```text
//!  Intent ─► place ─► DesiredState ┐
//!                                  ├─► host ─► Plan { steps, notes } ─► the agent executes
//!  the host ─► Observed ───────────┘      each step in order, then observes again
//! ```
//!
//! - [`place`]: which node gets what of an Intent.
//! - [`host`](self::host()): what one node has to do, in which order, and what waits for what.
//! - [`idle`]: when an idle instance is parked, and why not.
//! - [`explain()`]: the same decisions in words, for `pool explain`.
//!
//! The caller repeats plan → execute → observe until a plan has no steps, or a pass changed
//! nothing. Steps never depend on what is only known after an earlier step of the same plan: an
//! instance that has to be created is started by the next one.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod account;
#[doc(hidden)]
pub mod bench;
mod explain;
mod host;
pub mod idle;
mod note;
pub mod place;
mod slots;
mod step;
mod terms;

pub use explain::{Explained, explain};
pub use host::{host, rank};
pub use note::{About, Note, Reason};
pub use step::{Ensure, Plan, Step, Why};
pub use terms::{Order, Overrides, Removal, Terms};

#[doc(hidden)]
pub use bench::bench_input;
