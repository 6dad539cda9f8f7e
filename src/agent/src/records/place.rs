//! Where a record belongs. A file that was copied or moved by hand says who it is, and its
//! directory says where it is; one that is not both would be somebody's second record.

use std::path::Path;

use mvm_model::record::{InstanceRecord, PoolRecord, TenantRecord};
use serde::de::DeserializeOwned;

/// A record that knows its place.
pub(crate) trait Placed: DeserializeOwned {
    /// Its own name and those of what it is in, from the inside out.
    fn names(&self) -> Vec<String>;

    /// Whose record it is, when it is not that of the object whose directory `path` is in.
    fn misplaced(&self, path: &Path) -> Option<String> {
        let mut names = self.names();
        // <tenant>/pools/<pool>/instances/<instance>/instance.json
        let places = path.ancestors().skip(1).step_by(2);
        let here = places.filter_map(|dir| dir.file_name()?.to_str());
        if names.iter().map(String::as_str).eq(here.take(names.len())) {
            return None;
        }
        names.reverse();
        Some(names.join("/"))
    }
}

impl Placed for TenantRecord {
    fn names(&self) -> Vec<String> {
        vec![self.tenant_id.to_string()]
    }
}

impl Placed for PoolRecord {
    fn names(&self) -> Vec<String> {
        vec![self.pool_id.to_string(), self.tenant_id.to_string()]
    }
}

impl Placed for InstanceRecord {
    fn names(&self) -> Vec<String> {
        vec![self.instance_id.to_string(), self.pool_id.to_string(), self.tenant_id.to_string()]
    }
}
