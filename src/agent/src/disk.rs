//! What takes space: a tenant's claim on its quota, and this host's disk by what it is used for.
//!
//! Two measures, never mixed: what is *claimed* (data drives at full size, snapshots as they are)
//! is held against `max_disk_gib` and is what a tenant's "disk" means; what is *on disk* (allocated
//! blocks, a file with several names counted once) is what `node disk` adds up. Images are shared,
//! also by pools' links to them: they are counted once, for the host, and are no tenant's. Quotas are checked on the claim, because a sparse
//! drive may grow to its full size at any moment without anybody asking.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mvm_host::file;
use mvm_host::snapshot::Snapshots;
use mvm_model::TenantName;
use mvm_model::record::{InstanceRecord, TenantRecord};

use crate::error::{Error, Kind, Result};
use crate::service::Service;

pub use mvm_api::node::{Area, FileSystem, NodeDisk, TenantDisk};
pub use mvm_model::resources::Claim;
use mvm_model::resources::{OverQuota, Quotas};

/// Allocated bytes of trees, every file counted once: what is asked for later is the rest.
#[derive(Debug, Default)]
struct Meter {
    seen: BTreeSet<(u64, u64)>,
}

impl Meter {
    fn bytes(&mut self, path: &Path) -> u64 {
        let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
        if !meta.is_dir() {
            let first = self.seen.insert((meta.dev(), meta.ino()));
            return if first { meta.blocks() * 512 } else { 0 };
        }
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| self.bytes(&entry.path())).sum()
    }
}

/// Runs what waits for the disk on a thread of its own.
pub(crate) async fn aside<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(Kind::Failed, "", format!("cannot {doing}")).because(error))
}

impl Service {
    /// What one instance claims.
    pub fn instance_claim(&self, record: &InstanceRecord) -> Claim {
        Claim {
            data_bytes: record.resources.data_disk_mib.saturating_mul(1 << 20),
            snapshot_bytes: Snapshots::of(&self.instance_dir(record)).allocated_bytes(),
        }
    }

