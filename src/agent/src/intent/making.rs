//! Making the changes a declaration comes to, each by itself: a refused one never blocks another,
//! but nothing is tried in a tenant or pool that could not be made.

use std::collections::BTreeSet;

use mvm_model::desired::{self, InstanceSpec, TenantSpec};
use mvm_model::id::{InstancePath, InstanceRef, PoolPath};
use mvm_model::intent::{self, Change, Object, Refusal};
use mvm_model::record::{InstanceRecord, TenantRecord};
use mvm_model::{InstanceName, TenantName};

use super::Applied;
use crate::driver::PATIENCE;
use crate::error::{Kind, Result};
use crate::ownership::refused;
use crate::pool::Draft;
use crate::service::Service;
use crate::tenant::NewTenant;
use crate::update::Consent;

/// Whether what hindered a change may be over by itself or when something else changes: the
/// change is worth trying again.
fn may_pass(kind: Kind) -> bool {
    match kind {
        Kind::Busy
        | Kind::Timeout
        | Kind::Unavailable
        | Kind::DiskFull
        | Kind::OverQuota
        | Kind::Conflict
        | Kind::WrongState
        | Kind::Interrupted
        | Kind::Failed => true,
        Kind::Invalid
        | Kind::NotFound
        | Kind::Refused
        | Kind::Corrupt
        | Kind::NewerState
        | Kind::ImageBuilderUnavailable => false,
    }
}

/// Changes while they are made.
pub(super) struct Making<'a> {
    pub(super) service: &'a Service,
    pub(super) applied: Applied,
    /// The objects to try, with what is in them; all when `None`.
    pub(super) only: Option<BTreeSet<String>>,
    /// Tenants and pools that could not be made: what is in them is not tried.
    pub(super) failed: BTreeSet<Object>,
}

impl Making<'_> {
    pub(super) fn refuse(&mut self, refusals: &[Refusal]) {
        for refusal in refusals {
            if let (Object::Tenant(tenant), intent::Why::ForLife { .. }) =
                (&refusal.object, &refusal.why)
            {
                self.applied.strangers.push(tenant.clone());
            }
            self.applied.refused.push((&refused(refusal)).into());
        }
    }

    pub(super) async fn change(&mut self, change: &Change) {
        let (object, event) = about(change);
        let parents = parents(&object);
        let path = object.path();
        let asked = |only: &BTreeSet<String>| {
            only.contains(&path) || parents.iter().any(|parent| only.contains(&parent.path()))
        };
        let hopeless = parents.iter().any(|parent| self.failed.contains(parent));
        if hopeless || !self.only.as_ref().is_none_or(asked) {
            return;
        }
        let result = self.make(change).await;
        let tenant = tenant_of(&object);
        self.service.audit(tenant, object.path(), event, &result).await;
        match result {
            Ok(()) => self.applied.changes.push(change.to_string()),
            Err(error) => {
                let kind = error.kind;
                self.applied.refused.push((&error.of(&path)).into());
                if may_pass(kind) {
                    self.applied.pending.insert(path);
                }
                self.failed.insert(object);
            }
        }
    }

    async fn make(&self, change: &Change) -> Result<()> {
        let service = self.service;
        match change {
            Change::AddTenant(spec) => self.add_tenant(spec).await,
            Change::UpdateTenant(spec) => service
                .edit_tenant(&spec.tenant_id, Consent::Given, |present| *present = spec.clone())
                .await
                .map(drop),
            Change::OrphanTenant(name) => service.orphan_tenant(name).await,
            Change::AddPool(tenant, spec) => {
                let path = PoolPath { tenant: tenant.clone(), pool: spec.pool_id.clone() };
                service.create_pool_of(&path, spec.clone(), Default::default()).await.map(drop)
            }
            Change::UpdatePool(tenant, spec) => {
                let path = PoolPath { tenant: tenant.clone(), pool: spec.pool_id.clone() };
                self.update_pool(&path, spec).await
            }
            Change::OrphanPool(path) => service.orphan_pool(path).await,
            Change::AddInstance(pool, spec) => self.add_instance(pool, spec).await,
            Change::UpdateInstance(pool, spec) => self.update_instance(pool, spec).await,
            Change::OrphanInstance(pool, name) => {
                let path = named(pool, name);
                let orphan = |record: &mut InstanceRecord| record.orphaned = true;
                service.edit_instance(&path, PATIENCE, orphan).await.map(drop)
            }
        }
    }

    async fn add_tenant(&self, spec: &TenantSpec) -> Result<()> {
        let new = NewTenant {
            net_id: Some(spec.network.tenant_net_id),
            subnet: Some(spec.network.ipv4_subnet),
            quotas: spec.quotas,
            egress: spec.egress.clone(),
            ..NewTenant::named(spec.tenant_id.clone())
        };
        let rest = |record: &mut TenantRecord| {
            record.managed_by = spec.managed_by;
            record.address_range = spec.network.address_range;
            (record.pinned, record.orphaned) = (spec.pinned, spec.orphaned);
        };
        self.service.create_tenant_with(new, rest).await.map(drop)
    }

    async fn update_pool(&self, path: &PoolPath, spec: &desired::PoolSpec) -> Result<()> {
        let service = self.service;
        let before = service.pool(path)?;
        let edit = |present: &mut desired::PoolSpec| *present = spec.clone();
        let after = service.edit_pool(path, Consent::Given, edit).await?;
        // Who could not take them now gets them with its next transition.
        service.rescope(&before, &after).await;
        Ok(())
    }

    async fn add_instance(&self, pool: &PoolPath, spec: &InstanceSpec) -> Result<()> {
        let tenant = self.service.living_tenant(&pool.tenant)?;
        self.service.refuse_problems(&tenant, |tenant| {
            let found = tenant.pools.iter_mut().find(|found| found.pool_id == pool.pool);
            if let Some(found) = found {
                found.instances.get_or_insert_default().push(spec.clone());
            }
        })?;
        self.service.create_drafted(pool, Draft::Named(spec)).await.map(drop)
    }

    async fn update_instance(&self, pool: &PoolPath, spec: &InstanceSpec) -> Result<()> {
        let tenant = self.service.living_tenant(&pool.tenant)?;
        self.service.refuse_problems(&tenant, |tenant| {
            let named = tenant.pools.iter_mut().filter(|found| found.pool_id == pool.pool);
            let mut named = named.flat_map(|found| found.instances.iter_mut().flatten());
            if let Some(named) = named.find(|named| named.name == spec.name) {
                *named = spec.clone();
            }
        })?;
        let edit = |record: &mut InstanceRecord| {
            record.desired = Some(spec.desired);
            record.labels.clone_from(&spec.labels);
            record.own_data_disk_mib = spec.data_disk_mib;
            record.pinned_revision.clone_from(&spec.revision);
            record.orphaned = spec.orphaned;
        };
        self.service.edit_instance(&named(pool, &spec.name), PATIENCE, edit).await.map(drop)
    }
}

