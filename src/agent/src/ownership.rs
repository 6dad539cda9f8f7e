//! Who may change what: permission for every mutating verb, and taking over.
//!
//! Whoever calls the service on this host is a person: commands, hand-written files and the local
//! API write `local`. What Nix or a coordinator declares they change only after adopting it.

use mvm_model::id::{InstancePath, InstanceRef};
use mvm_model::intent::{self, Object, Refusal};
use mvm_model::record::ManagedBy;

use crate::driver::PATIENCE;
use crate::error::{Error, Kind, Result};
use crate::service::Service;

/// What somebody on this host writes as.
const WRITER: ManagedBy = ManagedBy::Local;

/// A refusal as the error it is.
pub(crate) fn refused(refusal: &Refusal) -> Error {
    Error::new(Kind::Refused, refusal.object.path(), refusal.to_string()).hint(refusal.hint())
}

impl Service {
    /// Refuses to change what belongs to somebody else.
    ///
    /// # Errors
    /// [`Kind::Refused`], naming the owner and how to take it over.
    pub fn permit(&self, object: Object, owner: ManagedBy) -> Result<()> {
        intent::permit(object, owner, WRITER).map_err(|refusal| refused(&refusal))
    }

    /// Gives a tenant, a pool or a named instance to another owner, alone: what it holds keeps
    /// its owners. Tells whose it was.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when it cannot be written.
    pub async fn adopt(&self, object: &Object, to: ManagedBy) -> Result<ManagedBy> {
        let result = self.adopt_unlogged(object, to).await;
        let tenant = match object {
            Object::Tenant(tenant) => tenant,
            Object::Pool(pool) | Object::Instance(pool, _) => &pool.tenant,
        };
        self.audit(tenant, object.path(), "adopt", &result).await;
        result
    }

    async fn adopt_unlogged(&self, object: &Object, to: ManagedBy) -> Result<ManagedBy> {
        match object {
            Object::Tenant(name) => {
                let _lock = self.lock_state().await?;
                let mut record = self.tenant(name)?;
                let before = std::mem::replace(&mut record.managed_by, to);
                self.records.put_tenant(&record).map(|()| before)
            }
            Object::Pool(path) => {
                let _lock = self.lock_state().await?;
                let mut record = self.pool(path)?;
                let before = std::mem::replace(&mut record.managed_by, to);
                self.records.put_pool(&record).map(|()| before)
            }
            Object::Instance(pool, name) => {
                let instance = InstanceRef::Name(name.clone());
                let path = InstancePath { pool: pool.clone(), instance };
                let before = self.instance(&path)?.managed_by;
                let edit = |record: &mut mvm_model::record::InstanceRecord| record.managed_by = to;
                self.edit_instance(&path, PATIENCE, edit).await.map(|_| before)
            }
        }
    }
}
