//! Applying a declaration: what a file (or Nix) says should be, written into the records.
//!
//! ```text
//!  text ─► parse (strict, whole or nothing) ─► ledger (older: refused) ─► merge(intent, declared)
//!                                                   ┌─ changes: each made by itself, durably
//!                                                   └─ refusals: whose it is, how to adopt it
//!  then the ledger's entry, then reconcile
//! ```
//!
//! A refused object never blocks another. Nothing is started or stopped here.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

pub use mvm_api::agent::Refused;
use mvm_host::lock::Lock;
use mvm_model::desired::{self, DesiredState, InstanceSpec, Reader, TenantSpec, Unreadable};
use mvm_model::id::{InstancePath, InstanceRef, PoolPath};
use mvm_model::image::{FlakeRef, ImageSource};
use mvm_model::intent::{self, Change, Declaration, Object, Refusal, Source};
use mvm_model::record::ManagedBy;
use mvm_model::{InstanceName, TenantName};
use serde::{Deserialize, Serialize};

use crate::driver::PATIENCE;
use crate::error::{About, Error, Kind, Result};
use crate::ledger::Verdict;
use crate::ownership::refused;
use crate::pool::Draft;
use crate::service::Service;
use crate::tenant::NewTenant;
use crate::update::Consent;

/// How long one document waits until another is applied.
const TURN: Duration = Duration::from_secs(10);

/// Whether a document that was applied already is applied again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// A person asks for it.
    Always,
    /// The loop found it in the file it watches: what people changed since stays.
    OnlyNew,
}

/// What applying a document came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Applied {
    /// The document's number.
    pub generation: u64,
    /// Whether it was not known before.
    pub fresh: bool,
    /// What was changed.
    pub changes: Vec<String>,
    /// What stays as it is.
    pub refused: Vec<Refused>,
    /// Tenants of which nothing was applied, because they may be others of the same name.
    pub strangers: Vec<TenantName>,
}

impl From<&Error> for Refused {
    fn from(error: &Error) -> Self {
        let (object, problem) = (error.object.clone(), error.chain());
        Self { object, problem, hint: error.hint.clone(), kind: error.kind }
    }
}

/// Reads a person's desired state.
///
/// # Errors
/// [`Kind::NotFound`] without a file, [`Kind::Invalid`] for everything wrong with it.
pub fn read_file(path: &Path) -> Result<DesiredState> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::InvalidData => Kind::Invalid,
            _ => Kind::Failed,
        };
        Error::new(kind, &name, "cannot read the desired state")
            .because(error)
            .hint("'mvm agent desired --file F' writes the present one")
    })?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    parse(&text, &path.display().to_string())
}

/// Reads a person's desired state from its text; `name` stands for it in errors. Where that is
/// an absolute path, flakes the document names by relative ones are found from its directory.
///
/// # Errors
/// [`Kind::Invalid`], with every problem.
pub fn parse(text: &str, name: &str) -> Result<DesiredState> {
    let unreadable =
        |error: Unreadable| Error::new(Kind::Invalid, name, error.to_string()).hint(error.hint());
    let document = desired::read(text, Reader::Strict).map_err(unreadable)?;
    let mut state = document.whole().map_err(|problems| {
        let hint = problems.0.first().map(|first| first.hint.clone()).unwrap_or_default();
        let count = match problems.0.len() {
            1 => String::new(),
            several => format!("{several} problems, nothing was changed:\n"),
        };
        Error::new(Kind::Invalid, name, format!("{count}{problems}")).hint(hint)
    })?;
    let base = Path::new(name).parent().filter(|base| base.is_absolute());
    for tenant in &mut state.tenants {
        for pool in &mut tenant.pools {
            let path = format!("{}/{}", tenant.tenant_id, pool.pool_id);
            if let ImageSource::Flake { reference, .. } = &mut pool.image {
                *reference = settled(reference, base, &path)?;
            }
        }
    }
    Ok(state)
}

/// A flake that means the same whatever the working directory.
fn settled(reference: &FlakeRef, base: Option<&Path>, pool: &str) -> Result<FlakeRef> {
    match base {
        _ if !reference.is_relative() => Ok(reference.clone()),
        Some(base) => reference
            .absolute(base)
            .map_err(|bad| Error::new(Kind::Invalid, pool, bad.to_string()).hint(bad.hint())),
        None => {
            let text = format!("its flake {reference} is relative to no file");
            Err(Error::new(Kind::Invalid, pool, text).hint("write an absolute path"))
        }
    }
}

