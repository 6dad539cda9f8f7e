//! Steps: the closed vocabulary between planner and executor.
//!
//! A step leaves nothing to choose. The executor takes them in order; when one fails, it skips
//! the later ones of the same object and goes on with the others.

use std::fmt;

use mvm_model::id::{InstancePath, PoolPath};
use mvm_model::record::Millis;
use mvm_model::{InstanceName, Offset, TenantName};

use crate::note::{About, Note, Reason};

/// Why something is taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// The pool's counts ask for it.
    Counts,
    /// A named instance asks for it.
    Named,
    /// It was booted only for this.
    Parking,
    /// It was idle for so many seconds. The executor records [`Parked::Idle`].
    ///
    /// [`Parked::Idle`]: mvm_model::observed::Parked::Idle
    Idle {
        /// Seconds.
        seconds: u64,
    },
    /// There are more instances than the counts ask for.
    Surplus,
    /// It, its pool or its tenant was removed from its declaration.
    Orphaned,
    /// The desired state does not know it, and prunes.
    Pruned,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counts => f.write_str("the pool's counts"),
            Self::Named => f.write_str("asked for by name"),
            Self::Parking => f.write_str("booted to be parked"),
            Self::Idle { seconds } => write!(f, "idle for {seconds} s"),
            Self::Surplus => f.write_str("more than the counts"),
            Self::Orphaned => f.write_str("removed from its declaration"),
            Self::Pruned => f.write_str("not in the desired state"),
        }
    }
}

/// What has to be made so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ensure {
    /// It does not exist.
    New,
    /// Its record differs from what is asked for.
    Changed,
    /// Its bridge or rules are missing or were changed.
    Network,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Settle a transition that broke off.
    Settle {
        /// Of this instance.
        instance: InstancePath,
    },
    /// Note that a tenant was removed from its declaration.
    OrphanTenant {
        /// The tenant.
        tenant: TenantName,
    },
    /// Note that a pool was removed from its declaration.
    OrphanPool {
        /// The pool.
        pool: PoolPath,
    },
    /// Turn an instance off.
    Stop {
        /// The instance.
        instance: InstancePath,
        /// Why.
        why: Why,
    },
    /// Remove an instance that is off, with what it holds.
    Destroy {
        /// The instance.
        instance: InstancePath,
        /// Why.
        why: Why,
    },
    /// Put an instance to sleep.
    Sleep {
        /// The instance.
        instance: InstancePath,
        /// Why.
        why: Why,
    },
    /// Pause an instance.
    Warm {
        /// The instance.
        instance: InstancePath,
        /// Why.
        why: Why,
    },
    /// Remove a pool; its instances are gone.
    DestroyPool {
        /// The pool.
        pool: PoolPath,
    },
    /// Remove a tenant with its network; its pools are gone.
    DestroyTenant {
        /// The tenant.
        tenant: TenantName,
    },
    /// Make a tenant's record, bridge and rules what [`DesiredState::tenant`](mvm_model::desired::DesiredState::tenant) says.
    EnsureTenant {
        /// The tenant.
        tenant: TenantName,
        /// What is not so.
        what: Ensure,
    },
    /// Make a pool's record what the tenant's [`TenantSpec::pool`] says.
    ///
    /// [`TenantSpec::pool`]: mvm_model::desired::TenantSpec::pool
    EnsurePool {
        /// The pool.
        pool: PoolPath,
        /// What is not so.
        what: Ensure,
    },
    /// Build a pool's image and make it current.
    BuildImage {
        /// The pool.
        pool: PoolPath,
    },
    /// Resume a sleeping instance.
    Wake {
        /// The instance.
        instance: InstancePath,
    },
    /// Resume a warm instance.
    Resume {
        /// The instance.
        instance: InstancePath,
    },
    /// Boot an instance.
    Start {
        /// The instance.
        instance: InstancePath,
    },
    /// Create an instance's record. Its id is drawn by the executor.
    Create {
        /// In this pool.
        pool: PoolPath,
        /// With this name.
        name: Option<InstanceName>,
        /// At this position.
        offset: Offset,
    },
}

