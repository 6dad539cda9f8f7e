//! Observed state: what a node is, as much of it as the planner needs.
//!
//! The agent fills it from its records held against reality (processes, bridges, images). It is
//! plain data: [`Observed`] and DesiredState together decide everything `plan::host` does, so a
//! decision that surprised somebody can be replayed from the two.

use serde::{Deserialize, Serialize};

use crate::desired::{PoolSpec, TenantSpec};
use crate::id::{Digest, InstanceId};
use crate::image::Role;
use crate::name::InstanceName;
use crate::network::Offset;
use crate::policy::Protection;
use crate::record::{InstanceRecord, Millis};
use crate::resources::{Resources, Usage};
use crate::state::{Status, Transition};

/// A node as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Memory all guests together may be given, MiB; no limit when `None`.
    pub guest_mem_mib: Option<u64>,
    /// Its tenants.
    pub tenants: Vec<ObservedTenant>,
}

/// What a tenant is being done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Life {
    /// Nothing.
    #[default]
    Living,
    /// It is being destroyed; nothing else is done to it.
    Destroying,
    /// It is part of mvm (`dev`), which no declaration speaks for.
    Builtin,
}

/// Whether a tenant's bridge and rules are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetState {
    /// As they should be.
    #[default]
    Ready,
    /// Missing or changed by somebody; made again before anything starts.
    Broken,
}

/// A tenant as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedTenant {
    /// Its settings as recorded; its pools are in [`Self::pools`].
    pub spec: TenantSpec,
    /// What it is being done to.
    pub life: Life,
    /// Its network.
    pub net: NetState,
    /// Its pools.
    pub pools: Vec<ObservedPool>,
}

impl ObservedTenant {
    /// A tenant that is as recorded.
    pub fn new(spec: TenantSpec) -> Self {
        Self { spec, life: Life::Living, net: NetState::Ready, pools: Vec::new() }
    }

    /// All its instances.
    pub fn instances(&self) -> impl Iterator<Item = &ObservedInstance> {
        self.pools.iter().flat_map(|pool| &pool.instances)
    }

    /// What of its quotas is in use.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for instance in self.instances() {
            match instance.claims() {
                Some(Status::Running) => usage.add_running(instance.resources),
                Some(Status::Warm) => usage.add_warm(instance.resources),
                _ => {}
            }
        }
        usage
    }

    /// Disk its data drives (at full size) and snapshots hold, MiB.
    pub fn disk_mib(&self) -> u64 {
        self.instances().map(ObservedInstance::disk_mib).fold(0, u64::saturating_add)
    }
}

/// A pool's image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ImageState {
    /// Not built yet.
    #[default]
    Missing,
    /// This revision is current.
    Ready(Digest),
    /// The last build failed.
    Failed {
        /// When.
        at: Millis,
        /// Why, for people.
        reason: String,
    },
}

/// A pool as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPool {
    /// Its settings as recorded; its named instances are in [`Self::instances`].
    pub spec: PoolSpec,
    /// Its image.
    pub image: ImageState,
    /// Its instances, named and unnamed.
    pub instances: Vec<ObservedInstance>,
}

impl ObservedPool {
    /// A pool that is as recorded, not built, without instances.
    pub fn new(spec: PoolSpec) -> Self {
        Self { spec, image: ImageState::Missing, instances: Vec::new() }
    }

    /// What the agent may not take from its instances, as recorded.
    pub fn protection(&self, tenant_pinned: bool) -> Protection {
        self.spec.protection(tenant_pinned)
    }
}

/// What is on its way with an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Motion {
    /// Nothing.
    #[default]
    Still,
    /// Somebody is taking it through a transition right now.
    Moving(Transition),
    /// A transition broke off and nobody holds the instance: it has to be settled first.
    Interrupted(Transition),
}

/// Why an instance is warm or sleeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parked {
    /// It was asked for, or it is not parked.
    #[default]
    No,
    /// The idle policy parked it: it still counts as running, and only a request, a person or
    /// `keep_running` brings it back.
    Idle,
}

/// Steps that failed one after another, for backing off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How many in a row; 0 when a person asked again since.
    pub count: u32,
    /// When the last one failed.
    pub at: Millis,
}

/// An instance as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedInstance {
    /// Its id.
    pub instance_id: InstanceId,
    /// Its name, when it is a named one.
    pub name: Option<InstanceName>,
    /// What it is for.
    pub role: Role,
    /// Its position in the subnet.
    pub offset: Offset,
    /// What it is given.
    pub resources: Resources,
    /// Its status.
    pub status: Status,
    /// What is on its way.
    pub motion: Motion,
    /// When it got its status.
    pub since: Millis,
    /// When a person last started, stopped, warmed, woke it or put it to sleep.
    pub manual: Option<Millis>,
    /// Since when its guest does nothing; `None` while it works or nobody knows.
    pub idle_since: Option<Millis>,
    /// Why it is warm or sleeping.
    pub parked: Parked,
    /// Its last step, if that failed.
    pub failure: Option<Failure>,
    /// The revision it was last booted from.
    pub revision: Option<Digest>,
}

impl ObservedInstance {
    /// What a record says, nothing held against it yet: `status` and `motion` as recorded, the
    /// transition as one that broke off.
    pub fn of_record(record: &InstanceRecord) -> Self {
        Self {
            instance_id: record.instance_id,
            name: record.name.clone(),
            role: record.role.clone(),
            offset: record.offset,
            resources: record.resources,
            status: record.state.status(),
            motion: record.transition.clone().map_or(Motion::Still, Motion::Interrupted),
            since: record.since,
            manual: record.manual,
            idle_since: None,
            parked: record.parked,
            failure: record.failure,
            revision: record.revision.clone(),
        }
    }

    /// The status it counts as: its own, or the one it is on its way to. `None` when it is being
    /// destroyed.
    pub fn heading(&self) -> Option<Status> {
        let (Motion::Moving(transition) | Motion::Interrupted(transition)) = &self.motion else {
            return Some(self.status);
        };
        transition.target()
    }

    /// Which quota it counts against: the one of its status or of the status it is on its way
    /// to, whichever holds more. What is not finished is not free yet.
    pub fn claims(&self) -> Option<Status> {
        match (self.status, self.heading()) {
            (Status::Running, _) | (_, Some(Status::Running)) => Some(Status::Running),
            (Status::Warm, _) | (_, Some(Status::Warm)) => Some(Status::Warm),
            _ => None,
        }
    }

    /// Disk it holds: its data drive at full size and, while it sleeps, its memory, MiB.
    pub fn disk_mib(&self) -> u64 {
        let asleep = self.status == Status::Sleeping || self.heading() == Some(Status::Sleeping);
        let snapshot = if asleep { self.resources.mem_mib } else { 0 };
        self.resources.data_disk_mib.saturating_add(snapshot)
    }

    /// Whether removing it would lose what a guest wrote.
    pub fn holds_data(&self) -> bool {
        self.resources.data_disk_mib > 0 && self.status != Status::Created
    }

    /// Whether it has a VM.
    pub fn is_up(&self) -> bool {
        matches!(self.status, Status::Running | Status::Warm)
    }
}