    /// What these instances claim together.
    pub fn claim<'a>(&self, records: impl IntoIterator<Item = &'a InstanceRecord>) -> Claim {
        let claims = records.into_iter().map(|record| self.instance_claim(record));
        claims.fold(Claim::default(), Claim::and)
    }

    /// Whether a tenant may take `more_mib` more of the disk: a data drive at full size, or a
    /// snapshot beside those that are there.
    ///
    /// # Errors
    /// `max_disk_gib` when it may not.
    pub(crate) fn admit_disk(
        &self,
        name: &TenantName,
        quotas: &Quotas,
        more_mib: u64,
    ) -> Result<(), OverQuota> {
        self.claim(&self.records.tenant_instances(name).records).admit(quotas, more_mib)
    }

    /// What takes space on this host. Reads every directory of mvm's: seconds on a full one.
    ///
    /// # Errors
    /// When the image store cannot be read.
    pub async fn node_disk(&self) -> Result<NodeDisk> {
        let service = self.clone();
        aside("look at the disk", move || service.measure_disk()).await?
    }

    fn measure_disk(&self) -> Result<NodeDisk> {
        let mut meter = Meter::default();
        let records = self.records.tenants().records;
        // First, so that files pools share with it count here.
        let mut areas = self.areas(&records, &mut meter);
        let tenants: Vec<_> =
            records.iter().map(|tenant| self.tenant_disk(tenant, &mut meter)).collect();
        let lost = meter.bytes(&self.dirs.tenants());
        if lost > 0 {
            let what = "what no tenant's record leads to".to_owned();
            areas.push(Area { what, path: self.dirs.tenants(), bytes: lost });
        }
        let counted: u64 = tenants.iter().map(TenantDisk::bytes).sum();
        let total_bytes = areas.iter().map(|area| area.bytes).sum::<u64>() + counted;
        let reclaimable = self.find_garbage()?.iter().map(|garbage| garbage.bytes).sum();
        Ok(NodeDisk {
            file_systems: self.file_systems(),
            areas,
            tenants,
            total_bytes,
            reclaimable_bytes: reclaimable,
        })
    }

    /// Bytes of all images, each file once, whichever pools link to it.
    pub(crate) fn image_bytes(&self, tenants: &[TenantRecord]) -> u64 {
        self.measure_images(tenants, &mut Meter::default())
    }

    /// The image store, and what only pools of these tenants still link to.
    fn measure_images(&self, tenants: &[TenantRecord], meter: &mut Meter) -> u64 {
        let pools = tenants.iter().flat_map(|tenant| self.records.pools(&tenant.tenant_id).records);
        let linked = pools.map(|pool| self.dirs.pool(&pool.path()).join("artifacts"));
        let all = std::iter::once(self.dirs.cache.join("revisions")).chain(linked);
        all.map(|dir| meter.bytes(&dir)).sum()
    }

    /// What a tenant has on disk that is its own: not the images its pools link to.
    pub(crate) fn tenant_bytes(&self, tenant: &TenantRecord) -> u64 {
        let mut meter = Meter::default();
        self.measure_images(std::slice::from_ref(tenant), &mut meter);
        self.tenant_disk(tenant, &mut meter).bytes()
    }

    fn areas(&self, tenants: &[TenantRecord], meter: &mut Meter) -> Vec<Area> {
        let (cache, state, run) = (&self.dirs.cache, &self.dirs.state, &self.dirs.run);
        let images = self.measure_images(tenants, meter);
        let images = Area { what: "images".into(), path: cache.join("revisions"), bytes: images };
        let places = [
            ("packages images are made of", cache.join("packages")),
            ("image builds", cache.join("tmp")),
            ("builder", state.join("builder")),
            ("audit logs", state.join("audit")),
            ("installation logs", state.join("log")),
            ("running VMs (sockets, logs)", run.join("vm")),
        ];
        let areas = places.into_iter().map(|(what, path)| {
            let bytes = meter.bytes(&path);
            Area { what: what.to_owned(), path, bytes }
        });
        std::iter::once(images).chain(areas).filter(|area| area.bytes > 0).collect()
    }

    fn tenant_disk(&self, tenant: &TenantRecord, meter: &mut Meter) -> TenantDisk {
        let name = &tenant.tenant_id;
        let instances = self.records.tenant_instances(name).records;
        let (mut data_bytes, mut snapshot_bytes) = (0, 0);
        for record in &instances {
            let dir = self.instance_dir(record);
            data_bytes += meter.bytes(&dir.join("data.img"));
            snapshot_bytes += meter.bytes(&dir.join("snapshots"));
        }
        TenantDisk {
            tenant_id: name.to_string(),
            claim: self.claim(&instances),
            quota_bytes: tenant.quotas.max_disk_gib.saturating_mul(1 << 30),
            data_bytes,
            snapshot_bytes,
            other_bytes: meter.bytes(&self.dirs.tenant(name)),
        }
    }

    pub(crate) fn file_systems(&self) -> Vec<FileSystem> {
        let mut seen = BTreeSet::new();
        let new = |path: &&PathBuf| {
            let Ok(meta) = fs::metadata(path) else { return false };
            seen.insert(meta.dev())
        };
        let describe = |path: &PathBuf| {
            let stat = nix::sys::statvfs::statvfs(path.as_path()).ok()?;
            Some(FileSystem {
                path: path.clone(),
                total_bytes: stat.blocks() * stat.fragment_size(),
                free_bytes: file::free_bytes(path).ok()?,
            })
        };
        [&self.dirs.state, &self.dirs.cache].into_iter().filter(new).filter_map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quotas = Quotas {
        max_vcpus: 1,
        max_mem_mib: 1,
        max_running: 1,
        max_warm: 1,
        max_pools: 1,
        max_instances_per_pool: 1,
        max_disk_gib: 4,
    };

    #[test]
    fn an_old_snapshot_counts_beside_the_new_one() {
        let old = Claim { data_bytes: 2 << 30, snapshot_bytes: 1 << 30 };
        assert!(old.admit(&QUOTA, 1024).is_ok());
        let refused = old.admit(&QUOTA, 1025).unwrap_err();
        assert_eq!((refused.quota, refused.limit, refused.used), ("max_disk_gib", 4, 3));
        let gone = Claim { snapshot_bytes: 0, ..old };
        assert!(gone.admit(&QUOTA, 2048).is_ok());
    }

    #[test]
    fn what_takes_nothing_is_never_refused() {
        let over = Claim { data_bytes: 9 << 30, snapshot_bytes: 0 };
        assert!(over.admit(&QUOTA, 0).is_ok());
        assert!(over.admit(&QUOTA, u64::MAX).is_err());
    }

    #[test]
    fn a_file_with_two_names_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        fs::write(one.join("image"), vec![1; 64 << 10]).unwrap();
        fs::hard_link(one.join("image"), two.join("image")).unwrap();
        let mut meter = Meter::default();
        assert!(meter.bytes(&one) >= 64 << 10);
        assert_eq!(meter.bytes(&two), 0);
    }
}
