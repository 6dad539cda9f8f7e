//! Tenants somebody reconciles at this moment: the agent's loop leaves them to whoever does, so
//! that two plans do not take turns with the same instances, and a report tells all that was done.
//!
//! Said by a lock that is shared by those who reconcile, so it is never said by the dead.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;

use mvm_model::TenantName;

use crate::service::Service;

/// Keeps the loop from a tenant until dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    _said: File,
}

impl Service {
    fn hold_file(&self, tenant: &TenantName) -> PathBuf {
        self.dirs.tenant(tenant).join(".reconciling")
    }

    /// Says that a tenant is being reconciled. What cannot be said costs a race, nothing more.
    pub(crate) fn hold(&self, tenant: &TenantName) -> Option<Hold> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.open(self.hold_file(tenant)).ok()?;
        // A look of the loop holds it for a moment.
        file.lock_shared().ok()?;
        Some(Hold { _said: file })
    }

    /// Whether somebody reconciles a tenant now.
    pub(crate) fn is_held(&self, tenant: &TenantName) -> bool {
        let file = File::open(self.hold_file(tenant));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing;
    use mvm_model::state::State;

    #[test]
    fn a_tenant_is_held_while_anybody_reconciles_it() {
        let (_root, service) = testing::service();
        let tenant = testing::instance(&service, State::Stopped).tenant_id;
        std::fs::create_dir_all(service.dirs.tenant(&tenant)).unwrap();
        assert!(!service.is_held(&tenant));
        let (one, other) = (service.hold(&tenant).unwrap(), service.hold(&tenant).unwrap());
        drop(one);
        assert!(service.is_held(&tenant));
        drop(other);
        assert!(!service.is_held(&tenant));
        assert!(service.hold(&"nobody".parse().unwrap()).is_none());
    }
}
