//! One child process, run to its end: with a deadline, a way to cancel it, and its output.
//!
//! Used for every tool the package and image modules run. A child leads its own process group,
//! so that it and what it started end together and Ctrl-C reaches it only through us; it dies
//! with us (`PR_SET_PDEATHSIG`) unless it must not be interrupted. The environment is small and
//! in English, so output can be read and builds do not depend on who runs them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::child::ends_with_us;

/// How often the deadline and the cancel flag are looked at while the child is silent.
const TICK_MS: u16 = 50;
/// How often an end is looked for once the child closed its output.
const CLOSED_TICK_MS: u16 = 2;
/// Output kept per stream; what a tool says beyond it is only in the log.
const KEPT_BYTES: usize = 8 << 20;

/// Whether a child may be stopped half way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Killed when cancelled, and with us.
    Kill,
    /// Left to finish (until its deadline): stopping it would leave a mess.
    Finish,
}

/// What to run and how long to wait for it.
pub(crate) struct Job<'a> {
    /// For messages: `downloading packages`.
    pub(crate) what: &'a str,
    /// Program, arguments and what of the environment differs from [`command`]'s.
    pub(crate) command: Command,
    /// Killed after this.
    pub(crate) deadline: Duration,
    /// Set by the caller to stop.
    pub(crate) cancel: &'a AtomicBool,
    /// Whether it may be stopped.
    pub(crate) interrupt: Interrupt,
    /// Where all output is appended, if anywhere.
    pub(crate) log: Option<&'a Path>,
    /// Called with every line of either output.
    pub(crate) on_line: Option<&'a dyn Fn(&str)>,
}

/// How a child ended and what it said.
#[derive(Debug)]
pub(crate) struct Output {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// Why a child did not run to its own end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program is not there.
    #[error("{what}: {program} is not installed")]
    NotInstalled {
        /// What was being done.
        what: String,
        /// The program.
        program: String,
    },
    /// It could not be started or watched.
    #[error("{what}: cannot run {program}")]
    Start {
        /// What was being done.
        what: String,
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{what}: gave up after {seconds} s")]
    Deadline {
        /// What was being done.
        what: String,
        /// How long it had, in seconds.
        seconds: u64,
    },
    /// The caller stopped it.
    #[error("{what}: cancelled")]
    Cancelled {
        /// What was being done.
        what: String,
    },
    /// Its output cannot be logged.
    #[error("{what}: cannot write {path}")]
    Log {
        /// What was being done.
        what: String,
        /// The log file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl RunError {
    /// What a person can do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotInstalled { program, .. } => Some(format!("install {program}")),
            _ => None,
        }
    }
}

/// A command with the environment every child gets: a plain path, English, nobody to ask.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("LC_ALL", "C").env("TZ", "UTC").env("HOME", "/");
    for proxy in ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "TMPDIR"] {
        if let Some(value) = std::env::var_os(proxy) {
            command.env(proxy, value);
        }
    }
    command
}

/// Runs `job` to its end. A non-zero exit is not an error here: see [`Output::status`].
pub(crate) fn run(mut job: Job<'_>) -> Result<Output, RunError> {
    let program = job.command.get_program().to_string_lossy().into_owned();
    if job.cancel.load(Ordering::Relaxed) {
        return Err(RunError::Cancelled { what: job.what.into() });
    }
    let child = start(&mut job, &program)?;
    let started = Instant::now();
    let mut guard = Guard { child, armed: job.interrupt == Interrupt::Kill };
    let fail = |source| RunError::Start { what: job.what.into(), program: program.clone(), source };
    let mut streams = Streams::of(&mut guard.child, &job)?;
    let status = loop {
        streams.read_ready(&job, PollTimeout::from(streams.tick()))?;
        if let Some(status) = guard.child.try_wait().map_err(fail)? {
            break status;
        }
        if job.interrupt == Interrupt::Kill && job.cancel.load(Ordering::Relaxed) {
            return Err(RunError::Cancelled { what: job.what.into() });
        }
        if started.elapsed() > job.deadline {
            guard.armed = true;
            return Err(RunError::Deadline {
                what: job.what.into(),
                seconds: job.deadline.as_secs(),
            });
        }
    };
    while streams.read_ready(&job, PollTimeout::ZERO)? {}
    Ok(streams.finish(status, &job))
}

/// Kills the child's process group unless it was seen to end.
struct Guard {
    child: Child,
    armed: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed && matches!(self.child.try_wait(), Ok(None)) {
            // The pid is ours until it is waited for, so this cannot hit a stranger's group.
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn start(job: &mut Job<'_>, program: &str) -> Result<Child, RunError> {
    let command = &mut job.command;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    if job.interrupt == Interrupt::Kill {
        // This thread waits in `run` until the child ended.
        ends_with_us(command);
    }
    command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            RunError::NotInstalled { what: job.what.into(), program: program.into() }
        }
        _ => RunError::Start { what: job.what.into(), program: program.into(), source },
    })
}

