//! Changes of settings: what of a tenant or a pool becomes another, everything else stays.

use mvm_model::PoolPath;
use mvm_model::TenantName;
use mvm_model::id::InstancePath;
use mvm_model::image::ImageSource;
use mvm_model::record::{DesiredCounts, Egress, ManagedBy, Millis, PoolRecord};
use mvm_model::state::Status;
use mvm_model::{InstanceId, InstanceName};
use serde::{Deserialize, Serialize};

use crate::agent::NoteView;

/// Changes a tenant's settings. Starts and stops nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateTenant {
    /// Which.
    pub tenant: TenantName,
    /// What changes.
    pub update: TenantUpdate,
}

/// What of a tenant changes; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantUpdate {
    /// vCPUs of all running and warm instances.
    pub max_vcpus: Option<u32>,
    /// Memory of all running and warm instances, MiB.
    pub max_mem_mib: Option<u64>,
    /// Running instances.
    pub max_running: Option<u32>,
    /// Warm instances.
    pub max_warm: Option<u32>,
    /// Pools.
    pub max_pools: Option<u32>,
    /// Instances in one pool.
    pub max_instances_per_pool: Option<u32>,
    /// Data drives and snapshots, GiB.
    pub max_disk_gib: Option<u64>,
    /// What its guests may reach.
    pub egress: Option<Egress>,
    /// Whether all its pools are pinned.
    pub pinned: Option<bool>,
}

/// Changes a pool's settings. Starts and stops nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdatePool {
    /// Which.
    pub pool: PoolPath,
    /// What changes.
    pub update: PoolUpdate,
}

/// What of a pool changes; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolUpdate {
    /// Where its image comes from; built by `pool build` or the next reconcile that boots.
    pub image: Option<ImageSource>,
    /// vCPUs of each instance.
    pub vcpus: Option<u32>,
    /// Memory of each instance, MiB.
    pub mem_mib: Option<u64>,
    /// Data drive of each instance, MiB; an existing one only grows.
    pub data_disk_mib: Option<u64>,
    /// When a running idle instance becomes warm, seconds.
    pub warm_after_seconds: Setting<u64>,
    /// When an idle instance goes to sleep, seconds.
    pub sleep_after_seconds: Setting<u64>,
    /// How many keep running however idle.
    pub keep_running: Option<u32>,
    /// How many stay warm however idle.
    pub keep_warm: Option<u32>,
    /// The shortest time it runs before the idle policy parks it, seconds.
    pub min_running_seconds: Option<u64>,
    /// The shortest time it is warm before the idle policy puts it to sleep, seconds.
    pub min_warm_seconds: Option<u64>,
    /// How long open work may drain before a stop, seconds.
    pub drain_timeout_seconds: Option<u64>,
    /// How long a guest may take to turn itself off, seconds.
    pub graceful_shutdown_seconds: Option<u64>,
    /// Its instances stay in memory.
    pub pinned: Option<bool>,
    /// Its instances are never taken down.
    pub critical: Option<bool>,
    /// The secrets its instances see; cleared: every one of the tenant's.
    pub secret_scopes: Setting<Vec<String>>,
}

/// A pool after an update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PoolUpdated {
    /// The pool.
    pub record: PoolRecord,
    /// What a person should know: when it reaches which instances.
    pub notes: Vec<String>,
}

/// A setting that can be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting<T> {
    /// It stays.
    #[default]
    Keep,
    /// It goes.
    Clear,
    /// It is this.
    Set(T),
}

impl<T> Setting<T> {
    /// Changes a setting, or leaves it.
    pub fn apply(self, place: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *place = None,
            Self::Set(value) => *place = Some(value),
        }
    }
}

/// Gives a tenant to an owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptTenant {
    /// Which.
    pub tenant: TenantName,
    /// To whom.
    pub to: ManagedBy,
}

/// Gives a pool to an owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptPool {
    /// Which.
    pub pool: PoolPath,
    /// To whom.
    pub to: ManagedBy,
}

/// Gives a named instance to an owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptInstance {
    /// Which, by its name.
    pub instance: InstancePath,
    /// To whom.
    pub to: ManagedBy,
}

/// What adopting answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Whose it was.
    pub before: ManagedBy,
    /// Whose it is.
    pub now: ManagedBy,
}

/// Why a pool's instances are what they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainPool {
    /// Which.
    pub pool: PoolPath,
}

/// What the planner thinks of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolExplanation {
    /// The pool.
    pub pool: String,
    /// What its counts ask for.
    pub desired: DesiredCounts,
    /// Its instances, by offset.
    pub instances: Vec<ExplainedInstance>,
    /// What the next round of the loop does in the pool.
    pub next: Vec<String>,
    /// What waits, and why.
    pub notes: Vec<NoteView>,
    /// When the first of what waits for a time is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due: Option<Millis>,
}

/// What the planner thinks of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedInstance {
    /// The instance.
    pub instance_id: InstanceId,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<InstanceName>,
    /// What it is.
    pub status: Status,
    /// What it is there for.
    pub slot: String,
    /// What happens to it next, or why it waits with that.
    pub next: String,
    /// What the idle policy says, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// When what waits for a time is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Millis>,
}
