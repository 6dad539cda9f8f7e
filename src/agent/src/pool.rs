//! Pools: creating, scaling and destroying them. None of this starts an instance.

mod destroy;

use std::fmt;

use mvm_host::file;
use mvm_model::desired::{InstanceSpec, NetworkSpec, PoolSpec, Wanted};
use mvm_model::image::{ImageSource, Origin, Role};
use mvm_model::intent::Object;
use mvm_model::observed::Parked;
use mvm_model::record::{
    DesiredCounts, InstanceRecord, ManagedBy, PoolRecord, SCHEMA_VERSION, Wakes, free_offset,
    free_uid,
};
use mvm_model::resources::{OverQuota, Quotas, Resources, Usage};
use mvm_model::state::State;
use mvm_model::{InstanceId, InstanceName, Offset, PoolPath, TenantName};

use crate::error::{Error, Kind, Result};
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

/// A new instance.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Draft<'a> {
    /// One of a pool's like ones, maybe at a position that was chosen for it.
    Unnamed(Option<Offset>),
    /// A named one.
    Named(&'a InstanceSpec),
}

impl<'a> Draft<'a> {
    fn spec(&self) -> Option<&'a InstanceSpec> {
        match self {
            Self::Unnamed(_) => None,
            Self::Named(spec) => Some(spec),
        }
    }

    fn name(&self) -> Option<&'a InstanceName> {
        self.spec().map(|spec| &spec.name)
    }

    fn resources(&self, pool: &PoolRecord) -> Resources {
        let given = pool.instance_resources;
        let own = self.spec().and_then(|spec| spec.data_disk_mib);
        Resources { data_disk_mib: own.unwrap_or(given.data_disk_mib), ..given }
    }

    fn offset(&self) -> Option<Offset> {
        match self {
            Self::Unnamed(offset) => *offset,
            Self::Named(spec) => spec.offset,
        }
    }
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

/// What a tenant can do about a quota that is used up.
fn raise(over: &OverQuota, tenant: &TenantName) -> String {
    format!(
        "ask for less, stop or destroy something, or raise it: 'mvm tenant update {tenant} {} N'",
        over.flag()
    )
}

/// Why something cannot be done: `doing` completes "cannot …".
pub(crate) fn out_of_quota(
    over: OverQuota,
    tenant: &TenantName,
    object: impl fmt::Display,
    doing: &str,
) -> Error {
    let hint = raise(&over, tenant);
    Error::new(Kind::OverQuota, object, format!("cannot {doing}")).because(over).hint(hint)
}

/// The refusal of what would be more than a quota, with the tenant in its hint.
fn over_quota(over: &OverQuota, pool: &PoolPath, asked: impl fmt::Display) -> Error {
    let text = format!("{} of {} would be exceeded: {asked}", over.quota, over.limit_told());
    Error::new(Kind::OverQuota, pool, text).hint(raise(over, &pool.tenant))
}

impl Service {
    /// Creates a pool.
    ///
    /// # Errors
    /// When the tenant is missing, the name taken, or a quota used up.
    pub async fn create_pool(&self, new: NewPool) -> Result<PoolRecord> {
        self.create_pool_from(new, Origin::default()).await
    }

    /// Creates a pool, keeping how its image was asked for.
    ///
    /// # Errors
    /// When the tenant is missing, the name taken, a quota used up, or its image cannot be.
    pub async fn create_pool_from(&self, new: NewPool, origin: Origin) -> Result<PoolRecord> {
        let (tenant, object) = (new.path.tenant.clone(), new.path.clone());
        let spec = PoolSpec {
            role: new.role,
            ..PoolSpec::new(new.path.pool.clone(), new.image, new.resources)
        };
        let result = self.create_pool_of(&new.path, spec, origin).await;
        self.audit(&tenant, &object, "pool.create", &result).await;
        result
    }

    /// Creates a pool as it is specified, without its named instances.
    pub(crate) async fn create_pool_of(
        &self,
        path: &PoolPath,
        spec: PoolSpec,
        origin: Origin,
    ) -> Result<PoolRecord> {
        spec.instance_resources.check().map_err(|error| {
            Error::new(Kind::Invalid, path, error.to_string()).hint("see 'mvm pool create --help'")
        })?;
        self.tenant(&path.tenant)?;
        self.check_image(path, &spec.image)?;
        let _lock = self.lock_state().await?;
        let tenant = self.living_tenant(&path.tenant)?;
        if self.records.pool(path)?.is_some() {
            return Err(Error::new(Kind::Conflict, path, format!("pool {path} exists already"))
                .hint(format!("'mvm pool info {path}' shows it")));
        }
        let (used, limit) =
            (self.records.pools(&path.tenant).records.len() as u64, tenant.quotas.max_pools);
        if used >= limit.into() {
            let over = OverQuota { quota: "max_pools", limit: limit.into(), used, wanted: 1 };
            return Err(over_quota(&over, path, format_args!("there are {used} pools already")));
        }
        self.refuse_problems(&tenant, |tenant| tenant.pools.push(spec.clone()))?;
        let record = PoolRecord { origin, ..PoolRecord::new(tenant.tenant_id, spec, now()) };
        self.records.put_pool(&record)?;
        Ok(record)
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
        self.permit(Object::Pool(path.clone()), pool.managed_by)?;
        let counts = wanted.from(pool.desired_counts);
        self.admit_counts(&pool, counts)?;
        let tenant = self.living_tenant(&path.tenant)?;
        self.refuse_problems(&tenant, |tenant| {
            let pool = tenant.pools.iter_mut().find(|pool| pool.pool_id == path.pool);
            pool.into_iter().for_each(|pool| pool.desired_counts = counts);
        })?;
        let have = self
            .records
            .instances(path)
            .records
            .iter()
            .filter(|record| record.name.is_none())
            .count();
        let missing = (counts.total() as usize).saturating_sub(have);
        let created = self.draw_records(&pool, &vec![Draft::Unnamed(None); missing])?;
        for record in &created {
            self.records.put_new_instance(record)?;
        }
        pool.desired_counts = counts;
        self.records.put_pool(&pool)?;
        Ok(created)
    }

