//! Merging a declaration into the present intent: validate → diff → apply for every source.
//!
//! For each object, by itself:
//!
//! | present | declared | writer | becomes |
//! |---|---|---|---|
//! | no | yes | anyone | added, managed by the writer |
//! | yes | the same | anyone | unchanged |
//! | yes | differently | its owner | updated |
//! | yes | differently | another | refused, naming owner and `adopt` |
//! | yes, orphaned | yes | its owner | updated, no longer orphaned |
//! | yes, not critical | no | its owner, where the declaration speaks for what it does not name | orphaned |
//! | yes | no | otherwise | unchanged |
//!
//! Net id, subnet and a pool's role are for life: asking for others is refused. What a file says
//! in `managed_by` is never believed; the source decides. Children have owners of their own, so
//! a person may keep a named instance in a pool that Nix declares; an orphaned parent takes its
//! children down whoever owns them.

use std::fmt;

use super::{Declaration, Intent, Object, Refusal, Source, Unnamed, Why, permit};
use crate::desired::{InstanceSpec, PoolSpec, TenantSpec};
use crate::id::PoolPath;
use crate::name::{InstanceName, TenantName};
use crate::record::ManagedBy;

/// One change to the intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new tenant, without its pools: those are changes of their own.
    AddTenant(TenantSpec),
    /// A tenant's settings; its pools stay.
    UpdateTenant(TenantSpec),
    /// A tenant was removed from its declaration.
    OrphanTenant(TenantName),
    /// A new pool, without its named instances.
    AddPool(TenantName, PoolSpec),
    /// A pool's settings; its named instances stay.
    UpdatePool(TenantName, PoolSpec),
    /// A pool was removed from its declaration.
    OrphanPool(PoolPath),
    /// A new named instance.
    AddInstance(PoolPath, InstanceSpec),
    /// A named instance's settings.
    UpdateInstance(PoolPath, InstanceSpec),
    /// A named instance was removed from its declaration.
    OrphanInstance(PoolPath, InstanceName),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTenant(spec) => write!(f, "add tenant {}", spec.tenant_id),
            Self::UpdateTenant(spec) => write!(f, "update tenant {}", spec.tenant_id),
            Self::OrphanTenant(name) => write!(f, "orphan tenant {name}"),
            Self::AddPool(tenant, spec) => write!(f, "add pool {tenant}/{}", spec.pool_id),
            Self::UpdatePool(tenant, spec) => write!(f, "update pool {tenant}/{}", spec.pool_id),
            Self::OrphanPool(path) => write!(f, "orphan pool {path}"),
            Self::AddInstance(path, spec) => write!(f, "add instance {path}/{}", spec.name),
            Self::UpdateInstance(path, spec) => write!(f, "update instance {path}/{}", spec.name),
            Self::OrphanInstance(path, name) => write!(f, "orphan instance {path}/{name}"),
        }
    }
}

/// What a declaration comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Merge {
    /// In an order in which they can be made: parents before children.
    pub changes: Vec<Change>,
    /// What stays as it is, and why.
    pub refusals: Vec<Refusal>,
}

/// What a declaration by `source` changes. See the table above.
pub fn merge(current: &Intent, declared: &Declaration, source: Source) -> Merge {
    let writer = source.owner();
    let mut merging = Merging { declared, writer, merge: Merge::default() };
    for spec in &declared.tenants {
        merging.tenant(current.tenant(&spec.tenant_id), spec);
    }
    if declared.other_tenants == Unnamed::Orphan {
        for present in &current.tenants {
            let named = declared.tenants.iter().any(|spec| spec.tenant_id == present.tenant_id);
            let critical = present.pools.iter().any(|pool| pool.critical);
            if !named && present.managed_by == writer && !present.orphaned && !critical {
                merging.merge.changes.push(Change::OrphanTenant(present.tenant_id.clone()));
            }
        }
    }
    merging.merge
}

struct Merging<'a> {
    declared: &'a Declaration,
    writer: ManagedBy,
    merge: Merge,
}

