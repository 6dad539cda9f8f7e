//! A shim that systemd started: the supervisor of a VM that is a unit of its own.
//!
//! ```text
//! systemd ── starts ──▶ starter: reads the order, forks, waits ── ends ──▶ the unit is started,
//!                          └▶ supervisor: launches the VMM ─ is up ─┘      its main process is
//!                                         … in the unit, beside it         the VMM (pid file)
//! systemd ── SIGTERM ─▶ supervisor: ends the VMM, writes down how it ended, ends
//! ```

use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mvm_model::vm::ProcessId;
use mvm_vmm::process;
use mvm_vmm::supervisor::Supervised;
use nix::unistd::{ForkResult, fork};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Order, refuse, serve};

/// How long a killed VMM may take to vanish; systemd waits no longer either.
const END: Duration = Duration::from_secs(5);

/// The process systemd started, waiting for the VMM.
pub(super) struct Starter(PipeWriter);

impl Starter {
    /// Lets the starter end: the unit is started.
    pub(super) fn vm_is_up(mut self) {
        // An error means that the starter was killed, and with it the unit.
        let _ = self.0.write_all(b"1");
    }
}

/// From here on a stop of the unit is a stop of the VM, and memory may get short in it without us
/// being what is ended for that. Who took the VM over comes into its unit first: elsewhere whoever
/// stops us means something else. Children inherit what is set here, so it comes after the VMM's
/// start.
///
/// # Errors
/// Why a stop of the unit will not reach us. The VM runs all the same.
pub(super) fn stand_by(vm: &Supervised) -> io::Result<()> {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", vm.process().pid))?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let group = group.ok_or_else(|| io::Error::other("its VM is in no control group"))?;
    let signals = signal(SignalKind::terminate())?;
    fs::write(format!("/sys/fs/cgroup{group}/cgroup.procs"), "0")?;
    tokio::spawn(end_when_told(signals, vm.process().clone(), vm.told()));
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("cannot save ourselves from the memory limit: {error}");
    }
    Ok(())
}

async fn end_when_told(mut signals: Signal, vm: ProcessId, told: Arc<AtomicBool>) {
    while signals.recv().await.is_some() {
        // Of a VM that ended by itself, or was too large, systemd ends the rest: nobody asked for
        // that.
        if process::is_alive(&vm) && !was_too_large() {
            told.store(true, Ordering::SeqCst);
        }
        if let Err(error) = process::kill(&vm, END).await {
            eprintln!("cannot end the VM: {error}");
        }
    }
}

/// Whether the kernel ended something of our unit for its memory. It may take a while to be gone.
fn was_too_large() -> bool {
    let group = || {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        fs::read_to_string(format!("/sys/fs/cgroup{group}/memory.events")).ok()
    };
    let events = group().unwrap_or_default();
    let killed = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    killed.is_some_and(|count| count != "0")
}

/// The starter. No thread exists yet.
pub(super) fn main(order: Order) -> ExitCode {
    match io::pipe().and_then(|pipe| take_log(&order).map(|()| pipe)) {
        Err(error) => refuse("unit", &error.to_string()),
        Ok((mut reader, writer)) => {
            // SAFETY: this process has one thread, so the child may do anything.
            match unsafe { fork() } {
                Err(error) => refuse("fork", &error.to_string()),
                Ok(ForkResult::Child) => {
                    drop(reader);
                    let _ = nix::unistd::setsid();
                    serve(order, Some(Starter(writer)))
                }
                Ok(ForkResult::Parent { .. }) => {
                    drop(writer);
                    let mut word = [0];
                    // The end without a word is a VM that does not run: the report said why.
                    match reader.read(&mut word) {
                        Ok(1) => ExitCode::SUCCESS,
                        _ => ExitCode::FAILURE,
                    }
                }
            }
        }
    }
}

/// Makes the supervisor's log our stderr, locked for as long as we live.
fn take_log(order: &Order) -> io::Result<()> {
    let id = order.task.instance().ok_or_else(|| io::Error::other("no instance is named"))?;
    let path = order.dirs.supervisor_log(id);
    let log = fs::OpenOptions::new().create(true).append(true).open(path)?;
    log.try_lock().map_err(io::Error::other)?;
    nix::unistd::dup2_stderr(log.as_fd())?;
    Ok(())
}
