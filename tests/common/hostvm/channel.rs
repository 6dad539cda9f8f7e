//! The way into the machine: the project's guest agent, here a service under systemd, behind a
//! virtio-serial port. Everything has a deadline; a machine that died is an error, not a hang.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use mvm_agent::guest::proto::{Exec, ExecExit, ReadFile, WriteFile};
use mvm_agent::guest::{Captured, GuestClient, GuestError, Transport, connect_unix, fresh_id};
use tokio::runtime::Runtime;

/// Most output of one program.
const MOST: usize = 256 << 20;
/// How long one attempt to reach the machine takes.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How often a machine in which a program runs is asked whether it is still there.
const BEAT: Duration = Duration::from_secs(10);
/// How long it may take to say so, with ten times more to do than it can.
const ALIVE: Duration = Duration::from_secs(30);
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An open way in.
pub struct Channel {
    runtime: Runtime,
    client: GuestClient,
}

impl Channel {
    /// Tries until the machine answers.
    pub fn connect(socket: &Path, deadline: Instant) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let client = runtime.block_on(answering(socket, deadline))?;
        Ok(Self { runtime, client })
    }

    /// Runs a program to its end, or to the machine's.
    pub fn run(&self, args: &[&str], input: &[u8], limit: Duration) -> Result<Output, String> {
        let exec = Exec {
            argv: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: [("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            cwd: Some("/root".into()),
            timeout_ms: u64::try_from(limit.as_millis()).ok(),
            ..Exec::default()
        };
        let ran = self.client.run(exec, input, MOST, limit + ATTEMPT);
        self.runtime.block_on(async {
            tokio::select! {
                ran = ran => ran.map(output).map_err(|error| error.to_string()),
                why = self.stopped() => Err(why),
            }
        })
    }

    /// Completes when the machine no longer answers: a program in it would be waited for in vain.
    async fn stopped(&self) -> String {
        loop {
            tokio::time::sleep(BEAT).await;
            if let Err(error) = self.client.status(ALIVE).await {
                return format!("the machine does not answer: {error}");
            }
        }
    }

    /// A file's content; `None` when there is no such file.
    pub fn read(&self, path: &str, limit: Duration) -> Result<Option<Vec<u8>>, String> {
        let mut bytes = Vec::new();
        let read = ReadFile { path: path.into(), offset: 0, length: None };
        match self.runtime.block_on(self.client.read_file(read, &mut bytes, limit)) {
            Ok(_) => Ok(Some(bytes)),
            Err(GuestError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Makes or replaces a file.
    pub fn write(
        &self,
        path: &str,
        mode: u32,
        content: &[u8],
        limit: Duration,
    ) -> Result<(), String> {
        let write = WriteFile { path: path.into(), mode: Some(mode), size: None, user: None };
        let id = fresh_id();
        let mut content = content;
        let written = self.client.write_file(&id, write, &mut content, limit);
        self.runtime.block_on(written).map(drop).map_err(|error| error.to_string())
    }
}

async fn answering(socket: &Path, deadline: Instant) -> Result<GuestClient, String> {
    loop {
        let why = match connect_unix(socket, ATTEMPT).await {
            Ok(stream) => match GuestClient::connect(stream, Transport::Lasting, ATTEMPT).await {
                Ok(client) => return Ok(client),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            return Err(why);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn output(captured: Captured) -> Output {
    let status = match captured.exit {
        ExecExit::Code(code) => ExitStatus::from_raw((code & 0xff) << 8),
        ExecExit::Signal(signal) => ExitStatus::from_raw(signal & 0x7f),
    };
    Output { status, stdout: captured.stdout, stderr: captured.stderr }
}
