//! What a cold boot takes over from the pool: its resources as they are now.
//!
//! A snapshot needs the machine it was taken on, so `pool update` reaches an instance at its next
//! cold boot, and nowhere else. A data drive grows and never shrinks: the file gets longer here,
//! and the guest lets its own file system grow into it, so that no file system a guest wrote is
//! ever opened on the host.

use mvm_host::drive;
use mvm_model::resources::Resources;

use super::Driver;
use crate::error::{About, Result};
use crate::pool::out_of_quota;

impl Driver<'_> {
    /// Takes the pool's present resources into the record, which the transition then writes.
    pub(super) fn renew(&mut self) -> Result<()> {
        let path = self.record.path();
        let pool = self.service.pool(&self.record.pool_path())?.instance_resources;
        let has = self.record.resources.data_disk_mib;
        let asked = self.record.own_data_disk_mib.unwrap_or(pool.data_disk_mib);
        // One that was never booted has no drive yet: it gets what is asked for.
        let data_disk_mib = if self.record.revision.is_none() { asked } else { asked.max(has) };
        if data_disk_mib > has {
            let quotas = self.service.tenant(&self.record.tenant_id)?.quotas;
            self.service.admit_disk(&self.record.tenant_id, &quotas, data_disk_mib - has).map_err(
                |over| out_of_quota(over, &self.record.tenant_id, &path, "let its data drive grow"),
            )?;
        }
        self.record.resources = Resources { data_disk_mib, ..pool };
        Ok(())
    }

    /// Makes an existing data drive as large as the record says.
    pub(super) fn grow_data(&self) -> Result<()> {
        let data = self.service.instance_dir(&self.record).join("data.img");
        drive::grow_data(&data, self.record.resources.data_disk_mib)
            .about(self.record.path(), "let its data drive grow")
    }
}
