//! Pools: creating, building, scaling and destroying them. None of this starts an instance.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mvm_host::file;
use mvm_host::progress::Progress;
use mvm_model::desired::PoolSpec;
use mvm_model::image::{ImageSource, Role};
use mvm_model::observed::Parked;
use mvm_model::record::{
    DesiredCounts, InstanceRecord, ManagedBy, PoolRecord, SCHEMA_VERSION, free_offset, free_uid,
};
use mvm_model::resources::{OverQuota, Quotas, Resources, Usage};
use mvm_model::state::State;
use mvm_model::{Digest, InstanceId, InstanceName, PoolPath};

use crate::error::{About, Classify, Error, Kind, Result};
use crate::service::{Service, now, random};

/// What a new pool should be.
#[derive(Debug, Clone)]
pub struct NewPool {
    /// Its tenant and name.
    pub path: PoolPath,
    /// Where its image comes from.
    pub image: ImageSource,
    /// What its instances are for.
    pub role: Role,
    /// What each is given.
    pub resources: Resources,
}

/// How many instances a pool should have; `None` leaves a count as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scale {
    /// Running.
    pub running: Option<u32>,
    /// Warm.
    pub warm: Option<u32>,
    /// Sleeping.
    pub sleeping: Option<u32>,
}

impl Scale {
    fn from(self, now: DesiredCounts) -> DesiredCounts {
        DesiredCounts {
            running: self.running.unwrap_or(now.running),
            warm: self.warm.unwrap_or(now.warm),
            sleeping: self.sleeping.unwrap_or(now.sleeping),
        }
    }
}

/// Progress that can be sent to another thread.
pub type SharedSink = Arc<dyn Fn(Progress) + Send + Sync>;

impl Classify for OverQuota {
    fn classify(&self) -> (Kind, Option<String>) {
        (
            Kind::OverQuota,
            Some("stop or destroy something, or create the tenant with larger quotas".into()),
        )
    }
}

impl Service {
    /// Creates a pool.
    ///
    /// # Errors
    /// When the tenant is missing, the name taken, or a quota used up.
    pub async fn create_pool(&self, new: NewPool) -> Result<PoolRecord> {
        let (tenant, object) = (new.path.tenant.clone(), new.path.clone());
        let result = self.create_pool_unlogged(new).await;
        self.audit(&tenant, &object, "pool.create", &result).await;
        result
    }

    async fn create_pool_unlogged(&self, new: NewPool) -> Result<PoolRecord> {
        let resources = new.resources.check().map_err(|error| {
            Error::new(Kind::Invalid, &new.path, error.to_string())
                .hint("see 'mvm pool create --help'")
        })?;
        let _lock = self.lock_state().await?;
        let tenant = self.living_tenant(&new.path.tenant)?;
        if self.records.pool(&new.path)?.is_some() {
            return Err(Error::new(
                Kind::Conflict,
                &new.path,
                format!("pool {} exists already", new.path),
            )
            .hint(format!("'mvm pool info {}' shows it", new.path)));
        }
        let (used, limit) =
            (self.records.pools(&new.path.tenant).records.len() as u64, tenant.quotas.max_pools);
        if used >= limit.into() {
            return Err(OverQuota { quota: "max_pools", limit: limit.into(), used, wanted: 1 })
                .about(&new.path, "create the pool");
        }
        let spec = PoolSpec {
            role: new.role,
            ..PoolSpec::new(new.path.pool, new.image, resources)
        };
        let record = PoolRecord::new(new.path.tenant, spec, now());
        self.records.put_pool(&record)?;
        Ok(record)
    }

