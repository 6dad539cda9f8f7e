//! What this host's records ask for: the Intent of a fleet of one, and its DesiredState.
//!
//! ```text
//!  tenant, pool and named instance records ─► intent() ─► plan::place ─► desired() ─► reconcile
//!                                                                            └─► agent desired
//! ```
//!
//! The tenant that is part of mvm (`dev`) and what is being destroyed are nobody's intent.

use mvm_model::desired::{DesiredState, PoolSpec, TenantSpec};
use mvm_model::intent::Intent;
use mvm_model::record::{InstanceRecord, PoolRecord, TenantRecord};
use mvm_plan::place;

use crate::error::{Error, Kind, Result};
use crate::service::Service;

impl Service {
    /// What the records ask for.
    pub fn intent(&self) -> Intent {
        let tenants = self.records.tenants().records;
        let asked = tenants.iter().filter(|tenant| !tenant.builtin && !tenant.destroying);
        Intent {
            tenants: asked.map(|tenant| self.tenant_spec(tenant)).collect(),
            ..Intent::default()
        }
    }

    /// The desired state of this host: what the loop plans for. It names neither node nor
    /// generation nor epoch, and prunes nothing.
    ///
    /// # Errors
    /// When this host's id cannot be kept.
    pub fn desired(&self) -> Result<DesiredState> {
        let placed = place::one(&self.intent(), &self.node_id()?)
            .map_err(|error| Error::new(Kind::Refused, "", error.to_string()).hint(error.hint()))?;
        Ok(DesiredState { node_id: None, ..placed })
    }

    /// The same with the digests of the tenants' secrets: what `agent desired` writes.
    ///
    /// # Errors
    /// As [`Self::desired`].
    pub fn desired_document(&self) -> Result<DesiredState> {
        let mut state = self.desired()?;
        for tenant in &mut state.tenants {
            tenant.secrets_hash = self.secrets_hash(&tenant.tenant_id);
        }
        Ok(state)
    }

    /// What a tenant's records ask for, its pools and named instances included.
    pub(crate) fn tenant_spec(&self, tenant: &TenantRecord) -> TenantSpec {
        let pools = self.records.pools(&tenant.tenant_id).records;
        TenantSpec {
            pools: pools.iter().map(|pool| self.pool_spec(pool)).collect(),
            ..tenant.spec()
        }
    }

    /// What a pool's records ask for, its named instances included.
    pub(crate) fn pool_spec(&self, pool: &PoolRecord) -> PoolSpec {
        let instances = self.records.instances(&pool.path()).records;
        let named: Vec<_> = instances.iter().filter_map(InstanceRecord::spec).collect();
        // A pool without named ones says nothing about them.
        PoolSpec { instances: (!named.is_empty()).then_some(named), ..pool.spec() }
    }
}
