//! Runs a program with its streams, or a terminal, on a request's channels.
//!
//! One thread per program waits in `poll` for: the stream (input, messages, credit, an end), the
//! program's output, room in its input, and its exit. Data is taken from the host only when the
//! piece before was written, and read from the program only when the piece before was sent, so
//! back-pressure reaches both.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mvm_guest_proto::message::{
    ErrorKind, Exec, ExecExit, FROM_GUEST, Failure, Message, STDERR, TO_GUEST,
};
use mvm_guest_proto::mux::Inbound;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::Stop;
use crate::guest::Guest;
use crate::program::{self, Program, Terminal};
use crate::reaper::{self, Exit};
use crate::session::{Gone, Stream};
use crate::sys;

mod spawn;

use spawn::{Running, spawn};

/// Largest piece read from a program at once.
const PIECE: usize = 16 * 1024;
/// After a program ended, how long its descendants may stay silent before the rest of their
/// output is no longer waited for.
const LINGER: Duration = Duration::from_millis(100);
/// Time between asking a session to end and ending it.
const GRACE_MS: u64 = 2000;

/// Output of a program on its way to the host.
struct Output {
    from: Option<spawn::Pipe>,
    channel: u8,
    pending: Vec<u8>,
}

/// Input of a program on its way from the host.
struct Input {
    to: Option<spawn::Pipe>,
    pending: Vec<u8>,
    written: usize,
}

/// A program that runs, with everything that flows.
struct Conversation<'a> {
    stream: &'a Stream,
    pid: i32,
    exit: Arc<Exit>,
    seen_exit: bool,
    terminal: Option<spawn::Pipe>,
    input: Input,
    outputs: Vec<Output>,
    /// When something was last read after the program ended.
    quiet_since: Option<Instant>,
    deadline: Option<Instant>,
}

/// Runs the program and answers how it ended.
pub(super) fn exec(guest: &Guest, stream: &Stream, exec: &Exec) -> Result<ExecExit, Stop> {
    let user = program::user(exec.user.as_deref())?;
    let terminal = if exec.tty.is_some() { Terminal::Controlling } else { Terminal::None };
    let program = Program {
        argv: &exec.argv,
        env: &exec.env,
        cwd: exec.cwd.as_deref(),
        user: &user,
        terminal,
    };
    let running = spawn(&guest.reaper, &program, exec.tty)?;
    let deadline = exec.timeout_ms.map(|millis| Instant::now() + Duration::from_millis(millis));
    let mut conversation = Conversation::new(stream, running, deadline);
    let outcome = conversation.run();
    if outcome.is_err() {
        let first = if exec.tty.is_some() { Signal::SIGHUP } else { Signal::SIGTERM };
        reaper::end_session(conversation.pid, first, GRACE_MS, &conversation.exit);
    }
    outcome
}

impl<'a> Conversation<'a> {
    fn new(stream: &'a Stream, running: Running, deadline: Option<Instant>) -> Self {
        let output = |(channel, from)| Output { from: Some(from), channel, pending: Vec::new() };
        let outputs = [(FROM_GUEST, Some(running.output)), (STDERR, running.errors)];
        Self {
            stream,
            pid: running.pid,
            exit: running.exit,
            seen_exit: false,
            terminal: running.terminal,
            input: Input { to: Some(running.input), pending: Vec::new(), written: 0 },
            outputs: outputs
                .into_iter()
                .filter_map(|(channel, from)| Some(output((channel, from?))))
                .collect(),
            quiet_since: None,
            deadline,
        }
    }