impl Merging<'_> {
    fn tenant(&mut self, present: Option<&TenantSpec>, spec: &TenantSpec) {
        let stamped = TenantSpec { managed_by: self.writer, ..spec.without_pools() };
        match present {
            None => self.change(Change::AddTenant(stamped)),
            Some(present) => {
                let object = Object::Tenant(spec.tenant_id.clone());
                if let Some(why) = network_for_life(present, spec) {
                    // Nothing of it is applied: it may be another tenant of the same name.
                    self.merge.refusals.push(Refusal { object, why });
                    return;
                }
                if !present.same_settings(spec) {
                    self.decide(object, present.managed_by, Change::UpdateTenant(stamped));
                }
            }
        }
        for pool in &spec.pools {
            let path = PoolPath { tenant: spec.tenant_id.clone(), pool: pool.pool_id.clone() };
            self.pool(present.and_then(|present| present.pool(&pool.pool_id)), pool, &path);
        }
        // A tenant that names no pool at all says nothing about them.
        let Some(present) = present.filter(|_| !spec.pools.is_empty()) else { return };
        for pool in present.pools.iter().filter(|pool| spec.pool(&pool.pool_id).is_none()) {
            let ours = pool.managed_by == self.writer && !pool.orphaned && !pool.critical;
            if ours && self.declared.other_pools == Unnamed::Orphan {
                let (tenant, pool) = (spec.tenant_id.clone(), pool.pool_id.clone());
                self.change(Change::OrphanPool(PoolPath { tenant, pool }));
            }
        }
    }

    fn pool(&mut self, present: Option<&PoolSpec>, spec: &PoolSpec, path: &PoolPath) {
        let instances = spec.instances.as_ref().map(|_| Vec::new());
        let stamped = PoolSpec { managed_by: self.writer, instances, ..spec.clone() };
        match present {
            None => self.change(Change::AddPool(path.tenant.clone(), stamped)),
            Some(present) => {
                let object = Object::Pool(path.clone());
                if present.role != spec.role {
                    let (present, asked) = (present.role.to_string(), spec.role.to_string());
                    let why = Why::ForLife { field: "role", present, asked };
                    self.merge.refusals.push(Refusal { object, why });
                    return;
                }
                if !present.same_settings(spec) {
                    let change = Change::UpdatePool(path.tenant.clone(), stamped);
                    self.decide(object, present.managed_by, change);
                }
            }
        }
        self.instances(present, spec, path);
    }

    fn instances(&mut self, present: Option<&PoolSpec>, spec: &PoolSpec, path: &PoolPath) {
        let before = present.map(PoolSpec::named).unwrap_or_default();
        for named in spec.named() {
            let known = before.iter().find(|known| known.name == named.name);
            self.instance(known, named, path);
        }
        if spec.instances.is_none() || self.declared.other_instances == Unnamed::Keep {
            return;
        }
        for known in before {
            let gone = !spec.named().iter().any(|named| named.name == known.name);
            if gone && known.managed_by == self.writer && !known.orphaned {
                self.change(Change::OrphanInstance(path.clone(), known.name.clone()));
            }
        }
    }

    fn instance(&mut self, present: Option<&InstanceSpec>, spec: &InstanceSpec, path: &PoolPath) {
        let stamped = InstanceSpec { managed_by: self.writer, ..spec.clone() };
        let Some(present) = present else {
            return self.change(Change::AddInstance(path.clone(), stamped));
        };
        let object = Object::Instance(path.clone(), spec.name.clone());
        if let Some(why) = instance_for_life(present, spec) {
            self.merge.refusals.push(Refusal { object, why });
        } else if !present.same_settings(spec) {
            let known = InstanceSpec {
                instance_id: present.instance_id.or(spec.instance_id),
                offset: present.offset.or(spec.offset),
                data_disk_mib: spec.data_disk_mib.or(present.data_disk_mib),
                ..stamped
            };
            let change = Change::UpdateInstance(path.clone(), known);
            self.decide(object, present.managed_by, change);
        }
    }

    fn decide(&mut self, object: Object, owner: ManagedBy, change: Change) {
        match permit(object, owner, self.writer) {
            Ok(()) => self.change(change),
            Err(refusal) => self.merge.refusals.push(*refusal),
        }
    }

    fn change(&mut self, change: Change) {
        self.merge.changes.push(change);
    }
}

