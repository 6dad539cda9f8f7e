//! Who may change what: every tenant, pool and named instance has one owner.

use std::fmt;

use super::Intent;
use crate::id::PoolPath;
use crate::name::{InstanceName, TenantName};
use crate::record::ManagedBy;

/// Something that has an owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A tenant.
    Tenant(TenantName),
    /// A pool.
    Pool(PoolPath),
    /// A named instance.
    Instance(PoolPath, InstanceName),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(name) => write!(f, "tenant {name}"),
            Self::Pool(path) => write!(f, "pool {path}"),
            Self::Instance(path, name) => write!(f, "instance {path}/{name}"),
        }
    }
}

impl Object {
    /// Its path alone, as commands take it.
    pub fn path(&self) -> String {
        match self {
            Self::Tenant(name) => name.to_string(),
            Self::Pool(path) => path.to_string(),
            Self::Instance(path, name) => format!("{path}/{name}"),
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Pool(_) => "pool",
            Self::Instance(..) => "instance",
        }
    }
}

/// A change that is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot change {object}: {why}")]
pub struct Refusal {
    /// What would have changed.
    pub object: Object,
    /// Why it stays.
    pub why: Why,
}

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It belongs to somebody else.
    #[error("it is managed by {}", owner_name(*.owner))]
    Owned {
        /// Whose it is.
        owner: ManagedBy,
    },
    /// The field never changes after creation.
    #[error("its {field} is {present}, and that is its for life (asked for: {asked})")]
    ForLife {
        /// Which field.
        field: &'static str,
        /// What it is.
        present: String,
        /// What was asked for.
        asked: String,
    },
}

impl Refusal {
    /// What a person can do about it.
    pub fn hint(&self) -> String {
        let (noun, path) = (self.object.noun(), self.object.path());
        match &self.why {
            Why::Owned { owner: ManagedBy::Nix } => format!(
                "change it in the NixOS configuration, or take it over with 'mvm {noun} adopt {path}'"
            ),
            Why::Owned { owner: ManagedBy::Coordinator } => format!(
                "change it through the coordinator, or take it over with 'mvm {noun} adopt {path}'"
            ),
            Why::Owned { owner: ManagedBy::Local } => {
                format!("hand it over with 'mvm {noun} adopt {path} --to nix'")
            }
            Why::ForLife { .. } => format!("use another name, or destroy {path} first"),
        }
    }
}

fn owner_name(owner: ManagedBy) -> &'static str {
    match owner {
        ManagedBy::Local => "a person on this host (local)",
        ManagedBy::Nix => "the NixOS configuration (nix)",
        ManagedBy::Coordinator => "the coordinator (coordinator)",
    }
}

/// Whether `writer` may change an object of `owner`'s.
///
/// # Errors
/// [`Refusal`] naming the owner.
pub fn permit(object: Object, owner: ManagedBy, writer: ManagedBy) -> Result<(), Box<Refusal>> {
    if owner == writer {
        return Ok(());
    }
    Err(Box::new(Refusal { object, why: Why::Owned { owner } }))
}

/// Gives an object to another owner, alone: what it holds keeps its owners. Says whether there
/// was such an object.
pub fn adopt(intent: &mut Intent, object: &Object, to: ManagedBy) -> bool {
    owner_of(intent, object).map(|owner| *owner = to).is_some()
}

fn owner_of<'a>(intent: &'a mut Intent, object: &Object) -> Option<&'a mut ManagedBy> {
    let (tenant, pool, name) = match object {
        Object::Tenant(tenant) => (tenant, None, None),
        Object::Pool(path) => (&path.tenant, Some(&path.pool), None),
        Object::Instance(path, name) => (&path.tenant, Some(&path.pool), Some(name)),
    };
    let tenant = intent.tenant_mut(tenant)?;
    let Some(pool) = pool else { return Some(&mut tenant.managed_by) };
    let pool = tenant.pools.iter_mut().find(|found| found.pool_id == *pool)?;
    let Some(name) = name else { return Some(&mut pool.managed_by) };
    let named = pool.instances.as_mut()?.iter_mut().find(|found| found.name == *name)?;
    Some(&mut named.managed_by)
}
