//! Notes: what a plan does not do now, and why.

use std::fmt;

use mvm_model::TenantName;
use mvm_model::id::{InstancePath, PoolPath};
use mvm_model::intent;
use mvm_model::policy::Protection;
use mvm_model::record::{ManagedBy, Millis};
use mvm_model::resources::OverQuota;
use mvm_model::state::Transition;

/// What a note is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// The node as a whole.
    Node,
    /// A tenant.
    Tenant(TenantName),
    /// A pool.
    Pool(PoolPath),
    /// An instance.
    Instance(InstancePath),
}

impl About {
    /// The tenant it is in.
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::Node => None,
            Self::Tenant(tenant) => Some(tenant),
            Self::Pool(pool) => Some(&pool.tenant),
            Self::Instance(instance) => Some(&instance.pool.tenant),
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("this node"),
            Self::Tenant(tenant) => tenant.fmt(f),
            Self::Pool(pool) => pool.fmt(f),
            Self::Instance(instance) => instance.fmt(f),
        }
    }
}

/// Something a plan does not do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// To what.
    pub about: About,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.reason)
    }
}

/// Why something is not done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A quota of the tenant.
    Quota(OverQuota),
    /// The host's memory for guests.
    HostMemory {
        /// What is wanted, MiB.
        wanted: u64,
        /// What is free, MiB.
        free: u64,
    },
    /// No free address in what this node may lease.
    NoAddress,
    /// The address that is asked for belongs to another instance.
    AddressTaken,
    /// A person changed it by hand.
    Manual {
        /// Left alone until then.
        until: Millis,
    },
    /// Its last step failed.
    Backoff {
        /// Tried again then.
        until: Millis,
    },
    /// Somebody is changing it right now.
    Busy(Transition),
    /// A transition of it broke off; settled first.
    Settling,
    /// Protected from what the desired state asks for.
    Protected(Protection),
    /// Its image is being built first.
    NotBuilt,
    /// Its image could not be built.
    BuildFailed {
        /// Why.
        reason: String,
        /// Tried again then.
        until: Millis,
    },
    /// It belongs to another writer, so it is not pruned.
    Owned(ManagedBy),
    /// It is being destroyed.
    Destroying,
    /// More than the counts, off, and kept because they hold data.
    KeptData {
        /// How many instances.
        instances: u32,
    },
    /// What is asked for can never be so.
    ForLife(intent::Why),
    /// The desired state is empty, so nothing is pruned.
    PrunesNothing,
    /// Its secrets are others than the desired state names by their digest. They are set by
    /// people, never by a document.
    OtherSecrets,
}

impl Reason {
    /// When it no longer holds, if that is a matter of time.
    pub fn until(&self) -> Option<Millis> {
        match self {
            Self::Manual { until } | Self::Backoff { until } | Self::BuildFailed { until, .. } => {
                Some(*until)
            }
            _ => None,
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Quota(OverQuota { quota: "max_running", .. }) => {
                "raise the tenant's max_running (booting an instance to be parked needs one), or \
                 stop something"
            }
            Self::Quota(_) => "raise the tenant's quota, or stop or destroy something",
            Self::HostMemory { .. } => "stop something on this host or lower the counts",
            Self::NoAddress => "destroy an instance, or use a tenant with a larger subnet",
            Self::AddressTaken => "ask for another offset, or none",
            Self::Manual { .. } => "'mvm agent reconcile --desired FILE' does not wait",
            Self::Backoff { .. } => "'mvm instance logs' shows why it failed",
            Self::Protected(_) => "take pinned or critical away from the pool or tenant",
            Self::BuildFailed { .. } => "'mvm pool build' shows the whole error",
            Self::Owned(_) => "take it over with 'adopt', or remove it where it is declared",
            Self::KeptData { .. } => {
                "'mvm instance destroy PATH --force' removes one with its data"
            }
            Self::ForLife(_) => "use another name, or destroy it first",
            Self::PrunesNothing => "destroy tenants by name with 'mvm tenant destroy'",
            Self::OtherSecrets => {
                "'mvm tenant secrets list' shows those it has; 'mvm agent desired' writes their \
                 digest"
            }
            Self::Busy(_) | Self::Settling | Self::NotBuilt | Self::Destroying => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota(over) => over.fmt(f),
            Self::HostMemory { wanted, free } => {
                write!(f, "{wanted} MiB wanted, {free} MiB of the host's memory free for guests")
            }
            Self::NoAddress => f.write_str("the subnet has no free address"),
            Self::AddressTaken => f.write_str("the offset it asks for is another instance's"),
            Self::Manual { .. } => f.write_str("left as a person put it"),
            Self::Backoff { .. } => f.write_str("its last step failed; tried again later"),
            Self::Busy(transition) => write!(f, "busy: {}", word(transition)),
            Self::Settling => f.write_str("an interrupted transition is settled first"),
            Self::Protected(protection) => write!(f, "left alone because it is {protection}"),
            Self::NotBuilt => f.write_str("waits for its image"),
            Self::BuildFailed { reason, .. } => write!(f, "its image was not built: {reason}"),
            Self::Owned(owner) => {
                let owner = match owner {
                    ManagedBy::Local => "local",
                    ManagedBy::Nix => "nix",
                    ManagedBy::Coordinator => "coordinator",
                };
                write!(f, "not pruned, it is managed by {owner}")
            }
            Self::Destroying => f.write_str("is being destroyed"),
            Self::KeptData { instances } => {
                write!(f, "{instances} more than the counts, off and kept for their data")
            }
            Self::ForLife(why) => why.fmt(f),
            Self::PrunesNothing => {
                f.write_str("the desired state names no tenant, so it prunes none")
            }
            Self::OtherSecrets => {
                f.write_str("its secrets are not those the desired state names (secrets_hash)")
            }
        }
    }
}

fn word(transition: &Transition) -> &'static str {
    match transition {
        Transition::Starting => "starting",
        Transition::Warming => "warming",
        Transition::Resuming => "resuming",
        Transition::Sleeping { .. } => "going to sleep",
        Transition::Waking { .. } => "waking",
        Transition::Stopping => "stopping",
        Transition::Destroying => "being destroyed",
    }
}
