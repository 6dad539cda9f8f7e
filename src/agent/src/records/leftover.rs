//! What interrupted creations and removals leave: a place whose record was never written, and a
//! place that is on its way out. Removed by whoever next creates or removes something beside them.

use std::fs;
use std::path::Path;

use mvm_host::file;
use mvm_model::PoolPath;
use mvm_model::record::InstanceRecord;

use super::{Records, subdirectories, sweep};
use crate::error::Result;

/// What there is of an instance before its record is.
const BEFORE: [&str; 1] = ["instance.json.tmp"];

impl Records {
    /// Writes an instance that is new. One that cannot be written leaves nothing.
    ///
    /// # Errors
    /// When it is not certain to be on disk.
    pub(crate) fn put_new_instance(&self, record: &InstanceRecord) -> Result<()> {
        self.put_instance(record).inspect_err(|_| self.remove_unborn(&record.pool_path()))
    }

    /// Removes places of instances that never came to be. The caller holds the state lock, under
    /// which they are made. What holds anything else, data above all, is left alone.
    pub(crate) fn remove_unborn(&self, pool: &PoolPath) {
        let unborn = |dir: &Path| {
            let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.all(|entry| BEFORE.iter().any(|name| entry.file_name() == *name))
        };
        let places = subdirectories(&self.dirs.pool(pool).join("instances"));
        for place in places.iter().filter(|place| unborn(place)) {
            if let Err(error) = file::remove_dir(place) {
                tracing::warn!(place = %place.display(), %error, "an empty place stays");
            }
        }
    }

    /// Ends removals that were cut short in `dir`: whoever asks for what is gone already may want
    /// to remove just these.
    pub(crate) fn end_removals(&self, dir: &Path) {
        if let Err(error) = sweep(dir)
            && !error.is_missing()
        {
            tracing::warn!(dir = %dir.display(), %error, "something removed stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirs::Dirs;

    #[test]
    fn only_empty_places_are_removed() {
        let top = tempfile::tempdir().unwrap();
        let state = |name: &str| (name == "MVM_STATE_DIR").then(|| top.path().into());
        let records = Records::new(Dirs::from_env(state));
        let pool: PoolPath = "acme/workers".parse().unwrap();
        let instances = records.dirs.pool(&pool).join("instances");
        for (place, file) in [
            ("i-00000001", "instance.json.tmp"),
            ("i-00000002", "data.img"),
            ("i-00000003", "instance.json"),
        ] {
            fs::create_dir_all(instances.join(place)).unwrap();
            fs::write(instances.join(place).join(file), b"").unwrap();
        }
        fs::create_dir_all(instances.join("i-00000004")).unwrap();
        fs::create_dir_all(instances.join(".gone-i-00000005")).unwrap();
        records.remove_unborn(&pool);
        let there = |place: &str| instances.join(place).exists();
        let all = ["i-00000001", "i-00000002", "i-00000003", "i-00000004", ".gone-i-00000005"];
        assert_eq!(all.map(there), [false, true, true, false, true]);
        records.end_removals(&instances);
        assert!(!there(".gone-i-00000005") && there("i-00000002"));
        records.end_removals(&top.path().join("nowhere"));
    }
}
