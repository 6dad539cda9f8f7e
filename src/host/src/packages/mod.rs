//! What a host needs from its distribution, and how it gets it.
//!
//! Two callers, two verbs. `bootstrap`, `demo` and `doctor` ask for programs on the host:
//! [`needs`] (data) → [`missing`] (which binaries are absent) → [`install`] (apt, as root). The
//! image builder asks for the *content* of packages and installs nothing: [`Fetcher::resolve`]
//! (which versions apt would choose) → [`Fetcher::fetch`] (downloaded and checked by apt, kept
//! in a cache) → [`unpack`].
//!
//! ```text
//! os.rs       which distribution this is, or why it is not one we know
//! catalog.rs  the data: programs by purpose, packages by distribution
//! process.rs  one child process: deadline, cancel, output
//! apt.rs      apt's command line, and what its output means
//! lock.rs     who holds the package manager's lock
//! install.rs  missing, install
//! resolve.rs  which versions an image is made from (cached until apt's lists change)
//! fetch.rs    those packages as files (cached by digest)
//! ```
//!
//! Everything blocks: call it through `spawn_blocking`. Cancelling (a flag in [`Control`]) ends
//! every child but a running `dpkg`, which is left to finish so that no package stays half
//! installed.

mod apt;
mod catalog;
mod error;
mod fetch;
mod install;
mod lock;
mod os;
pub(crate) mod process;
mod resolve;

use std::sync::atomic::{AtomicBool, Ordering};

pub use catalog::{Need, PackageSet, Purpose, needs};
pub use error::PackageError;
pub use fetch::{Fetcher, unpack};
pub use install::{find_program, install, missing};
pub(crate) use lock::describe as describe_process;
pub use os::{Arch, Distro, Os};
pub use resolve::{Package, Resolved};

use crate::progress::{Progress, Sink};

/// How a caller watches and stops long work.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Where progress goes.
    pub sink: Sink<'a>,
    /// Set by the caller (Ctrl-C) to stop at the next safe point.
    pub cancel: &'a AtomicBool,
}

impl<'a> Control<'a> {
    /// Control through a sink and a flag.
    pub fn new(sink: Sink<'a>, cancel: &'a AtomicBool) -> Self {
        Self { sink, cancel }
    }

    /// Whether the caller wants to stop.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Says what is being done, without a measure.
    pub fn say(&self, what: impl Into<String>) {
        (self.sink)(Progress { what: what.into(), done: 0, total: None });
    }

    /// Says how far `what` is.
    pub fn at(&self, what: impl Into<String>, done: u64, total: u64) {
        (self.sink)(Progress { what: what.into(), done, total: Some(total) });
    }
}