impl Step {
    /// The instance it is about.
    pub fn instance(&self) -> Option<&InstancePath> {
        match self {
            Self::Settle { instance }
            | Self::Stop { instance, .. }
            | Self::Destroy { instance, .. }
            | Self::Sleep { instance, .. }
            | Self::Warm { instance, .. }
            | Self::Wake { instance }
            | Self::Resume { instance }
            | Self::Start { instance } => Some(instance),
            _ => None,
        }
    }

    /// The pool it is about or within.
    pub fn pool(&self) -> Option<&PoolPath> {
        match self {
            Self::OrphanPool { pool }
            | Self::DestroyPool { pool }
            | Self::EnsurePool { pool, .. }
            | Self::BuildImage { pool }
            | Self::Create { pool, .. } => Some(pool),
            _ => self.instance().map(|instance| &instance.pool),
        }
    }

    /// The tenant it is about or within: what fails here stays here.
    pub fn tenant(&self) -> &TenantName {
        match self {
            Self::OrphanTenant { tenant }
            | Self::DestroyTenant { tenant }
            | Self::EnsureTenant { tenant, .. } => tenant,
            Self::OrphanPool { pool }
            | Self::DestroyPool { pool }
            | Self::EnsurePool { pool, .. }
            | Self::BuildImage { pool }
            | Self::Create { pool, .. } => &pool.tenant,
            Self::Settle { instance }
            | Self::Stop { instance, .. }
            | Self::Destroy { instance, .. }
            | Self::Sleep { instance, .. }
            | Self::Warm { instance, .. }
            | Self::Wake { instance }
            | Self::Resume { instance }
            | Self::Start { instance } => &instance.pool.tenant,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ensure = |what: &Ensure| match what {
            Ensure::New => "create",
            Ensure::Changed => "update",
            Ensure::Network => "repair the network of",
        };
        match self {
            Self::Settle { instance } => write!(f, "settle {instance}"),
            Self::OrphanTenant { tenant } => write!(f, "mark tenant {tenant} orphaned"),
            Self::OrphanPool { pool } => write!(f, "mark pool {pool} orphaned"),
            Self::Stop { instance, why } => write!(f, "stop {instance} ({why})"),
            Self::Destroy { instance, why } => write!(f, "destroy {instance} ({why})"),
            Self::Sleep { instance, why } => write!(f, "sleep {instance} ({why})"),
            Self::Warm { instance, why } => write!(f, "warm {instance} ({why})"),
            Self::DestroyPool { pool } => write!(f, "destroy pool {pool}"),
            Self::DestroyTenant { tenant } => write!(f, "destroy tenant {tenant}"),
            Self::EnsureTenant { tenant, what } => write!(f, "{} tenant {tenant}", ensure(what)),
            Self::EnsurePool { pool, what } => write!(f, "{} pool {pool}", ensure(what)),
            Self::BuildImage { pool } => write!(f, "build the image of {pool}"),
            Self::Wake { instance } => write!(f, "wake {instance}"),
            Self::Resume { instance } => write!(f, "resume {instance}"),
            Self::Start { instance } => write!(f, "start {instance}"),
            Self::Create { pool, name: Some(name), .. } => write!(f, "create {pool}/{name}"),
            Self::Create { pool, name: None, .. } => write!(f, "create an instance in {pool}"),
        }
    }
}

/// What a node has to do now, and what it leaves for later.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// What is not done, and why.
    pub notes: Vec<Note>,
}

impl Plan {
    /// Whether there is nothing to do now. Notes may still say that something waits.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The instances somebody is at right now, whose next step waits for that.
    pub fn busy(&self) -> impl Iterator<Item = &InstancePath> {
        self.notes.iter().filter_map(|note| match (&note.about, &note.reason) {
            (About::Instance(instance), Reason::Busy(_)) => Some(instance),
            _ => None,
        })
    }

    /// When the first of what waits for a time is due.
    pub fn next_due(&self) -> Option<Millis> {
        self.notes.iter().filter_map(|note| note.reason.until()).min()
    }
}
