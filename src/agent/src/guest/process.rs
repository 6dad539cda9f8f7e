//! Running programs in a guest.

use std::sync::Arc;
use std::time::Duration;

use mvm_guest_proto::message::{
    Call, Exec, ExecExit, FROM_GUEST, Message, Request, STDERR, TO_GUEST, TtySize,
};
use mvm_guest_proto::mux::Inbound;

use super::client::{Asking, GuestClient};
use super::error::{GuestError, clean};
use super::stream::Stream;

/// A program that runs in a guest. Dropping it, with every [`ProcessInput`], ends the program
/// and its session.
#[derive(Debug)]
pub struct Process {
    stream: Arc<Stream>,
    asking: Asking,
    pid: u32,
}

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It wrote to its standard output, or to its terminal.
    Stdout(Vec<u8>),
    /// It wrote to its standard error.
    Stderr(Vec<u8>),
    /// It ended. Nothing follows.
    Exit(ExecExit),
}

/// The way into a program: input, terminal size, signals.
#[derive(Debug, Clone)]
pub struct ProcessInput {
    stream: Arc<Stream>,
}

/// What a program said until it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: ExecExit,
}

impl GuestClient {
    /// Starts a program; with `exec.tty` on a terminal. `limit` is for its start only.
    ///
    /// # Errors
    /// [`GuestError::NotFound`] when program or user do not exist, [`GuestError::Refused`] when
    /// it may not be run.
    pub async fn exec(&self, exec: Exec, limit: Duration) -> Result<Process, GuestError> {
        let program: String =
            exec.argv.first().map_or("", String::as_str).chars().take(80).collect();
        let asking = Asking::new(format!("running {}", clean(&program)), limit);
        let stream =
            self.open(&asking, &Call { id: String::new(), request: Request::Exec(exec) })?;
        let started = |message| match message {
            Message::Started { pid } => Some(pid),
            _ => None,
        };
        let pid = Self::begin(&asking, &stream, started).await?;
        Ok(Process { stream: Arc::new(stream), asking, pid })
    }

    /// Runs a program to its end with `stdin` as its input, within `limit` in all, keeping at
    /// most `most` bytes of its output.
    ///
    /// # Errors
    /// As [`GuestClient::exec`]; [`GuestError::Protocol`] when it writes more.
    pub async fn run(
        &self,
        exec: Exec,
        stdin: &[u8],
        most: usize,
        limit: Duration,
    ) -> Result<Captured, GuestError> {
        let process = self.exec(exec, limit).await?;
        let asking = process.asking.clone();
        let input = process.input();
        let feed = async {
            input.write(stdin).await;
            input.close();
            std::future::pending::<GuestError>().await
        };
        let collected = async {
            tokio::select! {
                captured = process.collect(most) => captured,
                error = feed => Err(error),
            }
        };
        asking.within(collected).await?
    }
}

impl Process {
    /// Its process id in the guest.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The way into it.
    pub fn input(&self) -> ProcessInput {
        ProcessInput { stream: Arc::clone(&self.stream) }
    }

    /// What it does next; waits as long as that takes. Cancel-safe. After an exit or an error
    /// there is nothing more.
    ///
    /// # Errors
    /// [`GuestError`] when the program cannot be followed any more.
    pub async fn next(&self) -> Result<ProcessEvent, GuestError> {
        loop {
            match self.stream.recv().await {
                Inbound::Data(FROM_GUEST, bytes) => return Ok(ProcessEvent::Stdout(bytes)),
                Inbound::Data(STDERR, bytes) => return Ok(ProcessEvent::Stderr(bytes)),
                Inbound::Close(payload) => {
                    return self.asking.outcome(&payload).map(ProcessEvent::Exit);
                }
                inbound if inbound.is_end() => {
                    return Err(self.asking.ended(&self.stream, &inbound));
                }
                _ => {}
            }
        }
    }

    async fn collect(&self, most: usize) -> Result<Captured, GuestError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                ProcessEvent::Stdout(bytes) => stdout.extend(bytes),
                ProcessEvent::Stderr(bytes) => stderr.extend(bytes),
                ProcessEvent::Exit(exit) => return Ok(Captured { stdout, stderr, exit }),
            }
            if stdout.len() + stderr.len() > most {
                return Err(self.asking.protocol(format!("more than {most} bytes of output")));
            }
        }
    }
}

impl ProcessInput {
    /// Writes to its standard input, waiting for it to read; a program that is gone takes
    /// nothing, and [`Process::next`] says why.
    pub async fn write(&self, bytes: &[u8]) {
        let _ = self.stream.send(TO_GUEST, bytes).await;
    }

    /// Ends its standard input.
    pub fn close(&self) {
        self.stream.eof(TO_GUEST);
    }

    /// Its terminal has a new size.
    pub async fn resize(&self, size: TtySize) {
        let _ = self.stream.message(&Message::Resize(size)).await;
    }

    /// Sends a signal to its process group.
    pub async fn signal(&self, number: i32) {
        let _ = self.stream.message(&Message::Signal { number }).await;
    }
}