    fn admit_counts(&self, pool: &PoolRecord, counts: DesiredCounts) -> Result<()> {
        let quotas = self.tenant(&pool.tenant_id)?.quotas;
        let pools = self.records.pools(&pool.tenant_id).records;
        let others = pools.iter().filter(|other| other.pool_id != pool.pool_id);
        let mut usage = Usage::default();
        others.for_each(|other| claim(&mut usage, other.desired_counts, other.instance_resources));
        let named = self.records.instances(&pool.path()).records;
        let named = named.iter().filter(|record| record.name.is_some()).count() as u64;
        admit_counts(&quotas, usage, named, pool.instance_resources, counts).map_err(|over| {
            let unit = over.unit();
            let beside = match over.quota {
                "max_instances_per_pool" => format!("it has {} named ones", over.used),
                _ => format!("the tenant's other pools for {}{unit}", over.used),
            };
            let asked = format!("these counts ask for {}{unit}, {beside}", over.wanted);
            over_quota(&over, &pool.path(), asked)
        })
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
        let spec =
            name.map(|name| InstanceSpec { desired: Wanted::Stopped, ..InstanceSpec::new(name) });
        let draft = spec.as_ref().map_or(Draft::Unnamed(None), Draft::Named);
        let result = self.create_drafted(path, draft).await;
        self.audit_created(path, &result).await;
        result
    }

    /// Notes an instance that was created, or the pool that did not get one.
    pub(crate) async fn audit_created(&self, pool: &PoolPath, result: &Result<InstanceRecord>) {
        let object = match result {
            Ok(record) => record.path().to_string(),
            Err(_) => pool.to_string(),
        };
        self.audit(&pool.tenant, object, "instance.create", result).await;
    }

    /// Creates one instance as it is drafted.
    pub(crate) async fn create_drafted(
        &self,
        path: &PoolPath,
        draft: Draft<'_>,
    ) -> Result<InstanceRecord> {
        let _lock = self.lock_state().await?;
        let pool = self.pool(path)?;
        // One that cannot be read may have the name.
        let others = self.records.instances(path).all(path, "create an instance")?;
        let name = draft.name();
        let taken = |record: &InstanceRecord| name.is_some() && record.name.as_ref() == name;
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
            let over = OverQuota { quota: "max_instances_per_pool", limit, used, wanted: 1 };
            return Err(over_quota(&over, path, format_args!("it has {used} instances already")));
        }
        let record = self
            .draw_records(&pool, &[draft])?
            .pop()
            .ok_or_else(|| Error::new(Kind::Failed, path, "no instance could be drawn"))?;
        self.records.put_new_instance(&record)?;
        Ok(record)
    }

    /// New records with free ids, offsets and uids; nothing is written.
    fn draw_records(&self, pool: &PoolRecord, drafts: &[Draft<'_>]) -> Result<Vec<InstanceRecord>> {
        let tenant = self.living_tenant(&pool.tenant_id)?;
        self.records.remove_unborn(&pool.path());
        // A drive may grow to its full size at any time: its place is taken from the beginning.
        let drive = |draft: &Draft<'_>| draft.resources(pool).data_disk_mib;
        let drives = drafts.iter().map(drive).fold(0, u64::saturating_add);
        self.admit_disk(&pool.tenant_id, &tenant.quotas, drives).map_err(|over| {
            out_of_quota(over, &pool.tenant_id, pool.path(), "create its instances")
        })?;
        // An instance that cannot be read may have any address.
        let ours =
            self.records.tenant_instances(&pool.tenant_id).all(pool.path(), "lease an address")?;
        let everyone = self.records.all_instances().records;
        let mut uids: Vec<_> = everyone.iter().map(|record| record.uid).collect();
        uids.extend(self.kept_uids());
        let mut ids: Vec<_> = everyone.iter().map(|record| record.instance_id).collect();
        let mut offsets: Vec<_> = ours.iter().map(|record| record.offset).collect();
        let mut drawn = Vec::new();
        let network = tenant.spec().network;
        for draft in drafts {
            let offset = lease(&network, pool, draft.offset(), &offsets)?;
            let spec = draft.spec();
            let record = InstanceRecord {
                schema_version: SCHEMA_VERSION,
                instance_id: give_id(draft, &ids)?,
                name: draft.name().cloned(),
                tenant_id: pool.tenant_id.clone(),
                pool_id: pool.pool_id.clone(),
                role: pool.role.clone(),
                net_id: tenant.network.tenant_net_id,
                offset,
                uid: free_uid(&uids),
                resources: draft.resources(pool),
                revision: None,
                state: State::Created,
                transition: None,
                next_generation: 1,
                since: now(),
                created_at: now(),
                note: None,
                labels: spec.map(|spec| spec.labels.clone()).unwrap_or_default(),
                desired: spec.map(|spec| spec.desired),
                pinned_revision: spec.and_then(|spec| spec.revision.clone()),
                own_data_disk_mib: spec.and_then(|spec| spec.data_disk_mib),
                managed_by: spec.map_or(ManagedBy::Local, |spec| spec.managed_by),
                orphaned: false,
                manual: None,
                failure: None,
                parked: Parked::No,
                wakes: Wakes::default(),
            };
            offsets.push(offset);
            uids.push(record.uid);
            ids.push(record.instance_id);
            drawn.push(record);
        }
        Ok(drawn)
    }

    /// Bytes of a pool's own files.
    pub fn pool_bytes(&self, path: &PoolPath) -> u64 {
        file::allocated_bytes(&self.dirs.pool(path).join("instances"))
    }
}

