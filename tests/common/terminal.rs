//! A command on a terminal of its own, as a person would have it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};

/// A running command and the person's side of its terminal.
pub struct Terminal {
    screen: File,
    child: Child,
    seen: String,
}

impl Terminal {
    /// Starts a command on a terminal of this size.
    pub fn start(mut command: Command, rows: u16, cols: u16) -> Self {
        let pty = openpty(Some(&size(rows, cols)), None).expect("a pty");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("mvm starts");
        Self { screen: pty.master.into(), child, seen: String::new() }
    }

    /// Types.
    pub fn kind(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Changes the terminal's size, as dragging a window does.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = size(rows, cols);
        // SAFETY: TIOCSWINSZ reads one Winsize, which lives through the call.
        let done = unsafe { libc::ioctl(self.screen.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(done, 0, "the size is taken");
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGWINCH).expect("the command lives");
    }

    /// Reads until `text` is seen, from where the last call stopped.
    pub fn expect(&mut self, text: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{text:?} was not seen within {limit:?} in {:?}", self.seen);
            assert!(self.read(left), "the terminal closed before {text:?}; seen {:?}", self.seen);
        }
        let end = self.seen.find(text).expect("just seen") + text.len();
        self.seen.drain(..end);
    }

    fn read(&mut self, limit: Duration) -> bool {
        use std::os::fd::AsFd;
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let ready =
            poll(&mut [PollFd::new(self.screen.as_fd(), PollFlags::POLLIN)], timeout).unwrap_or(0);
        let mut buffer = [0; 4096];
        match ready {
            0 => true,
            // The far side closed: EIO is how a pty says so.
            _ => match self.screen.read(&mut buffer) {
                Ok(len) if len > 0 => {
                    self.seen.push_str(&String::from_utf8_lossy(&buffer[..len]));
                    true
                }
                _ => false,
            },
        }
    }

    /// Waits for the command to end and returns its exit code.
    pub fn end(mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status.code();
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("the command did not end within {limit:?}");
            }
            self.read(Duration::from_millis(50));
        }
    }
}

fn size(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}
