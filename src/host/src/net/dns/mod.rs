//! Names for guests: one resolver process per host, answering on every tenant's `.1`.
//!
//! ```text
//!  mvm (root) ── binds .1:53 on each bridge ──┐ control socket, SCM_RIGHTS
//!             ── zones: tenant → names ───────┴► `mvm dns serve`: own session, own uid, no
//!                                                 capabilities ──► the host's upstreams
//! ```
//!
//! Callers state all zones with [`ensure`] whenever one changes; it starts the resolver when there
//! is none, replaces one that died, hangs or speaks another version, sends only what differs, and
//! drops zones that are no longer named. [`remove`] drops one; the last one ends the process.
//! Nothing but the control socket says whether it lives: the process alone holds and listens on
//! it. It needs neither the CLI nor the agent to go on.
//!
//! Each socket is bound to its bridge, so a tenant's questions can only come from that tenant.

mod allowance;
mod answer;
mod control;
mod listen;
mod serve;
mod sockets;
mod upstream;
mod zone;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mvm_model::NetId;
use mvm_model::failpoint::{self, Effect};
use mvm_model::record::RESOLVER_UID;

use super::error::NetError;
use super::lock;
use control::{Held, Reply, Request};
pub use serve::{Serve, ServeError, serve};
pub use zone::{Forwarding, Zone};

/// The resolver's user and group when the caller has no better: a number that nobody else has, no
/// VM either.
pub const UNPRIVILEGED: u32 = RESOLVER_UID;

const SOCKET: &str = "dns.sock";
const LOG: &str = "dns.log";
const PATIENCE: Duration = Duration::from_secs(5);

/// How to start the resolver: `exe args…`, which must end up in [`serve`].
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program, usually `mvm` itself.
    pub program: PathBuf,
    /// Its arguments, usually `dns serve`.
    pub args: Vec<OsString>,
}

/// Makes the resolver serve exactly these zones. Their bridges must be up. Without any zone there
/// is no resolver.
///
/// # Errors
/// [`NetError::Resolver`] when it cannot be started or told; calling again continues.
pub async fn ensure(run_dir: &Path, launcher: &Launcher, zones: &[Zone]) -> Result<(), NetError> {
    let dir = run_dir.join("net");
    let _lock = lock::take(&dir).await?;
    let (launcher, zones) = (launcher.clone(), zones.to_vec());
    blocking(move || match zones.is_empty() {
        true => end(&dir),
        false => ensure_blocking(&dir, &launcher, &zones),
    })
    .await
}

/// Drops a tenant's zone and closes its sockets; ends the resolver with the last one. Without a
/// resolver there is nothing to do.
///
/// # Errors
/// [`NetError::Resolver`] when it does not listen to us.
pub async fn remove(run_dir: &Path, net_id: NetId) -> Result<(), NetError> {
    let dir = run_dir.join("net");
    let _lock = lock::take(&dir).await?;
    blocking(move || {
        let Ok(mut resolver) = Resolver::connect(&dir) else { return forget(&dir) };
        let net_ids = resolver.held.keys().copied().filter(|id| *id != net_id).collect();
        resolver.keep(&dir, net_ids)
    })
    .await
}

/// The resolver's process id, when one answers.
pub async fn pid(run_dir: &Path) -> Option<u32> {
    let dir = run_dir.join("net");
    let ask = move || Resolver::connect(&dir).ok().map(|resolver| resolver.pid);
    tokio::task::spawn_blocking(ask).await.ok().flatten()
}

async fn blocking(
    work: impl FnOnce() -> Result<(), NetError> + Send + 'static,
) -> Result<(), NetError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(failed("tell")(io::Error::other(panic))))
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> NetError {
    move |source| NetError::Resolver { doing, source }
}

fn ensure_blocking(dir: &Path, launcher: &Launcher, zones: &[Zone]) -> Result<(), NetError> {
    let mut resolver = match Resolver::connect(dir) {
        Ok(resolver) => resolver,
        Err(_) => start(dir, launcher)?,
    };
    let net_ids: Vec<NetId> = zones.iter().map(|zone| zone.network.tenant_net_id).collect();
    // Old sockets first: a new one may need their address.
    if resolver.held.keys().any(|held| !net_ids.contains(held)) {
        let kept: Vec<NetId> =
            resolver.held.keys().copied().filter(|id| net_ids.contains(id)).collect();
        if kept.is_empty() {
            resolver.keep(dir, kept)?;
            resolver = start(dir, launcher)?;
        } else {
            resolver.keep(dir, kept)?;
        }
    }
    zones.iter().try_for_each(|zone| resolver.put(zone))
}

fn end(dir: &Path) -> Result<(), NetError> {
    match Resolver::connect(dir) {
        Ok(mut resolver) => resolver.keep(dir, Vec::new()),
        Err(_) => forget(dir),
    }
}