/// Whether `counts` instances fit beside what the tenant's other pools claim.
fn admit_counts(
    quotas: &Quotas,
    others: Usage,
    named: u64,
    resources: Resources,
    counts: DesiredCounts,
) -> std::result::Result<(), OverQuota> {
    let mut asked = Usage::default();
    claim(&mut asked, counts, resources);
    let limits = [
        (
            "max_instances_per_pool",
            quotas.max_instances_per_pool.into(),
            named,
            counts.total().into(),
        ),
        ("max_running", quotas.max_running.into(), others.running.into(), asked.running.into()),
        ("max_warm", quotas.max_warm.into(), others.warm.into(), asked.warm.into()),
        ("max_vcpus", quotas.max_vcpus.into(), others.vcpus.into(), asked.vcpus.into()),
        ("max_mem_mib", quotas.max_mem_mib, others.mem_mib, asked.mem_mib),
    ];
    let over = limits.into_iter().find(|&(_, limit, used, wanted): &(_, u64, u64, u64)| {
        // What a count asks nothing of may be used up by others.
        wanted > 0 && used.saturating_add(wanted) > limit
    });
    match over {
        None => Ok(()),
        Some((quota, limit, used, wanted)) => Err(OverQuota { quota, limit, used, wanted }),
    }
}

fn claim(usage: &mut Usage, counts: DesiredCounts, resources: Resources) {
    (0..counts.running).for_each(|_| usage.add_running(resources));
    (0..counts.warm).for_each(|_| usage.add_warm(resources));
}

/// The offset that is asked for, else the lowest free one.
fn lease(
    network: &NetworkSpec,
    pool: &PoolRecord,
    asked: Option<Offset>,
    taken: &[Offset],
) -> Result<Offset> {
    let subnet = network.ipv4_subnet;
    match asked {
        Some(offset) if taken.contains(&offset) => Err(Error::new(
            Kind::Conflict,
            pool.path(),
            format!("offset {offset} belongs to another instance"),
        )
        .hint("ask for another offset, or none")),
        Some(offset) if network.may_lease(offset) => Ok(offset),
        Some(offset) => {
            let text = format!("offset {offset} is not usable in {subnet}");
            Err(Error::new(Kind::Invalid, pool.path(), text)
                .hint("ask for another offset, or none"))
        }
        None => free_offset(network, &pool.role, taken).ok_or_else(|| {
            let text = format!("subnet {subnet} has no free address");
            Error::new(Kind::OverQuota, pool.path(), text)
                .hint("destroy an instance, or create a tenant with a larger subnet")
        }),
    }
}

/// The id that is asked for, else a new one.
fn give_id(draft: &Draft<'_>, taken: &[InstanceId]) -> Result<InstanceId> {
    match draft.spec().and_then(|spec| spec.instance_id) {
        None => Ok(draw_id(taken)),
        Some(id) if !taken.contains(&id) => Ok(id),
        Some(id) => {
            Err(Error::new(Kind::Conflict, id, format!("there is an instance {id} already"))
                .hint("leave instance_id away; mvm draws one"))
        }
    }
}

fn draw_id(taken: &[InstanceId]) -> InstanceId {
    loop {
        let id = InstanceId::from_bits(random());
        if !taken.contains(&id) {
            return id;
        }
    }
}
