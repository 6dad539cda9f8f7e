//! The record of a tenant.

use serde::{Deserialize, Serialize};

use super::{Egress, ManagedBy, Millis, SCHEMA_VERSION};
use crate::desired::{AddressRange, NetworkSpec, TenantSpec};
use crate::name::TenantName;
use crate::network::{NetId, Subnet};
use crate::resources::Quotas;

/// A tenant's network, its for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantNetwork {
    /// Numbers the bridge and the taps.
    pub tenant_net_id: NetId,
    /// Its addresses.
    pub ipv4_subnet: Subnet,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Its name.
    pub tenant_id: TenantName,
    /// Its network.
    pub network: TenantNetwork,
    /// Its limits.
    pub quotas: Quotas,
    /// What its guests may reach.
    #[serde(default)]
    pub egress: Egress,
    /// Who may change it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// What of its addresses this node may lease; the whole subnet when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_range: Option<AddressRange>,
    /// Every pool of it is pinned.
    #[serde(default)]
    pub pinned: bool,
    /// It was removed from its declaration: its instances are stopped, its data is kept.
    #[serde(default)]
    pub orphaned: bool,
    /// Built into mvm (the tenant `dev`): shown by `tenant list --all` only.
    #[serde(default)]
    pub builtin: bool,
    /// When it was created.
    pub created_at: Millis,
    /// Being destroyed: nothing may be created in it.
    #[serde(default)]
    pub destroying: bool,
}

impl TenantRecord {
    /// What it should be, without its pools.
    pub fn spec(&self) -> TenantSpec {
        TenantSpec {
            tenant_id: self.tenant_id.clone(),
            network: NetworkSpec {
                tenant_net_id: self.network.tenant_net_id,
                ipv4_subnet: self.network.ipv4_subnet,
                address_range: self.address_range,
            },
            quotas: self.quotas,
            egress: self.egress.clone(),
            pinned: self.pinned,
            secrets_hash: None,
            managed_by: self.managed_by,
            orphaned: self.orphaned,
            pools: Vec::new(),
        }
    }

    /// The record of a new tenant.
    pub fn new(spec: &TenantSpec, created_at: Millis) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            tenant_id: spec.tenant_id.clone(),
            network: TenantNetwork {
                tenant_net_id: spec.network.tenant_net_id,
                ipv4_subnet: spec.network.ipv4_subnet,
            },
            quotas: spec.quotas,
            egress: spec.egress.clone(),
            managed_by: spec.managed_by,
            address_range: spec.network.address_range,
            pinned: spec.pinned,
            orphaned: spec.orphaned,
            builtin: false,
            created_at,
            destroying: false,
        }
    }

    /// The same tenant as `spec` asks for. Its network is its for life and stays.
    #[must_use]
    pub fn updated(&self, spec: &TenantSpec) -> Self {
        Self {
            network: self.network,
            builtin: self.builtin,
            destroying: self.destroying,
            ..Self::new(spec, self.created_at)
        }
    }
}
