//! `mvm agent serve`: the service as a daemon.
//!
//! ```text
//!            ┌ accept ── connection ── peer check ─┬ handle::request  (reads)
//!  socket ───┤                                     ├ operations       (changes; may be watched)
//!            │                                     └ guest            (bytes to a guest's agent)
//!  interval ─┤
//!  nudge ────┼ rounds ── apply the files that changed ── Service::reconcile
//!  files ────┘
//!  signals ── stop: no new connections, the round stops where it is safe, operations end
//! ```
//!
//! Killing it at any moment leaves VMs and the resolver running: they are processes of their own,
//! and everything it does is on disk before it has an effect. One agent serves a run directory.

mod connection;
mod operations;
mod peer;
mod rounds;
mod socket;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mvm_host::lock::{Lock, LockError};
use mvm_model::record::Millis;
use sd_notify::NotifyState;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::error::{About, Error, Kind, Result};
use crate::service::{Service, now};

use operations::Operations;
use rounds::Rounds;

/// How long operations may take to end after the agent was asked to stop. What is still on its
/// way then is completed or undone by the next command, as after a crash.
const ENDING: Duration = Duration::from_secs(20);
/// The most connections at once.
const MOST_CONNECTIONS: usize = 256;

/// How an agent is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time between two rounds of the loop when nothing happens.
    pub interval: Duration,
    /// A desired state file to apply, now and whenever it changes.
    pub desired: Option<PathBuf>,
    /// A file with Nix's Intent to apply, now and whenever it changes.
    pub intent: Option<PathBuf>,
}

/// An agent that runs: what its connections and its loop share.
pub(crate) struct Daemon {
    service: Service,
    options: Options,
    operations: Operations,
    rounds: Rounds,
    started_at: Millis,
    /// Wakes the loop.
    nudge: Notify,
    /// Raised when the agent is asked to stop.
    stopping: Arc<AtomicBool>,
}

/// Serves until `stop` ends; calls `ready` when it does.
///
/// # Errors
/// [`Kind::Busy`] when an agent serves this run directory already, or what binding its socket
/// said.
pub async fn serve(
    service: Service,
    options: Options,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let lock = service.dirs.run.join("agent.lock");
    let _only = match Lock::take(&lock, &service.who, Duration::ZERO).await {
        Err(LockError::Held { holder, .. }) => {
            let text = format!("an agent runs on this host already: {holder}");
            return Err(Error::new(Kind::Busy, "", text).hint("mvm agent status"));
        }
        other => other.about("", "be this host's agent")?,
    };
    let listener = socket::listen(&service.dirs.run)?;
    ready();
    let daemon = Arc::new(Daemon {
        service,
        options,
        operations: Operations::default(),
        rounds: Rounds::default(),
        started_at: now(),
        nudge: Notify::new(),
        stopping: Arc::default(),
    });
    let mut looping = tokio::spawn(rounds::run(daemon.clone()));
    let watchdog = tokio::spawn(keep_watchdog(daemon.clone()));
    // The host's boot took what was ready for wakes.
    let service = daemon.service.clone();
    let refreshing = tokio::spawn(async move { drop(service.refresh_secrets().await) });
    let sweeping = (daemon.service.clone(), daemon.stopping.clone());
    let sweeping = tokio::spawn(crate::stray::watch(sweeping.0, sweeping.1));
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
    tracing::info!(socket = %socket::path(&daemon.service.dirs.run).display(), "agent ready");
    let stop = async {
        tokio::select! {
            () = stop => Ok(()),
            ended = &mut looping => Err(ended),
        }
    };
    let stopped = accept(&daemon, listener, stop).await;
    tell(&[NotifyState::Stopping]);
    daemon.stopping.store(true, Ordering::SeqCst);
    daemon.nudge.notify_one();
    let ended = tokio::time::timeout(ENDING, async {
        if stopped.is_ok() {
            let _ = looping.await;
        }
        daemon.operations.all_ended().await;
    });
    if ended.await.is_err() {
        tracing::warn!("some operations did not end in time; the next command settles them");
    }
    watchdog.abort();
    refreshing.abort();
    sweeping.abort();
    socket::remove(&daemon.service.dirs.run);
    // An agent without rounds is none: whoever started it starts another.
    stopped.map_err(|_| Error::new(Kind::Failed, "", "the agent's rounds ended by themselves"))
}

/// Takes connections until `stop` ends; more than the most wait to be taken.
async fn accept<T>(
    daemon: &Arc<Daemon>,
    listener: tokio::net::UnixListener,
    stop: impl Future<Output = T>,
) -> T {
    let mut stop = std::pin::pin!(stop);
    let mut connections = JoinSet::new();
    loop {
        let full = connections.len() >= MOST_CONNECTIONS;
        tokio::select! {
            stopped = &mut stop => return stopped,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if !full => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection::serve(daemon.clone(), stream));
                }
                // Out of descriptors or memory: others end meanwhile.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Tells systemd, if it started us, that this process still answers and its rounds go on.
async fn keep_watchdog(daemon: Arc<Daemon>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    while !daemon.rounds.are_stuck() {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(limit / 3).await;
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

impl Daemon {
    fn status(&self) -> Result<mvm_api::agent::Status> {
        let round = self.rounds.last();
        Ok(mvm_api::agent::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            node_id: self.service.node_id()?,
            started_at: self.started_at,
            interval_seconds: self.options.interval.as_secs(),
            desired: self.options.desired.as_ref().map(|path| path.display().to_string()),
            intent: self.options.intent.as_ref().map(|path| path.display().to_string()),
            last_round: round.at,
            last_report: round.report,
            problem: round.problem,
        })
    }
}

/// What a request says that only a running agent can answer.
pub(crate) fn no_agent() -> Error {
    Error::new(Kind::Unavailable, "", "no agent runs on this host").hint("mvm agent serve")
}