fn named(pool: &PoolPath, name: &InstanceName) -> InstancePath {
    InstancePath { pool: pool.clone(), instance: InstanceRef::Name(name.clone()) }
}

fn tenant_of(object: &Object) -> &TenantName {
    match object {
        Object::Tenant(tenant) => tenant,
        Object::Pool(path) | Object::Instance(path, _) => &path.tenant,
    }
}

/// What an object is in.
fn parents(object: &Object) -> Vec<Object> {
    match object {
        Object::Tenant(_) => Vec::new(),
        Object::Pool(path) => vec![Object::Tenant(path.tenant.clone())],
        Object::Instance(path, _) => {
            vec![Object::Tenant(path.tenant.clone()), Object::Pool(path.clone())]
        }
    }
}

/// What a change is about, and its name in the audit log.
fn about(change: &Change) -> (Object, &'static str) {
    let pool = |tenant: &TenantName, spec: &desired::PoolSpec| {
        Object::Pool(PoolPath { tenant: tenant.clone(), pool: spec.pool_id.clone() })
    };
    let one = |path: &PoolPath, name: &InstanceName| Object::Instance(path.clone(), name.clone());
    match change {
        Change::AddTenant(spec) => (Object::Tenant(spec.tenant_id.clone()), "tenant.create"),
        Change::UpdateTenant(spec) => (Object::Tenant(spec.tenant_id.clone()), "tenant.update"),
        Change::OrphanTenant(name) => (Object::Tenant(name.clone()), "tenant.orphan"),
        Change::AddPool(tenant, spec) => (pool(tenant, spec), "pool.create"),
        Change::UpdatePool(tenant, spec) => (pool(tenant, spec), "pool.update"),
        Change::OrphanPool(path) => (Object::Pool(path.clone()), "pool.orphan"),
        Change::AddInstance(path, spec) => (one(path, &spec.name), "instance.create"),
        Change::UpdateInstance(path, spec) => (one(path, &spec.name), "instance.update"),
        Change::OrphanInstance(path, name) => (one(path, name), "instance.orphan"),
    }
}
