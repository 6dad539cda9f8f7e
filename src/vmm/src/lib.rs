//! One VM process: how it is started and confined, driven, saved, restored, ended and proven.
//!
//! Knows neither the host's network, drives and cgroups nor what is said to the guest: it is
//! given paths, a tap's descriptor and a uid, and it leaves sockets, logs and records in one run
//! directory.
//!
//! ```text
//! <run dir>/                 root's, 0700
//!   qmp.sock                 QEMU's monitor        AnyVmm::connect
//!   agent.sock               the guest agent's port, one client at a time (QEMU listens)
//!   console.log, .1          serial console, two segments of 256 KiB    supervisor::ring::read
//!   vmm.log, .1              what the VMM itself says, likewise
//!   vmm.json                 RunningRecord: process, supervisor, VMM; while it runs
//!   exit.json                ExitRecord: how it ended, last lines
//! ```
//!
//! # For the `mvm` binary
//! Two hidden subcommands, both dispatched before any thread exists:
//! - `__confine`: `return confine::main()`.
//! - `__shim`, in a session of its own: read a [`Launch`] from stdin, open the tap, then
//!   [`supervisor::start`]`(&launch, tap, &Trampoline::this_program("__confine"))`; send a
//!   [`Report`] on stdout and close it; [`Supervised::wait`]. Ends after the VM.
//!
//! # For the instance driver
//! - start or wake: spawn the shim, [`Report::receive`] its line; `Started` carries the
//!   [`ProcessId`](mvm_model::vm::ProcessId). Kernel and initrd must have mode 0444.
//! - [`AnyVmm::connect`] and the trait [`Vmm`]: status, pause, resume, snapshot, restore, quit.
//! - a wake: launch with [`StartMode::Restore`], [`Vmm::restore`], patch, write the consumed
//!   mark, [`Vmm::resume`].
//! - [`process::kill`], [`process::Handle`] to end a VM or see its end; [`ExitRecord::load`] for
//!   the reason.
//! - [`probe`]: whether this host can run guests at all, proven by doing it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod confine;
mod files;
pub mod firecracker;
mod placement;
pub mod probe;
pub mod process;
pub mod qemu;
mod snapshot;
pub mod spec;
pub mod supervisor;
pub mod systemd;
#[cfg(test)]
mod testing;
mod text;
mod vmm;

pub use placement::{Limits, Placement, slice_name, unit_name};
pub use snapshot::SnapshotFiles;
pub use spec::{Access, BadSpec, Drive, Net, StartMode, VmSpec};
pub use supervisor::{
    ExitKind, ExitRecord, GuestEnd, Jailed, Launch, Program, Report, RunningRecord, StartError,
    Supervised, Trampoline,
};
pub use vmm::{
    AnyVmm, RestoreError, RunState, SnapshotDone, SnapshotError, Vmm, VmmError, transfer_deadline,
};
