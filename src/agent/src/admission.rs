//! Bursts of starts and wakes: so many at once on this host, fairly between tenants.
//!
//! ```text
//!  start, wake ─▶ ticket  w.<when>.<tenant>.<who>    in <run>/admission, locked by who waits
//!                    │ its turn, and a place is free: next(), pure
//!                    ▼
//!                 place   r.<when>.<tenant>.<who>    until the guest answers or the attempt ends
//! ```
//!
//! A tenant's tickets keep their order; between tenants the turn goes round, so a tenant that
//! wakes a hundred at once delays another's one by one of its own at most. The files are the
//! queue: commands and the agent stand in the same one. Who dies leaves a file without a lock,
//! which whoever comes next removes. Where the queue cannot be used nobody waits in it: it is
//! there for speed, not for safety.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mvm_model::TenantName;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::error::{Error, Kind, Result};
use crate::service::Service;

/// How often a ticket looks whether it is its turn, when nobody of this process leaves.
const LOOK: Duration = Duration::from_millis(10);
/// How often places are looked at whose holders may have died.
const SWEEP: Duration = Duration::from_millis(500);
/// Even where there are fewer CPUs: a wake mostly waits.
const FEWEST: usize = 3;
/// Whose turns are remembered while there is no idle moment.
const MOST_TURNS: usize = 4096;

/// Somebody in this process gave a place back.
static FREED: Notify = Notify::const_new();

/// A place in the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    /// When it was taken: nanoseconds since the host's boot.
    order: u64,
    tenant: String,
    /// Makes its name the only one.
    owner: String,
}

/// Everybody there is.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Ticket>,
    running: Vec<Ticket>,
}

/// Who goes next: the oldest ticket of the tenant whose turn is longest ago. `turns` has the
/// tenants that went, the last one at its end.
fn next<'a>(
    waiting: &'a [Ticket],
    running: usize,
    places: usize,
    turns: &[String],
) -> Option<&'a Ticket> {
    let turn = |ticket: &Ticket| {
        turns.iter().position(|tenant| *tenant == ticket.tenant).map_or(0, |turn| turn + 1)
    };
    let first = || waiting.iter().min_by_key(|&ticket| (turn(ticket), ticket));
    (running < places).then(first).flatten()
}

/// A tenant went.
fn take_turn(turns: &mut Vec<String>, tenant: &str) {
    turns.retain(|other| other != tenant);
    turns.push(tenant.to_owned());
    if turns.len() > MOST_TURNS {
        turns.remove(0);
    }
}

impl Ticket {
    fn new(tenant: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            order: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            tenant: tenant.to_owned(),
            owner: format!("{}-{number}", std::process::id()),
        }
    }

    fn name(&self, state: char) -> String {
        format!("{state}.{:020}.{}.{}", self.order, self.tenant, self.owner)
    }

    fn parse(name: &str) -> Option<(char, Self)> {
        let mut parts = name.splitn(4, '.');
        let state = parts.next()?.parse().ok()?;
        let order = parts.next()?.parse().ok()?;
        let (tenant, owner) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        matches!(state, 'w' | 'r').then_some((state, Self { order, tenant, owner }))
    }
}

/// The queue's directory, while nobody else changes it.
struct Turn<'a> {
    dir: &'a Path,
    _lock: File,
}

impl<'a> Turn<'a> {
    /// `None` when somebody else is at it right now.
    fn take(dir: &'a Path) -> io::Result<Option<Self>> {
        let path = dir.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { dir, _lock: lock })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn queue(&self) -> io::Result<Queue> {
        let mut queue = Queue::default();
        for entry in fs::read_dir(self.dir)? {
            match entry?.file_name().to_str().and_then(Ticket::parse) {
                Some(('w', ticket)) => queue.waiting.push(ticket),
                Some((_, ticket)) => queue.running.push(ticket),
                None => {}
            }
        }
        Ok(queue)
    }

