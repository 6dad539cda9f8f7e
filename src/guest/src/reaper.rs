//! Children: started and reaped in one place.
//!
//! PID 1 gets orphans besides its own children, so one thread waits for any child and hands the
//! exit to whoever started it. Starting and reaping exclude each other: a child that ends at
//! once is known before it is reaped, and `Command::spawn`, which waits for a child whose `exec`
//! failed, never finds it taken.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use mvm_guest_proto::message::ExecExit;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// A child's end, when it comes.
#[derive(Debug)]
pub(crate) struct Exit {
    status: OnceLock<ExecExit>,
    ended: EventFd,
}

impl Exit {
    /// How it ended; `None` while it runs.
    pub(crate) fn status(&self) -> Option<ExecExit> {
        self.status.get().copied()
    }

    /// Readable from the moment it ended.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Waits for the end, at most `millis`.
    pub(crate) fn wait(&self, millis: u64) -> Option<ExecExit> {
        let timeout = PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX));
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, timeout);
        self.status()
    }
}

/// Starts and reaps children.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    running: Mutex<HashMap<i32, Arc<Exit>>>,
}

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Arc<Exit>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts `command`. The returned [`Child`] is for its pipes and pid only; never wait on it.
    ///
    /// # Errors
    /// What `exec` said.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<(Child, Arc<Exit>)> {
        let ended = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let exit = Arc::new(Exit { status: OnceLock::new(), ended });
        let mut running = self.lock();
        let child = command.spawn()?;
        running.insert(child.id() as i32, Arc::clone(&exit));
        Ok((child, exit))
    }

    /// Does something while no child is between `fork` and `exec`, where it holds copies of all
    /// our descriptors.
    pub(crate) fn without_forks<T>(&self, action: impl FnOnce() -> T) -> T {
        let _running = self.lock();
        action()
    }

    /// Reaps every child that ended. Called after SIGCHLD.
    pub(crate) fn reap(&self) {
        let mut running = self.lock();
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExecExit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExecExit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(_) => continue,
            };
            if let Some(exit) = running.remove(&pid.as_raw()) {
                let _ = exit.status.set(status);
                let _ = exit.ended.write(1);
            }
        }
    }

    /// Ends every program we started, with its session.
    pub(crate) fn end_all(&self) {
        let sessions: Vec<i32> = self.lock().keys().copied().collect();
        for sid in sessions {
            signal_session(sid, Signal::SIGKILL);
        }
    }
}

/// Ends every process of a session: asks with `first`, and kills what is left after `grace_ms`.
pub(crate) fn end_session(sid: i32, first: Signal, grace_ms: u64, exit: &Exit) {
    signal_session(sid, first);
    exit.wait(grace_ms);
    // A process may start another while we look; a few rounds catch it.
    for _ in 0..10 {
        if signal_session(sid, Signal::SIGKILL) == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends `signal` to each process whose session is `sid`; returns how many there were.
fn signal_session(sid: i32, signal: Signal) -> usize {
    let is_member = |process: &crate::process::Process| process.session == sid;
    let members: Vec<_> =
        crate::process::all().filter(|it| is_member(it) && !it.is_zombie).collect();
    for member in &members {
        // It may have ended in the meantime.
        let _ = kill(member.pid(), signal);
    }
    members.len()
}
