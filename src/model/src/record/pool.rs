//! The record of a pool.

use serde::{Deserialize, Serialize};

use super::{DesiredCounts, ManagedBy, Millis, SCHEMA_VERSION};
use crate::desired::PoolSpec;
use crate::id::{Digest, PoolPath};
use crate::image::{History, ImageSource, Origin, Role};
use crate::name::{PoolName, TenantName};
use crate::policy::{IdlePolicy, Route, RuntimePolicy};
use crate::resources::Resources;

/// A pool of like instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The owning tenant.
    pub tenant_id: TenantName,
    /// Its name.
    pub pool_id: PoolName,
    /// Where its image comes from.
    pub image: ImageSource,
    /// What its instances are for.
    pub role: Role,
    /// What each instance is given.
    pub instance_resources: Resources,
    /// How many of them.
    #[serde(default)]
    pub desired_counts: DesiredCounts,
    /// The image revision new boots use; `None` until built.
    #[serde(default)]
    pub current: Option<Digest>,
    /// Who may change it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// Its times.
    #[serde(default)]
    pub runtime_policy: RuntimePolicy,
    /// When its idle instances are parked.
    #[serde(default)]
    pub idle: IdlePolicy,
    /// Its instances stay in memory.
    #[serde(default)]
    pub pinned: bool,
    /// Its instances are never taken down.
    #[serde(default)]
    pub critical: bool,
    /// What reaches it from outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The secrets its instances see; every one of the tenant's when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_scopes: Option<Vec<String>>,
    /// It was removed from its declaration: its instances are stopped, its data is kept.
    #[serde(default)]
    pub orphaned: bool,
    /// How its image was asked for.
    #[serde(default)]
    pub origin: Origin,
    /// The revisions it uses and used.
    #[serde(default)]
    pub history: History,
    /// When it was created.
    pub created_at: Millis,
}

impl PoolRecord {
    /// What it should be, without its named instances.
    pub fn spec(&self) -> PoolSpec {
        PoolSpec {
            pool_id: self.pool_id.clone(),
            image: self.image.clone(),
            role: self.role.clone(),
            instance_resources: self.instance_resources,
            desired_counts: self.desired_counts,
            instances: None,
            runtime_policy: self.runtime_policy,
            idle: self.idle,
            pinned: self.pinned,
            critical: self.critical,
            routes: self.routes.clone(),
            secret_scopes: self.secret_scopes.clone(),
            managed_by: self.managed_by,
            orphaned: self.orphaned,
        }
    }

    /// The record of a new pool.
    pub fn new(tenant_id: TenantName, spec: PoolSpec, created_at: Millis) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            tenant_id,
            pool_id: spec.pool_id,
            image: spec.image,
            role: spec.role,
            instance_resources: spec.instance_resources,
            desired_counts: spec.desired_counts,
            current: None,
            managed_by: spec.managed_by,
            runtime_policy: spec.runtime_policy,
            idle: spec.idle,
            pinned: spec.pinned,
            critical: spec.critical,
            routes: spec.routes,
            secret_scopes: spec.secret_scopes,
            orphaned: spec.orphaned,
            origin: Origin::default(),
            history: History::default(),
            created_at,
        }
    }

    /// The same pool as `spec` asks for. Its role is its for life and stays. With another image
    /// it has no current revision until that is built; what runs or sleeps keeps its own.
    #[must_use]
    pub fn updated(&self, spec: PoolSpec) -> Self {
        let same_image = spec.image == self.image;
        let origin = Origin {
            typed: self.origin.typed.clone().filter(|_| same_image),
            builder: self.origin.builder,
        };
        Self {
            role: self.role.clone(),
            current: self.current.clone().filter(|_| same_image),
            origin,
            history: self.history.clone(),
            ..Self::new(self.tenant_id.clone(), spec, self.created_at)
        }
    }

    /// `<tenant>/<pool>`.
    pub fn path(&self) -> PoolPath {
        PoolPath { tenant: self.tenant_id.clone(), pool: self.pool_id.clone() }
    }
}
