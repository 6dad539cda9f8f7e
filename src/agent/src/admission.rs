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
//! queue: commands and the agent stand in the same one, and of each process one looks at it
//! ([`door`]). Who dies leaves a file without a lock, which whoever comes next removes. Where the
//! queue cannot be used nobody waits in it: it is there for speed, not for safety.

mod door;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mvm_model::TenantName;
use nix::time::{ClockId, clock_gettime};

pub(crate) use door::Place;
use door::queue;

use crate::error::{Error, Kind, Result};
use crate::service::Service;

/// Even where there are fewer CPUs: a wake mostly waits.
const FEWEST: usize = 3;
/// Whose turns are remembered while there is no idle moment.
const MOST_TURNS: usize = 4096;

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
                Ok(Place::outside())
            }
        }
    }
}

#[cfg(test)]
mod tests;