/// Removes what a resolver that is gone left behind.
fn forget(dir: &Path) -> Result<(), NetError> {
    for name in [SOCKET, LOG] {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("clean up after")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A connection to the running resolver.
struct Resolver {
    stream: UnixStream,
    pid: u32,
    held: std::collections::BTreeMap<NetId, Held>,
}

impl Resolver {
    fn connect(dir: &Path) -> io::Result<Self> {
        let stream = within(dir, |path| UnixStream::connect(path))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        match call(&stream, &Request::Hello, &[])? {
            Reply::Hello { version: control::VERSION, pid, zones } => {
                Ok(Self { stream, pid, held: zones })
            }
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "another version")),
        }
    }

    fn put(&mut self, zone: &Zone) -> Result<(), NetError> {
        let id = zone.network.tenant_net_id;
        let place = sockets::place(&zone.network).map_err(failed("find the bridge for"))?;
        let wanted = Held { digest: zone.digest(), place };
        let held = self.held.get(&id);
        if held == Some(&wanted) {
            return Ok(());
        }
        let fds = match held {
            Some(held) if held.place == place => Vec::new(),
            _ => sockets::bind(&zone.network, place).map_err(failed("bind sockets for"))?.into(),
        };
        let request = Request::Put { zone: zone.clone(), place };
        self.told(&request, &fds).map_err(failed("tell"))?;
        self.held.insert(id, wanted);
        Ok(())
    }

    fn keep(&mut self, dir: &Path, net_ids: Vec<NetId>) -> Result<(), NetError> {
        self.held.retain(|id, _| net_ids.contains(id));
        match self.told(&Request::Keep { net_ids }, &[]).map_err(failed("tell"))? {
            Reply::Ending => {
                // Its end of the connection closes when it is gone, and its sockets with it.
                let _ = control::receive::<Reply>(&self.stream);
                forget(dir)
            }
            _ => Ok(()),
        }
    }

    fn told(&self, request: &Request, fds: &[OwnedFd]) -> io::Result<Reply> {
        failpoint::before(Effect::TellResolver)?;
        match call(&self.stream, request, fds)? {
            Reply::Refused { reason } => Err(io::Error::other(reason)),
            reply => failpoint::after(Effect::TellResolver).map(|()| reply),
        }
    }
}

fn call(stream: &UnixStream, request: &Request, fds: &[OwnedFd]) -> io::Result<Reply> {
    control::send(stream, request, fds)?;
    let reply = control::receive(stream)?;
    reply.map(|(reply, _)| reply).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Starts a resolver in place of whatever was there, and waits until it answers.
fn start(dir: &Path, launcher: &Launcher) -> Result<Resolver, NetError> {
    replace_old(dir)?;
    failpoint::before(Effect::StartResolver)?;
    let mut child = spawn(dir, launcher).map_err(failed("start"))?;
    let deadline = Instant::now() + PATIENCE;
    let outcome = loop {
        match Resolver::connect(dir) {
            Ok(resolver) => break Ok(resolver),
            Err(error) if Instant::now() > deadline => break Err(error),
            Err(error) if matches!(child.try_wait(), Ok(Some(_))) => break Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if outcome.is_err() {
        let _ = child.kill();
    }
    // Only reaps it, should we outlive it.
    std::thread::spawn(move || child.wait());
    let resolver = outcome.map_err(|error| failed("start")(with_last_words(dir, &error)))?;
    failpoint::after(Effect::StartResolver)?;
    Ok(resolver)
}

fn with_last_words(dir: &Path, error: &io::Error) -> io::Error {
    let log = std::fs::read_to_string(dir.join(LOG)).unwrap_or_default();
    match log.trim().lines().last() {
        Some(words) => io::Error::new(error.kind(), words.to_owned()),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// One that hangs or speaks another version still has the sockets.
fn replace_old(dir: &Path) -> Result<(), NetError> {
    let deadline = Instant::now() + PATIENCE;
    while let Ok(stream) = within(dir, |path| UnixStream::connect(path)) {
        if Instant::now() > deadline {
            return Err(failed("replace")(io::ErrorKind::TimedOut.into()));
        }
        sockets::kill_listener(&stream).map_err(failed("replace"))?;
        std::thread::sleep(Duration::from_millis(5));
    }
    forget(dir)
}

fn spawn(dir: &Path, launcher: &Launcher) -> io::Result<Child> {
    let control = within(dir, sockets::bind_control)?;
    std::fs::set_permissions(dir.join(SOCKET), std::fs::Permissions::from_mode(0o600))?;
    let log = File::create(dir.join(LOG))?;
    Command::new(&launcher.program)
        .args(&launcher.args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(control))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .spawn()
}

/// Calls with a short path to our socket: a run directory may be deeper than socket names go.
fn within<T>(dir: &Path, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let dir = File::open(dir)?;
    call(&PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())))
}
