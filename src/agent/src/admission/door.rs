//! The door of a queue: of those who wait in one process, one looks for all of them.
//!
//! ```text
//!  those who wait ──▶ the keeper ── looks at the directory when somebody of this process leaves,
//!        ▲                │         and every ten milliseconds for what other processes do
//!        └── admitted ────┘         whose turn it is goes in: the keeper itself or another
//! ```
//!
//! If all of fifty looked they would mostly keep each other from looking. A keeper that goes in, or
//! gives up, leaves the door to the next.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::{Queue, Ticket, next, take_turn};

/// How often it is looked at, when nobody of this process leaves.
const LOOK: Duration = Duration::from_millis(10);
/// How long the directory may be somebody else's until it is asked for again.
const AGAIN: Duration = Duration::from_millis(1);
/// How often places are looked at whose holders may have died.
pub(super) const SWEEP: Duration = Duration::from_millis(500);

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

    /// Gives a ticket its place; `false` when it left the queue.
    fn admit(&self, ticket: &Ticket, queue: &Queue, mut turns: Vec<String>) -> io::Result<bool> {
        let name = |state| self.dir.join(ticket.name(state));
        match fs::rename(name('w'), name('r')) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            renamed => renamed?,
        }
        if queue.waiting.len() == 1 && queue.running.is_empty() {
            turns.clear();
        }
        take_turn(&mut turns, &ticket.tenant);
        // What cannot be remembered only makes the order less fair.
        let _ = fs::write(self.dir.join("turns"), turns.join("\n"));
        Ok(true)
    }
}

/// A place among those that come up now, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// Given back with it; `None` where there is no queue.
    _held: Option<Held>,
    /// How long it was waited for.
    pub(crate) waited: Duration,
}

impl Place {
    /// Of somebody whom no queue admits.
    pub(super) fn outside() -> Self {
        Self { _held: None, waited: Duration::ZERO }
    }
}

/// A ticket's file, under the one or the other of its names.
#[derive(Debug)]
struct Held {
    door: Arc<Door>,
    ticket: Ticket,
    _lock: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.door.waiting().remove(&self.ticket.owner);
        let file = |state| self.door.dir.join(self.ticket.name(state));
        let _ = fs::remove_file(file('r')).or_else(|_| fs::remove_file(file('w')));
        self.door.freed.notify_one();
    }
}

/// The door to a queue's places, for all of this process.
#[derive(Debug)]
struct Door {
    dir: PathBuf,
    /// Had by who looks.
    keeper: tokio::sync::Mutex<()>,
    /// Somebody of this process gave a place back.
    freed: Notify,
    /// Whom to tell, by the ticket's owner.
    waiting: Mutex<BTreeMap<String, oneshot::Sender<()>>>,
}

impl Door {
    fn of(dir: &Path) -> Arc<Self> {
        static DOORS: Mutex<BTreeMap<PathBuf, Arc<Door>>> = Mutex::new(BTreeMap::new());
        let make = || {
            Arc::new(Self {
                dir: dir.to_owned(),
                keeper: tokio::sync::Mutex::default(),
                freed: Notify::new(),
                waiting: Mutex::default(),
            })
        };
        let mut doors = DOORS.lock().unwrap_or_else(PoisonError::into_inner);
        doors.entry(dir.to_owned()).or_insert_with(make).clone()
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines up; `None` while somebody else is at the queue.
    fn join(
        self: &Arc<Self>,
        ticket: &Ticket,
    ) -> io::Result<Option<(Held, oneshot::Receiver<()>)>> {
        // A file that is there and not locked yet would look like a dead one's.
        let Some(_turn) = Turn::take(&self.dir)? else { return Ok(None) };
        let lock = File::create_new(self.dir.join(ticket.name('w')))?;
        lock.try_lock().map_err(io::Error::from)?;
        let (tell, told) = oneshot::channel();
        self.waiting().insert(ticket.owner.clone(), tell);
        Ok(Some((Held { door: self.clone(), ticket: ticket.clone(), _lock: lock }, told)))
    }

    /// Admits all of this process whose turn it is.
    fn look(&self, places: usize, sweep: bool) -> io::Result<()> {
        let Some(turn) = Turn::take(&self.dir)? else { return Ok(()) };
        loop {
            let (queue, turns) = (turn.queue()?, turn.turns());
            let Some(first) = next(&queue.waiting, queue.running.len(), places, &turns) else {
                // A place whose holder died is free at once.
                if sweep && queue.running.iter().any(|one| turn.sweep('r', one)) {
                    continue;
                }
                return Ok(());
            };
            let told = self.waiting().remove(&first.owner);
            match told {
                Some(tell) if turn.admit(first, &queue, turns)? => drop(tell.send(())),
                Some(_) => {}
                None if turn.sweep('w', first) => {}
                // Another process looks for it.
                None => return Ok(()),
            }
        }
    }
}

/// Waits for a place in the queue of a directory; `None` when it was cancelled.
///
/// # Errors
/// When the directory cannot be used.
pub(super) async fn queue(
    dir: &Path,
    tenant: &str,
    places: usize,
    is_cancelled: impl Fn() -> bool,
) -> io::Result<Option<Place>> {
    let began = Instant::now();
    fs::create_dir_all(dir)?;
    let (door, ticket) = (Door::of(dir), Ticket::new(tenant));
    let (held, mut told) = loop {
        if let Some(joined) = door.join(&ticket)? {
            break joined;
        }
        if is_cancelled() {
            return Ok(None);
        }
        tokio::time::sleep(AGAIN).await;
    };
    let broken = |_| io::Error::other("the queue broke");
    let mut swept = began;
    let mut keeper = None;
    loop {
        if keeper.is_some() {
            let sweep = swept.elapsed() > SWEEP;
            if sweep {
                swept = Instant::now();
            }
            door.look(places, sweep)?;
        }
        tokio::select! {
            biased;
            admitted = &mut told => {
                admitted.map_err(broken)?;
                return Ok(Some(Place { _held: Some(held), waited: began.elapsed() }));
            }
            lock = door.keeper.lock(), if keeper.is_none() => keeper = Some(lock),
            () = door.freed.notified(), if keeper.is_some() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        if is_cancelled() {
            return Ok(None);
        }
    }
}
