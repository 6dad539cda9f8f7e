//! The client and the relay against the real agent: `mvm-guest serve --unix` as a process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mvm_guest_proto::message::Exec;
use tempfile::TempDir;

use super::{GuestClient, Transport, connect_unix};
use skip::skipped_without_root;

mod exec;
mod files;
mod hostile;
mod life;
mod relay;
#[path = "../../../../tests/common/skip.rs"]
mod skip;

/// Enough for anything here on a busy machine; failing fast is not the point.
const LIMIT: Duration = Duration::from_secs(20);

/// An agent process; ended with the value.
struct Agent {
    process: Child,
    dir: TempDir,
}

impl Agent {
    /// Starts one and waits until it listens.
    async fn start() -> Self {
        Self::start_in(&[]).await
    }

    /// Starts one whose `/` for file requests is the directory `root` beside its socket.
    async fn start_in(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let process = Command::new(binary())
            .arg("serve")
            .args([Path::new("--unix"), &dir.path().join("agent.sock")])
            .args([Path::new("--root"), &root])
            .args(options)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { process, dir };
        within(|| std::os::unix::net::UnixStream::connect(agent.socket()).is_ok()).await;
        agent
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// What stands for `/` in the guest.
    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    async fn client(&self) -> GuestClient {
        let socket = connect_unix(&self.socket(), LIMIT).await.unwrap();
        GuestClient::connect(socket, Transport::Fresh, LIMIT).await.unwrap()
    }

    /// Resident memory, KiB.
    fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Agent {
    /// Asks first: the agent then ends what it started.
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.process.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let end = Instant::now() + LIMIT;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The agent's binary: `MVM_GUEST`, or built from this checkout.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("MVM_GUEST") {
        Some(path) => path.into(),
        None => {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
            let built = Command::new(cargo)
                .args(["build", "--quiet", "-p", "mvm-guest"])
                .current_dir(workspace)
                .status()
                .unwrap();
            assert!(built.success(), "mvm-guest does not build");
            // target/debug/deps/<this test> → target/debug/mvm-guest
            let here = std::env::current_exe().unwrap();
            here.ancestors().nth(2).unwrap().join("mvm-guest")
        }
    })
}

/// Waits until `condition` holds.
async fn within(condition: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "it did not come to be within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_alive(pid: u32) -> bool {
    // A zombie is not alive, and neither is a reused pid a problem in so short a time.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// `sh -c script`.
fn shell(script: &str) -> Exec {
    Exec { argv: ["sh", "-c", script].map(str::to_owned).to_vec(), ..Exec::default() }
}

/// Bytes that are not all alike.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..length.div_ceil(4)).flat_map(|_| next()).take(length).collect()
}