    /// Removes a file nobody holds any more.
    fn sweep(&self, state: char, ticket: &Ticket) -> bool {
        let path = self.dir.join(ticket.name(state));
        let is_held = File::open(&path)
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)));
        !is_held && fs::remove_file(path).is_ok()
    }

    fn turns(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("turns")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Takes the place if it is this ticket's turn.
    fn admit(&self, ticket: &Ticket, places: usize, sweep: bool) -> io::Result<bool> {
        loop {
            let queue = self.queue()?;
            let mut turns = self.turns();
            let Some(first) = next(&queue.waiting, queue.running.len(), places, &turns) else {
                // A place whose holder died is free at once.
                let swept = sweep && queue.running.iter().any(|one| self.sweep('r', one));
                if swept {
                    continue;
                }
                return Ok(false);
            };
            if first != ticket {
                if self.sweep('w', first) {
                    continue;
                }
                return Ok(false);
            }
            fs::rename(self.dir.join(ticket.name('w')), self.dir.join(ticket.name('r')))?;
            if queue.waiting.len() == 1 && queue.running.is_empty() {
                turns.clear();
            }
            take_turn(&mut turns, &ticket.tenant);
            // What cannot be remembered only makes the order less fair.
            let _ = fs::write(self.dir.join("turns"), turns.join("\n"));
            return Ok(true);
        }
    }
}

/// A place among those that come up now, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// Both names it has had; `None` where there is no queue.
    files: Option<(PathBuf, PathBuf, File)>,
    /// How long it was waited for.
    pub(crate) waited: Duration,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((waiting, running, _)) = &self.files {
            let _ = fs::remove_file(running).or_else(|_| fs::remove_file(waiting));
            FREED.notify_waiters();
        }
    }
}

/// Waits for a place in the queue of a directory.
async fn queue(
    dir: &Path,
    tenant: &str,
    places: usize,
    is_cancelled: impl Fn() -> bool,
) -> io::Result<Option<Place>> {
    let began = Instant::now();
    fs::create_dir_all(dir)?;
    let ticket = Ticket::new(tenant);
    let mut place = Place { files: None, waited: Duration::ZERO };
    let mut swept = began;
    loop {
        let freed = FREED.notified();
        if let Some(turn) = Turn::take(dir)? {
            if place.files.is_none() {
                let paths = (dir.join(ticket.name('w')), dir.join(ticket.name('r')));
                let file = File::create_new(&paths.0)?;
                file.try_lock().map_err(io::Error::from)?;
                place.files = Some((paths.0, paths.1, file));
            }
            let sweep = swept.elapsed() > SWEEP;
            if sweep {
                swept = Instant::now();
            }
            if turn.admit(&ticket, places, sweep)? {
                place.waited = began.elapsed();
                return Ok(Some(place));
            }
        }
        if is_cancelled() {
            return Ok(None);
        }
        tokio::select! {
            () = freed => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

impl Service {
    /// Waits until one more VM of a tenant may be brought up.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] when `cancel` is raised meanwhile.
    pub(crate) async fn wait_for_place(
        &self,
        tenant: &TenantName,
        cancel: &AtomicBool,
    ) -> Result<Place> {
        let cpus = || std::thread::available_parallelism().map_or(1, |cpus| cpus.get()).max(FEWEST);
        let places = self.settings()?.bring_up_at_once.map_or_else(cpus, |most| most as usize);
        let dir = self.dirs.run.join("admission");
        match queue(&dir, tenant.as_str(), places, || cancel.load(Ordering::SeqCst)).await {
            Ok(Some(place)) => Ok(place),
            Ok(None) => {
                Err(Error::new(Kind::Interrupted, tenant, "interrupted while it waited its turn"))
            }
            Err(error) => {
                tracing::warn!(%error, "the queue of starts cannot be used");
                Ok(Place { files: None, waited: Duration::ZERO })
            }
        }
    }
}

#[cfg(test)]
mod tests;
