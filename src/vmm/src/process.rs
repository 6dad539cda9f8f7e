//! Who a process is, whether it still lives, and how to end it without ever touching another.
//!
//! A pid is reused by the kernel; so every signal goes through a pidfd that was opened and *then*
//! checked against start time and boot id. Works for processes that are not our children, which
//! is the usual case: a VM outlives the CLI and the agent that started it.

mod pidfd;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mvm_model::vm::ProcessId;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Reads who a pid is now; call it while the pid is certain to be the wanted process (a child
/// that was not waited for yet).
///
/// # Errors
/// `NotFound` when there is no such process, otherwise what reading `/proc` said.
pub fn identify(pid: u32) -> io::Result<ProcessId> {
    let stat = read_stat(pid)?;
    Ok(ProcessId { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? })
}

/// Whether exactly this process still runs; a zombie does not.
pub fn is_alive(process: &ProcessId) -> bool {
    let lives =
        |stat: Stat| stat.start_ticks == process.start_ticks && !matches!(stat.state, 'Z' | 'X');
    is_of_this_boot(process) && read_stat(process.pid).is_ok_and(lives)
}

/// The id of this boot of the host.
///
/// # Errors
/// What reading `/proc/sys/kernel/random/boot_id` said.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn is_same(process: &ProcessId) -> bool {
    is_of_this_boot(process)
        && read_stat(process.pid).is_ok_and(|stat| stat.start_ticks == process.start_ticks)
}

/// The boot's id is read once: it outlives every process that asks, and hundreds of VMs are asked
/// about at once.
fn is_of_this_boot(process: &ProcessId) -> bool {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return *boot == process.boot_id;
    }
    boot_id().is_ok_and(|boot| *BOOT.get_or_init(|| boot) == process.boot_id)
}

struct Stat {
    state: char,
    start_ticks: u64,
    /// The status word kept for the parent; real for a zombie, shown to the privileged.
    exit_code: i32,
}

fn read_stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is malformed")))
}

/// The program's name (field 2) may hold blanks and parentheses, so fields count from the last
/// closing one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    let exit_code = fields.nth(29).and_then(|field| field.parse().ok()).unwrap_or(0);
    Some(Stat { state, start_ticks, exit_code })
}

/// How long the process's most starved thread was ready to run without getting a CPU since it
/// began: tells a slow host from a hanging process. Zero where the kernel does not count.
pub fn waited_for_cpu(process: &ProcessId) -> Duration {
    let threads = fs::read_dir(format!("/proc/{}/task", process.pid));
    let of_thread = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    let longest = threads.into_iter().flatten().flatten().filter_map(of_thread).max();
    Duration::from_nanos(longest.unwrap_or(0))
}

/// A handle on one process; signals sent through it can reach no other.
#[derive(Debug)]
pub struct Handle(OwnedFd);

/// What waiting ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The process is gone (or a zombie its parent has not collected).
    Gone,
    /// It still ran at the deadline.
    StillRunning,
}

impl Handle {
    /// A handle on exactly this process; `None` when it is gone or its pid means another now.
    ///
    /// # Errors
    /// What `pidfd_open` said, other than that there is no such process.
    pub fn open(process: &ProcessId) -> io::Result<Option<Self>> {
        let fd = match pidfd::open(process.pid) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The pid cannot change hands while the handle is open, so a check after opening holds.
        Ok(is_same(process).then_some(Self(fd)))
    }

    /// Sends a signal; a process that is gone is fine.
    ///
    /// # Errors
    /// What the kernel said, other than that the process is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: the descriptor is open for the duration of the call; a null siginfo means kill().
        let code = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(code) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Blocks until the process is gone or the deadline passed; use [`Self::wait_async`] in a
    /// runtime.
    ///
    /// # Errors
    /// What `poll` said.
    pub fn wait(&self, deadline: Duration) -> io::Result<Waited> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut fds, timeout) {
                Ok(0) if end <= Instant::now() => return Ok(Waited::StillRunning),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(Waited::Gone),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits without blocking the runtime.
    ///
    /// # Errors
    /// What registering the handle with the runtime said.
    pub async fn wait_async(&self, deadline: Duration) -> io::Result<Waited> {
        let fd = self.0.try_clone()?;
        // SAFETY: an OwnedFd answers the same open descriptor for as long as it lives, and it
        // lives inside the AsyncFd.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        match tokio::time::timeout(deadline, fd.readable()).await {
            Ok(ready) => ready.map(|_| Waited::Gone),
            Err(_) => Ok(Waited::StillRunning),
        }
    }
}

impl Handle {
    /// How a process ended that is not our child, as the status word its parent gets; the process
    /// must be gone. `None` when neither `/proc` nor the kernel tells: it was collected before we
    /// looked, and the kernel is older than 6.15.
    pub async fn exit_status(&self, process: &ProcessId) -> Option<i32> {
        // Its new parent collects it within moments, or never.
        for _ in 0..COLLECTED_WITHIN {
            let stat = read_stat(process.pid).ok();
            let zombie = stat.filter(|s| s.state == 'Z' && s.start_ticks == process.start_ticks);
            if let Some(stat) = zombie {
                return Some(stat.exit_code);
            }
            if let Some(status) = pidfd::kept_status(&self.0) {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }
}

/// How often it is looked whether a process was collected.
const COLLECTED_WITHIN: usize = 40;

/// Kills the process and waits until it is gone; one that is gone already is fine.
///
/// # Errors
/// What the kernel said, or `TimedOut` when it still ran at the deadline.
pub async fn kill(process: &ProcessId, deadline: Duration) -> io::Result<()> {
    let Some(handle) = Handle::open(process)? else { return Ok(()) };
    handle.signal(Signal::SIGKILL)?;
    match handle.wait_async(deadline).await? {
        Waited::Gone => Ok(()),
        Waited::StillRunning => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("process {} did not end after SIGKILL", process.pid),
        )),
    }
}

#[cfg(test)]
mod tests;