impl Service {
    /// Applies a desired state as intent for the tenants and pools it names.
    ///
    /// # Errors
    /// [`Kind::Refused`] for another node's, [`Kind::Conflict`] for an older one or another one
    /// of the same number. What could not be changed in it is in the answer.
    pub async fn apply_desired(
        &self,
        state: &DesiredState,
        source: Source,
        repeat: Repeat,
    ) -> Result<Applied> {
        self.refuse_other_node(state)?;
        let _turn = self.take_turn().await?;
        let (ledger, writer) = (self.ledger()?, writer(source.owner()));
        let verdict = ledger.judge(writer, state).map_err(|stale| {
            Error::new(Kind::Conflict, "", format!("the desired state is refused: {stale}"))
                .hint(stale.hint())
        })?;
        let (entry, fresh) = match verdict {
            Verdict::Same(entry) if repeat == Repeat::OnlyNew => {
                return Ok(Applied { generation: entry.generation, ..Applied::default() });
            }
            Verdict::Same(entry) => (entry, false),
            Verdict::New(entry) => (entry, true),
        };
        let declared = Declaration::of_document(state.clone());
        let applied = self.apply(declared, source).await;
        let generation = entry.generation;
        if fresh {
            self.enter(ledger, writer, entry)?;
        }
        Ok(Applied { generation, fresh, ..applied })
    }

    /// Applies a complete declaration, as Nix makes it: what its owner declared before and no
    /// longer names is orphaned.
    ///
    /// # Errors
    /// When another one is being applied. What could not be changed is in the answer.
    pub async fn apply_complete(&self, intent: intent::Intent, source: Source) -> Result<Applied> {
        let _turn = self.take_turn().await?;
        Ok(self.apply(Declaration::complete(intent), source).await)
    }

    async fn take_turn(&self) -> Result<Lock> {
        let path = self.dirs.state.join(".apply.lock");
        Lock::take(&path, &self.who, TURN).await.about("", "apply a desired state")
    }

    fn refuse_other_node(&self, state: &DesiredState) -> Result<()> {
        let ours = self.node_id()?;
        match &state.node_id {
            Some(theirs) if *theirs != ours => {
                let text = format!("the desired state is for node {theirs}, this is {ours}");
                Err(Error::new(Kind::Refused, "node_id", text)
                    .hint("take node_id away from a file of your own"))
            }
            _ => Ok(()),
        }
    }

    async fn apply(&self, mut declared: Declaration, source: Source) -> Applied {
        for tenant in &mut declared.tenants {
            // Which secrets there are is never a file's to say.
            tenant.secrets_hash = None;
        }
        let merge = intent::merge(&self.intent(), &declared, source);
        let mut making =
            Making { service: self, applied: Applied::default(), failed: BTreeSet::new() };
        making.refuse(&merge.refusals);
        for change in &merge.changes {
            making.change(change).await;
        }
        making.applied
    }
}

/// The name of a writer in the ledger.
fn writer(owner: ManagedBy) -> &'static str {
    match owner {
        ManagedBy::Local => "local",
        ManagedBy::Nix => "nix",
        ManagedBy::Coordinator => "coordinator",
    }
}

/// Changes while they are made.
struct Making<'a> {
    service: &'a Service,
    applied: Applied,
    /// Tenants and pools that could not be made: what is in them is not tried.
    failed: BTreeSet<Object>,
}

impl Making<'_> {
    fn refuse(&mut self, refusals: &[Refusal]) {
        for refusal in refusals {
            if let (Object::Tenant(tenant), intent::Why::ForLife { .. }) =
                (&refusal.object, &refusal.why)
            {
                self.applied.strangers.push(tenant.clone());
            }
            self.applied.refused.push((&refused(refusal)).into());
        }
    }

    async fn change(&mut self, change: &Change) {
        let (object, event) = about(change);
        if parents(&object).iter().any(|parent| self.failed.contains(parent)) {
            return;
        }
        let result = self.make(change).await;
        let tenant = tenant_of(&object);
        self.service.audit(tenant, object.path(), event, &result).await;
        match result {
            Ok(()) => self.applied.changes.push(change.to_string()),
            Err(error) => {
                self.applied.refused.push((&error).into());
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
                let orphan =
                    |record: &mut mvm_model::record::InstanceRecord| record.orphaned = true;
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
        let rest = |record: &mut mvm_model::record::TenantRecord| {
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
        let edit = |record: &mut mvm_model::record::InstanceRecord| {
            record.desired = Some(spec.desired);
            record.labels.clone_from(&spec.labels);
            record.own_data_disk_mib = spec.data_disk_mib;
            record.pinned_revision.clone_from(&spec.revision);
            record.orphaned = spec.orphaned;
        };
        self.service.edit_instance(&named(pool, &spec.name), PATIENCE, edit).await.map(drop)
    }
}

impl Service {
    /// Marks a tenant as removed from its declaration.
    pub(crate) async fn orphan_tenant(&self, name: &TenantName) -> Result<()> {
        let _lock = self.lock_state().await?;
        let mut record = self.living_tenant(name)?;
        record.orphaned = true;
        self.records.put_tenant(&record)
    }

    /// Marks a pool as removed from its declaration.
    pub(crate) async fn orphan_pool(&self, path: &PoolPath) -> Result<()> {
        let _lock = self.lock_state().await?;
        let mut record = self.pool(path)?;
        record.orphaned = true;
        self.records.put_pool(&record)
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

#[cfg(test)]
mod tests;