    fn run(&mut self) -> Result<ExecExit, Stop> {
        self.stream.message(&Message::Started { pid: self.pid.unsigned_abs() })?;
        loop {
            // Until there is nothing to take or no room to put it: what is left in the inbox
            // wakes nobody.
            loop {
                self.take_input()?;
                if self.input.pending.is_empty() {
                    break;
                }
                self.input.write();
                if !self.input.pending.is_empty() {
                    break;
                }
            }
            for output in &mut self.outputs {
                if output.pump(self.stream) {
                    self.quiet_since = None;
                }
            }
            if let Some(exit) = self.finished() {
                return Ok(exit);
            }
            if !self.stream.is_live() {
                return Err(Stop::Gone);
            }
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(Failure::new(ErrorKind::Timeout, "it took too long").into());
            }
            self.wait();
        }
    }

    /// Takes what the host sent, as far as the program can use it.
    fn take_input(&mut self) -> Result<(), Gone> {
        while self.input.pending.is_empty() {
            match self.stream.try_recv() {
                None => return Ok(()),
                Some(Inbound::Data(TO_GUEST, bytes)) => self.input.pending = bytes,
                Some(Inbound::Eof(TO_GUEST)) => self.end_input(),
                Some(Inbound::Message(bytes)) => {
                    Message::from_bytes(&bytes).into_iter().for_each(|it| self.control(&it));
                }
                Some(inbound) if inbound.is_end() => return Err(Gone),
                Some(_) => {}
            }
        }
        while let Some(message) = self.stream.try_message() {
            self.control(&message);
        }
        Ok(())
    }

    /// A terminal has no end of file; its end-of-file character does the same for a program
    /// that reads lines.
    fn end_input(&mut self) {
        match &self.terminal {
            None => self.input.to = None,
            Some(terminal) => {
                const END_OF_FILE: u8 = 4;
                let mut terminal: &std::fs::File = terminal;
                let _ = terminal.write_all(&[END_OF_FILE]);
            }
        }
    }

    fn control(&self, message: &Message) {
        match (message, &self.terminal) {
            (Message::Resize(size), Some(terminal)) => {
                let _ = sys::set_tty_size(terminal, size.rows, size.cols);
            }
            (Message::Signal { number }, _) if self.exit.status().is_none() => {
                if let Ok(signal) = Signal::try_from(*number) {
                    let _ = killpg(Pid::from_raw(self.pid), signal);
                }
            }
            _ => {}
        }
    }

    /// How the program ended, once all of its output was sent.
    fn finished(&mut self) -> Option<ExecExit> {
        let exit = self.exit.status()?;
        self.seen_exit = true;
        if self.outputs.iter().any(|output| !output.pending.is_empty()) {
            return None;
        }
        let since = *self.quiet_since.get_or_insert_with(Instant::now);
        let all_closed = self.outputs.iter().all(|output| output.from.is_none());
        (all_closed || since.elapsed() >= LINGER).then_some(exit)
    }

    fn wait(&self) {
        let mut fds = vec![PollFd::new(self.stream.fd(), PollFlags::POLLIN)];
        // Asked of what we know, not of what is: it may have ended since we looked.
        if !self.seen_exit {
            fds.push(PollFd::new(self.exit.fd(), PollFlags::POLLIN));
        }
        for output in self.outputs.iter().filter(|output| output.pending.is_empty()) {
            fds.extend(output.from.iter().map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
        }
        if !self.input.pending.is_empty() {
            fds.extend(self.input.to.iter().map(|it| PollFd::new(it.as_fd(), PollFlags::POLLOUT)));
        }
        let _ = poll(&mut fds, self.timeout());
        self.stream.clear();
    }

    fn timeout(&self) -> PollTimeout {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let quiet = self.quiet_since.map(|since| left(since + LINGER));
        let times = [quiet, self.deadline.map(left)];
        match times.into_iter().flatten().min() {
            None => PollTimeout::NONE,
            // Rounded up, so that the time has come when we wake.
            Some(time) => {
                PollTimeout::from(u16::try_from(time.as_millis() + 1).unwrap_or(u16::MAX))
            }
        }
    }
}

impl Input {
    fn write(&mut self) {
        while self.written < self.pending.len() {
            let Some(mut to) = self.to.as_ref() else {
                break;
            };
            match to.write(&self.pending[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The program no longer reads; what is left for it goes nowhere.
                Err(_) => self.to = None,
            }
        }
        self.pending.clear();
        self.written = 0;
    }
}

impl Output {
    /// Sends and reads until one of the two would wait; true when something was read.
    fn pump(&mut self, stream: &Stream) -> bool {
        let mut was_read = false;
        loop {
            let sent = stream.try_send(self.channel, &self.pending);
            self.pending.drain(..sent);
            if !self.pending.is_empty() || !self.read() {
                return was_read;
            }
            was_read = true;
        }
    }

    fn read(&mut self) -> bool {
        let Some(mut from) = self.from.as_ref() else {
            return false;
        };
        self.pending.resize(PIECE, 0);
        let outcome = from.read(&mut self.pending);
        self.pending.truncate(*outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(n) if n > 0 => return true,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted) => {}
            // A terminal whose last program left says EIO.
            Ok(_) | Err(_) => self.from = None,
        }
        false
    }
}