    /// Builds a pool's image and makes it the revision new boots use.
    ///
    /// # Errors
    /// When it cannot be built; the revision before stays current.
    pub async fn build_pool(
        &self,
        path: &PoolPath,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Digest> {
        let (tenant, object) = (path.tenant.clone(), path.clone());
        let result = self.build_pool_unlogged(path, progress, cancel).await;
        self.audit(&tenant, &object, "pool.build", &result).await;
        result
    }

    async fn build_pool_unlogged(
        &self,
        path: &PoolPath,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Digest> {
        let pool = self.pool(path)?;
        let digest = match &pool.image {
            ImageSource::Revision { digest } => digest.clone(),
            ImageSource::Flake { reference, .. } => {
                let text = format!("there is no builder for the flake {reference} in this version");
                return Err(Error::new(Kind::ImageBuilderUnavailable, path, text)
                    .hint("create the pool with --profile; the embedded builder makes its image"));
            }
            ImageSource::Embedded { profile } => {
                self.ensure_image(*profile, pool.role.clone(), progress, cancel).await?
            }
        };
        let images = self.images()?;
        images
            .link_into(&self.dirs.pool(path), &digest)
            .about(path, "put the image into the pool")?;
        let _lock = self.lock_state().await?;
        let mut pool = self.pool(path)?;
        pool.current = Some(digest.clone());
        self.records.put_pool(&pool)?;
        Ok(digest)
    }

    /// Sets how many instances a pool should have and creates the missing records. Starts and
    /// stops nothing.
    ///
    /// # Errors
    /// When a quota or the subnet does not allow it; nothing is changed then.
    pub async fn scale_pool(&self, path: &PoolPath, wanted: Scale) -> Result<Vec<InstanceRecord>> {
        let (tenant, object) = (path.tenant.clone(), path.clone());
        let result = self.scale_pool_unlogged(path, wanted).await;
        self.audit(&tenant, &object, "pool.scale", &result).await;
        result
    }

    async fn scale_pool_unlogged(
        &self,
        path: &PoolPath,
        wanted: Scale,
    ) -> Result<Vec<InstanceRecord>> {
        let _lock = self.lock_state().await?;
        let mut pool = self.pool(path)?;
        let counts = wanted.from(pool.desired_counts);
        self.admit_counts(&pool, counts)?.about(path, "scale the pool")?;
        let have = self
            .records
            .instances(path)
            .records
            .iter()
            .filter(|record| record.name.is_none())
            .count();
        let missing = (counts.total() as usize).saturating_sub(have);
        let created = self.draw_records(&pool, missing, None)?;
        for record in &created {
            self.records.put_instance(record)?;
        }
        pool.desired_counts = counts;
        self.records.put_pool(&pool)?;
        Ok(created)
    }

    fn admit_counts(
        &self,
        pool: &PoolRecord,
        counts: DesiredCounts,
    ) -> Result<std::result::Result<(), OverQuota>> {
        let quotas = self.tenant(&pool.tenant_id)?.quotas;
        let pools = self.records.pools(&pool.tenant_id).records;
        let others = pools.iter().filter(|other| other.pool_id != pool.pool_id);
        let mut usage = Usage::default();
        others.for_each(|other| claim(&mut usage, other.desired_counts, other.instance_resources));
        let named = self.records.instances(&pool.path()).records;
        let named = named.iter().filter(|record| record.name.is_some()).count() as u64;
        Ok(admit_counts(&quotas, usage, named, pool.instance_resources, counts))
    }

    /// Creates one instance beyond the counts, named if a name is given.
    ///
    /// # Errors
    /// When the name is taken or a quota or the subnet is used up.
    pub async fn create_instance(
        &self,
        path: &PoolPath,
        name: Option<InstanceName>,
    ) -> Result<InstanceRecord> {
        let (tenant, object) = (path.tenant.clone(), path.clone());
        let result = self.create_instance_unlogged(path, name).await;
        self.audit(&tenant, &object, "instance.create", &result).await;
        result
    }

    async fn create_instance_unlogged(
        &self,
        path: &PoolPath,
        name: Option<InstanceName>,
    ) -> Result<InstanceRecord> {
        let _lock = self.lock_state().await?;
        let pool = self.pool(path)?;
        let others = self.records.instances(path).records;
        let taken = |record: &InstanceRecord| name.is_some() && record.name == name;
        if others.iter().any(taken) {
            return Err(Error::new(
                Kind::Conflict,
                path,
                "an instance of that name exists already",
            ));
        }
        let limit = u64::from(self.tenant(&path.tenant)?.quotas.max_instances_per_pool);
        let used = others.len() as u64;
        if used >= limit {
            return Err(OverQuota { quota: "max_instances_per_pool", limit, used, wanted: 1 })
                .about(path, "create an instance");
        }
        let record = self
            .draw_records(&pool, 1, name)?
            .pop()
            .ok_or_else(|| Error::new(Kind::Failed, path, "no instance could be drawn"))?;
        self.records.put_instance(&record)?;
        Ok(record)
    }

    /// New records with free ids, offsets and uids; nothing is written.
    fn draw_records(
        &self,
        pool: &PoolRecord,
        count: usize,
        name: Option<InstanceName>,
    ) -> Result<Vec<InstanceRecord>> {
        let tenant = self.living_tenant(&pool.tenant_id)?;
        // An instance that cannot be read may have any address.
        let ours =
            self.records.tenant_instances(&pool.tenant_id).all(pool.path(), "lease an address")?;
        let everyone = self.records.all_instances().records;
        let mut uids: Vec<_> = everyone.iter().map(|record| record.uid).collect();
        let mut ids: Vec<_> = everyone.iter().map(|record| record.instance_id).collect();
        let mut offsets: Vec<_> = ours.iter().map(|record| record.offset).collect();
        let mut drawn = Vec::new();
        for _ in 0..count {
            let offset =
                free_offset(tenant.network.ipv4_subnet, &pool.role, &offsets).ok_or_else(|| {
                    Error::new(
                        Kind::OverQuota,
                        pool.path(),
                        format!("subnet {} has no free address", tenant.network.ipv4_subnet),
                    )
                    .hint("destroy an instance, or create a tenant with a larger subnet")
                })?;
            let record = InstanceRecord {
                schema_version: SCHEMA_VERSION,
                instance_id: draw_id(&ids),
                name: name.clone(),
                tenant_id: pool.tenant_id.clone(),
                pool_id: pool.pool_id.clone(),
                role: pool.role.clone(),
                net_id: tenant.network.tenant_net_id,
                offset,
                uid: free_uid(&uids),
                resources: pool.instance_resources,
                revision: None,
                state: State::Created,
                transition: None,
                next_generation: 1,
                since: now(),
                created_at: now(),
                note: None,
                labels: Default::default(),
                desired: None,
                pinned_revision: None,
                managed_by: ManagedBy::Local,
                orphaned: false,
                manual: None,
                failure: None,
                parked: Parked::No,
            };
            offsets.push(offset);
            uids.push(record.uid);
            ids.push(record.instance_id);
            drawn.push(record);
        }
        Ok(drawn)
    }

    /// Destroys a pool with its instances and their data.
    ///
    /// # Errors
    /// What the first instance that stays says.
    pub async fn destroy_pool(&self, path: &PoolPath) -> Result<()> {
        let (tenant, object) = (path.tenant.clone(), path.clone());
        let result = self.destroy_pool_unlogged(path).await;
        self.audit(&tenant, &object, "pool.destroy", &result).await;
        result
    }

    async fn destroy_pool_unlogged(&self, path: &PoolPath) -> Result<()> {
        self.pool(path)?;
        for instance in self.records.instances(path).all(path, "destroy it")? {
            self.destroy_instance(&instance.path()).await?;
        }
        let _lock = self.lock_state().await?;
        self.refuse_instances(path, self.records.instances(path))?;
        self.records.remove(path, &self.dirs.pool(path), "pool.json")
    }

    /// Revisions pools and instances need; everything else in the store can go.
    pub fn needed_revisions(&self) -> Vec<Digest> {
        let mut needed: Vec<_> = Vec::new();
        for tenant in self.records.tenants().records {
            needed.extend(
                self.records
                    .pools(&tenant.tenant_id)
                    .records
                    .into_iter()
                    .filter_map(|pool| pool.current),
            );
        }
        needed.extend(
            self.records
                .all_instances()
                .records
                .into_iter()
                .filter_map(|instance| instance.revision),
        );
        needed.sort();
        needed.dedup();
        needed
    }

    /// Bytes of a pool's own files.
    pub fn pool_bytes(&self, path: &PoolPath) -> u64 {
        file::allocated_bytes(&self.dirs.pool(path).join("instances"))
    }
}

/// Whether `counts` instances fit beside what the tenant's other pools claim.
fn admit_counts(
    quotas: &Quotas,
    mut usage: Usage,
    named: u64,
    resources: Resources,
    counts: DesiredCounts,
) -> std::result::Result<(), OverQuota> {
    let (limit, wanted) = (u64::from(quotas.max_instances_per_pool), u64::from(counts.total()));
    if named + wanted > limit {
        return Err(OverQuota { quota: "max_instances_per_pool", limit, used: named, wanted });
    }
    for _ in 0..counts.running {
        usage.admit_running(quotas, resources)?;
        usage.add_running(resources);
    }
    for _ in 0..counts.warm {
        usage.admit_warm(quotas)?;
        usage.add_warm(resources);
    }
    Ok(())
}

fn claim(usage: &mut Usage, counts: DesiredCounts, resources: Resources) {
    (0..counts.running).for_each(|_| usage.add_running(resources));
    (0..counts.warm).for_each(|_| usage.add_warm(resources));
}

fn draw_id(taken: &[InstanceId]) -> InstanceId {
    loop {
        let id = InstanceId::from_bits(random());
        if !taken.contains(&id) {
            return id;
        }
    }
}