fn for_life<T: ToString + PartialEq>(field: &'static str, present: T, asked: T) -> Option<Why> {
    let text = |value: T| value.to_string();
    (present != asked).then(|| Why::ForLife { field, present: text(present), asked: text(asked) })
}

fn network_for_life(present: &TenantSpec, spec: &TenantSpec) -> Option<Why> {
    let (present, asked) = (present.network, spec.network);
    for_life("net id", present.tenant_net_id, asked.tenant_net_id)
        .or_else(|| for_life("subnet", present.ipv4_subnet, asked.ipv4_subnet))
}

fn instance_for_life(present: &InstanceSpec, spec: &InstanceSpec) -> Option<Why> {
    let id = present.instance_id.zip(spec.instance_id);
    let offset = present.offset.zip(spec.offset);
    id.and_then(|(present, asked)| for_life("instance_id", present, asked))
        .or_else(|| offset.and_then(|(present, asked)| for_life("offset", present, asked)))
}

/// The intent after `changes`. A change of something that is not there changes nothing.
pub fn apply(intent: &mut Intent, changes: &[Change]) {
    for change in changes {
        apply_one(intent, change);
    }
}

fn apply_one(intent: &mut Intent, change: &Change) {
    match change {
        Change::AddTenant(spec) => intent.tenants.push(spec.clone()),
        Change::UpdateTenant(spec) => {
            if let Some(tenant) = intent.tenant_mut(&spec.tenant_id) {
                let pools = std::mem::take(&mut tenant.pools);
                *tenant = TenantSpec { pools, ..spec.clone() };
            }
        }
        Change::OrphanTenant(name) => {
            if let Some(tenant) = intent.tenant_mut(name) {
                tenant.orphaned = true;
            }
        }
        Change::AddPool(tenant, spec) => {
            if let Some(tenant) = intent.tenant_mut(tenant) {
                tenant.pools.push(spec.clone());
            }
        }
        Change::UpdatePool(tenant, spec) => {
            let path = PoolPath { tenant: tenant.clone(), pool: spec.pool_id.clone() };
            if let Some(pool) = pool_mut(intent, &path) {
                let instances = pool.instances.take().or_else(|| spec.instances.clone());
                *pool = PoolSpec { instances, ..spec.clone() };
            }
        }
        Change::OrphanPool(path) => {
            if let Some(pool) = pool_mut(intent, path) {
                pool.orphaned = true;
            }
        }
        Change::AddInstance(path, spec) => {
            if let Some(pool) = pool_mut(intent, path) {
                pool.instances.get_or_insert_default().push(spec.clone());
            }
        }
        Change::UpdateInstance(path, spec) => {
            if let Some(named) = named_mut(intent, path, &spec.name) {
                *named = spec.clone();
            }
        }
        Change::OrphanInstance(path, name) => {
            if let Some(named) = named_mut(intent, path, name) {
                named.orphaned = true;
            }
        }
    }
}

fn pool_mut<'a>(intent: &'a mut Intent, path: &PoolPath) -> Option<&'a mut PoolSpec> {
    let tenant = intent.tenant_mut(&path.tenant)?;
    tenant.pools.iter_mut().find(|pool| pool.pool_id == path.pool)
}

fn named_mut<'a>(
    intent: &'a mut Intent,
    path: &PoolPath,
    name: &InstanceName,
) -> Option<&'a mut InstanceSpec> {
    pool_mut(intent, path)?.instances.as_mut()?.iter_mut().find(|named| named.name == *name)
}
