//! The program a guest runs by itself: started, captured, started again by its policy.

use std::io::Read;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use mvm_guest_proto::config::{Restart, Workload as Wanted};
use mvm_guest_proto::message::{ExecExit, WorkloadState, WorkloadStatus};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::guest::Guest;
use crate::log::Log;
use crate::program::{self, Program, Terminal};
use crate::reaper::Exit;

/// Bytes of the workload's output that are kept.
const LOG_SIZE: usize = 256 * 1024;
/// A run this long was no failure to start; the backoff begins anew.
const STABLE: Duration = Duration::from_secs(30);
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    status: WorkloadStatus,
    retired: bool,
}

/// The workload and its log.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) log: Log,
    state: Mutex<State>,
    changed: Condvar,
}

impl Default for Workload {
    fn default() -> Self {
        Self { log: Log::new(LOG_SIZE), state: Mutex::default(), changed: Condvar::new() }
    }
}

impl Workload {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it does now; whether its ports answer is not known here.
    pub(crate) fn status(&self) -> WorkloadStatus {
        self.lock().status.clone()
    }

    /// It is not started again from now on.
    pub(crate) fn retire(&self) {
        self.lock().retired = true;
        self.changed.notify_all();
    }

    /// Waits before the next start; false when there shall be none.
    fn pause(&self, delay: Duration) -> bool {
        let end = Instant::now() + delay;
        let mut state = self.lock();
        while !state.retired {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}

/// Starts the workload of the configuration in force, if there is one.
pub(crate) fn start(guest: &Arc<Guest>) {
    let wanted = guest.life().config.as_ref().and_then(|config| config.workload.clone());
    let Some(wanted) = wanted else {
        return;
    };
    let supervised = Arc::clone(guest);
    let thread = thread::Builder::new().name("workload".into()).stack_size(128 * 1024);
    if let Err(error) = thread.spawn(move || supervise(&supervised, &wanted)) {
        guest.problem(format!("cannot start the workload's thread: {error}"));
    }
}

fn supervise(guest: &Guest, wanted: &Wanted) {
    let mut failures_in_row = 0;
    loop {
        let began = Instant::now();
        let exit = run(guest, wanted);
        failures_in_row = if began.elapsed() >= STABLE { 0 } else { failures_in_row + 1 };
        let again = restarts(wanted.restart, exit);
        {
            let mut state = guest.workload.lock();
            state.status.pid = None;
            state.status.last_exit = exit;
            state.status.state = if again { WorkloadState::Backoff } else { WorkloadState::Ended };
        }
        if !again || !guest.workload.pause(delay(failures_in_row)) {
            return;
        }
        let mut state = guest.workload.lock();
        state.status.restarts = state.status.restarts.saturating_add(1);
    }
}

fn restarts(policy: Restart, exit: Option<ExecExit>) -> bool {
    match policy {
        Restart::Always => true,
        Restart::OnFailure => exit != Some(ExecExit::Code(0)),
        Restart::Never => false,
    }
}

/// Doubles with every failure in a row.
fn delay(failures_in_row: u32) -> Duration {
    let doublings = failures_in_row.saturating_sub(1).min(16);
    FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY)
}

/// Runs it once; `None` when it could not be started.
fn run(guest: &Guest, wanted: &Wanted) -> Option<ExecExit> {
    match spawn(guest, wanted) {
        Ok((output, exit, pid)) => {
            let mut state = guest.workload.lock();
            state.status.state = WorkloadState::Running;
            state.status.pid = Some(pid);
            state.status.error = None;
            drop(state);
            Some(capture(output, &exit, &guest.workload.log))
        }
        Err(error) => {
            guest.note(&format!("workload: {error}"));
            guest.workload.lock().status.error = Some(error);
            None
        }
    }
}

fn spawn(guest: &Guest, wanted: &Wanted) -> Result<(io::PipeReader, Arc<Exit>, u32), String> {
    let user = program::user(wanted.user.as_deref()).map_err(|failure| failure.message)?;
    let program = Program {
        argv: &wanted.argv,
        env: &wanted.env,
        cwd: Some(wanted.cwd.as_deref().unwrap_or("/")),
        user: &user,
        terminal: Terminal::None,
    };
    let (output, input) = io::pipe().map_err(|error| error.to_string())?;
    let mut command = program.command().map_err(|failure| failure.message)?;
    let errors = input.try_clone().map_err(|error| error.to_string())?;
    command.stdin(std::process::Stdio::null()).stdout(input).stderr(errors);
    let (child, exit) =
        guest.reaper.spawn(&mut command).map_err(|error| program.failure(&error).message)?;
    Ok((output, exit, child.id()))
}

/// Logs the output until the program ended; what descendants write later is not waited for.
pub(crate) fn capture(mut output: io::PipeReader, exit: &Exit, log: &Log) -> ExecExit {
    let mut buffer = [0; 4096];
    let mut is_open = true;
    loop {
        let ended = exit.status();
        let mut fds = vec![PollFd::new(exit.fd(), PollFlags::POLLIN)];
        if is_open {
            fds.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
        }
        let timeout = if ended.is_some() { PollTimeout::ZERO } else { PollTimeout::NONE };
        let _ = poll(&mut fds, timeout);
        let has_output = fds.get(1).and_then(PollFd::any).unwrap_or(false);
        if has_output {
            match output.read(&mut buffer) {
                Ok(0) | Err(_) => is_open = false,
                Ok(n) => log.push(&buffer[..n]),
            }
        } else if let Some(exit) = ended {
            return exit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_a_limit() {
        assert_eq!(delay(1), Duration::from_millis(200));
        assert_eq!(delay(3), Duration::from_millis(800));
        assert_eq!(delay(u32::MAX), LONGEST_DELAY);
    }

    #[test]
    fn policies_decide_about_another_start() {
        let (good, bad) = (Some(ExecExit::Code(0)), Some(ExecExit::Signal(9)));
        assert!(!restarts(Restart::Never, bad));
        assert!(!restarts(Restart::OnFailure, good));
        assert!(restarts(Restart::OnFailure, bad) && restarts(Restart::OnFailure, None));
        assert!(restarts(Restart::Always, good));
    }

    #[test]
    fn retiring_ends_a_pause() {
        let workload = Workload::default();
        assert!(workload.pause(Duration::ZERO));
        workload.retire();
        assert!(!workload.pause(Duration::from_secs(60)));
    }
}