/// The two ends we read, and what came out of them so far.
struct Streams {
    pipes: [Option<Pipe>; 2],
    kept: [Vec<u8>; 2],
    lines: [Vec<u8>; 2],
    log: Option<File>,
}

enum Pipe {
    Out(std::process::ChildStdout),
    Err(std::process::ChildStderr),
}

impl Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Out(pipe) => pipe.read(buffer),
            Self::Err(pipe) => pipe.read(buffer),
        }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Out(pipe) => pipe.as_fd(),
            Self::Err(pipe) => pipe.as_fd(),
        }
    }
}

impl Streams {
    fn of(child: &mut Child, job: &Job<'_>) -> Result<Self, RunError> {
        let open = |path: &Path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|s| log_error(job, path, s))
        };
        let log = job.log.map(open).transpose()?;
        let pipes = [child.stdout.take().map(Pipe::Out), child.stderr.take().map(Pipe::Err)];
        Ok(Self { pipes, kept: [Vec::new(), Vec::new()], lines: [Vec::new(), Vec::new()], log })
    }

    /// How long to wait for more.
    fn tick(&self) -> u16 {
        if self.pipes.iter().all(Option::is_none) { CLOSED_TICK_MS } else { TICK_MS }
    }

    /// Reads what is there within `timeout`; whether there was anything.
    fn read_ready(&mut self, job: &Job<'_>, timeout: PollTimeout) -> Result<bool, RunError> {
        let ready = self.ready(timeout);
        let mut any = false;
        for index in ready {
            let mut buffer = [0; 16 << 10];
            let count = match self.pipes[index].as_mut().map(|pipe| pipe.read(&mut buffer)) {
                Some(Ok(count)) => count,
                _ => 0,
            };
            if count == 0 {
                self.pipes[index] = None;
            } else {
                any = true;
                self.take(index, &buffer[..count], job)?;
            }
        }
        Ok(any)
    }

    fn ready(&self, timeout: PollTimeout) -> Vec<usize> {
        let open: Vec<usize> = (0..2).filter(|i| self.pipes[*i].is_some()).collect();
        let mut fds: Vec<PollFd<'_>> = (self.pipes.iter().flatten())
            .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
            .collect();
        // With both ends closed this is the pause before the child is looked at again.
        if poll(&mut fds, timeout).is_err() {
            return Vec::new();
        }
        let hit = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        open.into_iter().zip(&fds).filter(|(_, fd)| hit(fd)).map(|(i, _)| i).collect()
    }

    fn take(&mut self, index: usize, bytes: &[u8], job: &Job<'_>) -> Result<(), RunError> {
        if let (Some(log), Some(path)) = (&mut self.log, job.log) {
            log.write_all(bytes).map_err(|source| log_error(job, path, source))?;
        }
        let room = KEPT_BYTES.saturating_sub(self.kept[index].len());
        self.kept[index].extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(on_line) = job.on_line {
            tell_lines(&mut self.lines[index], bytes, on_line);
        }
        Ok(())
    }

    fn finish(self, status: ExitStatus, job: &Job<'_>) -> Output {
        if let Some(on_line) = job.on_line {
            let unended = self.lines.iter().filter(|line| !line.is_empty());
            unended.for_each(|line| on_line(&String::from_utf8_lossy(line)));
        }
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        Output { status, stdout: text(&self.kept[0]), stderr: text(&self.kept[1]) }
    }
}

/// Adds bytes to the line so far and tells every line they end.
fn tell_lines(line: &mut Vec<u8>, bytes: &[u8], on_line: &dyn Fn(&str)) {
    for byte in bytes {
        match byte {
            b'\n' | b'\r' => {
                on_line(&String::from_utf8_lossy(line));
                line.clear();
            }
            byte if line.len() < 4096 => line.push(*byte),
            _ => {}
        }
    }
}

fn log_error(job: &Job<'_>, path: &Path, source: io::Error) -> RunError {
    RunError::Log { what: job.what.into(), path: path.into(), source }
}

impl Output {
    /// The last lines of what it said, for an error: standard error, else standard output.
    pub(crate) fn tail(&self) -> String {
        let said = [&self.stderr, &self.stdout].into_iter().find(|text| !text.trim().is_empty());
        let lines: Vec<&str> = said.map_or(Vec::new(), |text| text.trim().lines().collect());
        let last = lines[lines.len().saturating_sub(3)..].join("; ");
        match (self.status.signal(), last.is_empty()) {
            (Some(signal), _) => format!("killed by signal {signal}; {last}"),
            (None, true) => self.status.to_string(),
            (None, false) => last.chars().take(600).collect(),
        }
    }

    /// Whether it ran out of disk.
    pub(crate) fn no_space(&self) -> bool {
        [&self.stderr, &self.stdout].iter().any(|text| {
            text.contains("No space left on device") || text.contains("enough free space")
        })
    }
}

#[cfg(test)]
mod tests;
