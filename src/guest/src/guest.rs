//! What all threads of the agent share.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mvm_guest_proto::config::GuestConfig;

use crate::drives::{Drive, Mounted};
use crate::initrd::Took;
use crate::log::Log;
use crate::once::Once;
use crate::reaper::Reaper;
use crate::workload::Workload;

/// In whose place the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is PID 1 and owns mounts, network, power.
    Init,
    /// It is a service under another init.
    Service {
        /// Program and arguments that turn the machine off; `None`: power off is refused.
        poweroff: Option<Vec<String>>,
    },
    /// It serves a unix socket on a machine it must not put to sleep, wake or turn off.
    Lodger,
}

/// Where in its life the guest is.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Milliseconds from the start of PID 1 to ready, modules apart; `None` before.
    pub(crate) ready_after_ms: Option<u64>,
    /// What went wrong on the way, for people.
    pub(crate) problems: Vec<String>,
    /// The configuration in force.
    pub(crate) config: Option<GuestConfig>,
    /// Epoch of the mounted secrets; 0 when none are mounted.
    pub(crate) secrets_epoch: u64,
    /// Between sleep-prep and wake.
    pub(crate) prepared_to_sleep: bool,
}

/// The agent.
pub(crate) struct Guest {
    pub(crate) place: Place,
    /// What host paths are relative to.
    pub(crate) root: OwnedFd,
    /// When PID 1 began, or this service.
    began: Took,
    pub(crate) reaper: Reaper,
    /// What the agent noted.
    pub(crate) log: Log,
    pub(crate) workload: Workload,
    pub(crate) once: Once,
    /// Requests being worked on.
    pub(crate) requests: AtomicUsize,
    life: Mutex<Life>,
    /// Held by whoever prepares to sleep or wakes: one at a time.
    pub(crate) sleep: Mutex<()>,
}

/// Bytes of the agent's own log that are kept.
const LOG_SIZE: usize = 32 * 1024;

impl Guest {
    /// An agent that has done nothing yet.
    pub(crate) fn new(place: Place, root: OwnedFd, began: Took) -> Arc<Self> {
        Arc::new(Self {
            place,
            root,
            began,
            reaper: Reaper::default(),
            log: Log::new(LOG_SIZE),
            workload: Workload::default(),
            once: Once::default(),
            requests: AtomicUsize::new(0),
            life: Mutex::default(),
            sleep: Mutex::new(()),
        })
    }

    /// Mounts a drive as it is now.
    ///
    /// # Errors
    /// For people.
    pub(crate) fn mount(&self, drive: Drive) -> Result<Mounted, String> {
        // The exclusive look at the device must not live on in a child.
        self.reaper.without_forks(|| drive.mount())
    }

    /// Notes something for people: kept in the agent's log and written to standard error, which
    /// is the serial console for PID 1.
    pub(crate) fn note(&self, text: &str) {
        let line = format!("mvm-guest: {text}\n");
        self.log.push(line.as_bytes());
        // Nobody may be listening there.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }

    /// Notes something that went wrong, and shows it in the status.
    pub(crate) fn problem(&self, text: String) {
        self.note(&text);
        let mut life = self.life();
        if life.problems.len() < 32 {
            life.problems.push(text);
        }
    }

    /// Where in its life the guest is. Held for moments only.
    pub(crate) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything the configuration asks for is done.
    pub(crate) fn now_ready(&self) {
        let millis = self.began.so_far().as_millis().try_into().unwrap_or(u64::MAX);
        self.life().ready_after_ms = Some(millis);
        self.note(&format!("ready after {millis} ms"));
    }
}
