//! The resolver process, `mvm dns serve`: sheds every privilege, then serves until told to end.
//!
//! It is started by [`super::ensure`] with the listening control socket as its standard input. One
//! thread answers the control socket, the other runs all tenants' sockets; tenants share nothing
//! but that thread's time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as sync;
use std::time::Duration;

use mvm_model::NetId;
use nix::sys::prctl;
use nix::sys::socket::{Backlog, UnixAddr, getsockname, getsockopt, listen, sockopt};
use nix::unistd::{Gid, Uid, chdir, setgid, setgroups, setsid, setuid};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::control::{self, Held, Place, Reply, Request, VERSION};
use super::listen::Sockets;
use super::upstream::Upstreams;
use super::zone::Zone;

/// A client of the control socket that stalls is let go.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nobody gave us a zone: whoever started us died.
const ORPHANED: Duration = Duration::from_secs(30);
/// Two sockets per tenant, one per forwarded question and TCP client.
const MAX_DESCRIPTORS: u64 = 65_536;

/// How the resolver runs; the hidden arguments of `mvm dns serve`.
#[derive(Debug, Clone)]
pub struct Serve {
    /// Becomes this user, who must own nothing.
    pub uid: u32,
    /// And this group.
    pub gid: u32,
    /// Where the host's upstreams are listed, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// Why the resolver could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Threads that already run would keep their privileges.
    #[error("the resolver must start before any other thread does")]
    Threads,
    /// Started by hand.
    #[error("standard input is not the resolver's control socket: mvm starts the resolver itself")]
    NoControl(#[source] io::Error),
    /// Could not become unprivileged; nothing was served.
    #[error("failed to give up privileges")]
    Privileges(#[source] io::Error),
    /// No thread or event loop.
    #[error("failed to start serving")]
    Runtime(#[source] io::Error),
}

/// Serves until the last zone is gone. To be called by a process that has no other thread and no
/// async runtime.
///
/// # Errors
/// Before anything is served; see [`ServeError`].
pub fn serve(args: &Serve) -> Result<(), ServeError> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        return Err(ServeError::Threads);
    }
    let control = control_socket().map_err(ServeError::NoControl)?;
    // Whoever started us, no other: who may connect may redirect every tenant's names.
    let owner = nix::unistd::geteuid();
    shed_privileges(args).map_err(ServeError::Privileges)?;
    listen(&control, Backlog::MAXALLOWABLE).map_err(|e| ServeError::NoControl(e.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let (orders, inbox) = mpsc::channel(1);
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || answer_control(&control, owner, &orders))
        .map_err(ServeError::Runtime)?;
    let upstreams = Upstreams::new(args.resolv_conf.clone());
    runtime.block_on(Tenants { upstreams, served: BTreeMap::new() }.obey(inbox));
    Ok(())
}

fn control_socket() -> io::Result<UnixListener> {
    let stdin = io::stdin();
    let socket = stdin.as_fd().try_clone_to_owned()?;
    // Fails unless it is a unix socket.
    getsockname::<UnixAddr>(socket.as_raw_fd())?;
    Ok(UnixListener::from(socket))
}

fn shed_privileges(args: &Serve) -> io::Result<()> {
    // Already a session leader is fine.
    let _ = setsid();
    chdir("/")?;
    let _ = nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_NOFILE,
        MAX_DESCRIPTORS,
        MAX_DESCRIPTORS,
    );
    if nix::unistd::geteuid().is_root() {
        drop_bounding_set();
        setgroups(&[])?;
        setgid(Gid::from_raw(args.gid))?;
        setuid(Uid::from_raw(args.uid))?;
    }
    prctl::set_no_new_privs()?;
    // Not readable or traceable by others of that uid.
    prctl::set_dumpable(false)?;
    if nix::unistd::geteuid().is_root() || setuid(Uid::from_raw(0)).is_ok() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

/// Best effort: without capabilities and with no new privileges the set cannot be used anyway.
fn drop_bounding_set() {
    const MORE_THAN_ANY: libc::c_ulong = 63;
    for capability in 0..=MORE_THAN_ANY {
        // SAFETY: PR_CAPBSET_DROP takes one integer and touches no memory.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

/// A request with the way back.
struct Order {
    request: Request,
    fds: Vec<OwnedFd>,
    reply: sync::Sender<Reply>,
}

fn answer_control(listener: &UnixListener, owner: Uid, orders: &mpsc::Sender<Order>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        // A client that breaks off has been told enough by that.
        let _ = answer_client(&stream, owner, orders);
    }
}

fn answer_client(stream: &UnixStream, owner: Uid, orders: &mpsc::Sender<Order>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    if getsockopt(stream, sockopt::PeerCredentials)?.uid() != owner.as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    while let Some((request, fds)) = control::receive(stream)? {
        let (reply, answer) = sync::channel();
        let order = Order { request, fds, reply };
        orders.blocking_send(order).map_err(io::Error::other)?;
        let reply = answer.recv_timeout(PATIENCE).map_err(io::Error::other)?;
        control::send(stream, &reply, &[])?;
        if matches!(reply, Reply::Ending) {
            std::process::exit(0);
        }
    }
    Ok(())
}

/// All zones being served.
struct Tenants {
    upstreams: Upstreams,
    served: BTreeMap<NetId, Served>,
}

struct Served {
    held: Held,
    zone: watch::Sender<Arc<Zone>>,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tenants {
    async fn obey(mut self, mut inbox: mpsc::Receiver<Order>) {
        loop {
            let order = if self.served.is_empty() {
                tokio::time::timeout(ORPHANED, inbox.recv()).await.ok().flatten()
            } else {
                inbox.recv().await
            };
            let Some(Order { request, fds, reply }) = order else { return };
            let answer = self.obey_one(request, fds);
            // The control thread ends the process once the reply is out.
            let _ = reply.send(answer);
            tokio::task::yield_now().await;
        }
    }

    fn obey_one(&mut self, request: Request, fds: Vec<OwnedFd>) -> Reply {
        match request {
            Request::Hello => Reply::Hello {
                version: VERSION,
                pid: std::process::id(),
                zones: self.served.iter().map(|(id, s)| (*id, s.held.clone())).collect(),
            },
            Request::Put { zone, place } => match self.put(zone, place, fds) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Refused { reason: error.to_string() },
            },
            Request::Keep { net_ids } => {
                self.served.retain(|id, _| net_ids.contains(id));
                if self.served.is_empty() { Reply::Ending } else { Reply::Done }
            }
        }
    }

    fn put(&mut self, zone: Zone, place: Place, fds: Vec<OwnedFd>) -> io::Result<()> {
        let id = zone.network.tenant_net_id;
        let held = Held { digest: zone.digest(), place };
        let zone = Arc::new(zone);
        match <[OwnedFd; 2]>::try_from(fds) {
            Ok([udp, tcp]) => {
                let sockets = Sockets::from_fds(udp, tcp)?;
                let (sender, current) = watch::channel(zone);
                let task = tokio::spawn(sockets.serve(current, self.upstreams.clone()));
                self.served.insert(id, Served { held, zone: sender, task });
                Ok(())
            }
            Err(_) => match self.served.get_mut(&id) {
                Some(served) if served.held.place == place => {
                    served.held = held;
                    served.zone.send_replace(zone);
                    Ok(())
                }
                _ => Err(io::Error::new(io::ErrorKind::NotFound, "no sockets for this zone")),
            },
        }
    }
}
