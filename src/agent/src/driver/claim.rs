//! An instance's lock, and how a wake gets it.
//!
//! ```text
//!  any verb            waits ten seconds for whoever is at it, then names them
//!  start, wake         waits for as long as the instance is coming up: then it runs already
//!  a person's wake     also says that it is wanted: a sleep on its way is called off, or done
//!                      when that is sooner, and the wake has its turn
//!  a person's stop,    says that it is wanted off: a start on its way is called off
//!  destroy
//! ```
//!
//! What is wanted is said by a lock that is shared by those who want it, so it is never said by
//! the dead. The one who is at it looks whether anybody holds it ([`Wish::is_said`]).

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mvm_model::InstancePath;
use mvm_model::record::InstanceRecord;
use mvm_model::state::{Transition, Verb};

use super::{Asker, Driver, PATIENCE};
use crate::error::{Error, Kind, Result};
use crate::service::Service;

/// How long the lock is tried before its holder's transition is looked at.
const SLICE: Duration = Duration::from_millis(200);
/// Longer than anything takes that ends by itself.
const LONGEST: Duration = Duration::from_secs(600);
/// How often a sleep looks whether it is to be called off.
const LOOK: Duration = Duration::from_millis(50);

impl<'a> Driver<'a> {
    /// The instance, for this verb.
    pub(super) async fn claim(
        service: &'a Service,
        path: &InstancePath,
        cancel: &'a AtomicBool,
        asker: Asker,
        verb: Verb,
    ) -> Result<Self> {
        let who = at_it(service, asker, verb);
        if !matches!(verb, Verb::Start | Verb::Wake) {
            let off = asker == Asker::Person && matches!(verb, Verb::Stop | Verb::Destroy);
            let dir = service.instance_dir(&service.instance(path)?);
            let _off = off.then(|| Wish::Off.say(&dir)).flatten();
            return Self::open_as(service, &who, path, cancel, PATIENCE).await;
        }
        let (mut wanted, mut patience) = (None, Duration::ZERO);
        let began = Instant::now();
        loop {
            let error = match Self::open_as(service, &who, path, cancel, patience).await {
                Err(error) if error.kind == Kind::Busy => error,
                other => return other,
            };
            if cancel.load(Ordering::SeqCst) {
                let text = "interrupted while somebody else was at it";
                return Err(Error::new(Kind::Interrupted, path, text));
            }
            patience = SLICE;
            if asker == Asker::Person && wanted.is_none() {
                wanted = Wish::Awake.say(&service.instance_dir(&service.instance(path)?));
            }
            if Instant::now() > give_up(began, &service.instance(path)?, wanted.is_some()) {
                return Err(error);
            }
        }
    }

    /// Whether somebody waits for this instance to wake.
    fn is_wanted(&self) -> bool {
        Wish::Awake.is_said(&self.service.instance_dir(&self.record))
    }

    /// Completes when a start is to be called off because a person wants it off.
    pub(super) async fn wanted_off(&self) -> Error {
        let dir = self.service.instance_dir(&self.record);
        while !Wish::Off.is_said(&dir) {
            tokio::time::sleep(LOOK).await;
        }
        let text = "somebody asked for it to be off meanwhile";
        Error::new(Kind::Conflict, self.record.path(), text)
    }

    /// Completes when a sleep is to be called off.
    pub(super) async fn called_off(&self) {
        while !self.cancel.load(Ordering::SeqCst) && !self.is_wanted() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops a sleep here when it was called off; called where the VM can go on.
    pub(super) fn check_called_off(&self) -> Result<()> {
        self.check_cancel()?;
        match self.is_wanted() {
            false => Ok(()),
            true => {
                let text = "somebody asked for it to be awake meanwhile";
                Err(Error::new(Kind::Interrupted, self.record.path(), text))
            }
        }
    }
}

/// Until when a wake waits for whoever is at this instance. What comes up, or waits for its turn
/// to (it has not begun then), ends by itself, and so does a sleep that knows of the wake.
fn give_up(began: Instant, record: &InstanceRecord, is_wanted: bool) -> Instant {
    let ends_by_itself = match record.transition {
        None | Some(Transition::Starting | Transition::Waking { .. } | Transition::Resuming) => {
            true
        }
        Some(Transition::Sleeping { .. }) => is_wanted,
        _ => false,
    };
    began + if ends_by_itself { LONGEST } else { PATIENCE }
}

/// What others are told of who is at it: `mvm instance start by bob`, or what the agent does.
fn at_it(service: &Service, asker: Asker, verb: Verb) -> String {
    match (asker, &service.person) {
        (Asker::Plan(_), _) => format!("{}, to {verb} it as planned,", service.who),
        (Asker::Person, Some(person)) => format!("{}, to {verb} it for {person},", service.who),
        (Asker::Person, None) => format!("{} by {}", service.who, service.asking()),
    }
}

/// What is wanted of an instance somebody is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Awake,
    Off,
}

impl Wish {
    fn path_in(self, dir: &Path) -> PathBuf {
        dir.join(match self {
            Self::Awake => ".wanted",
            Self::Off => ".unwanted",
        })
    }

    /// Says so, until dropped. What cannot be said costs waiting.
    fn say(self, dir: &Path) -> Option<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(self.path_in(dir)).ok()?;
        // A look of the one who is at it holds it for a moment.
        file.lock_shared().ok()?;
        Some(file)
    }

    /// Whether somebody says so.
    fn is_said(self, dir: &Path) -> bool {
        let file = File::open(self.path_in(dir));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_said_while_anybody_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let is_wanted = || Wish::Awake.is_said(dir.path());
        assert!(!is_wanted());
        let (one, other) = (Wish::Awake.say(dir.path()), Wish::Awake.say(dir.path()));
        assert!(is_wanted() && !Wish::Off.is_said(dir.path()));
        drop(one);
        assert!(is_wanted());
        drop(other);
        assert!(!is_wanted());
    }
}
