//! Counts against the quotas and the subnet of their tenant.

use super::Findings;
use crate::desired::{PoolSpec, TenantSpec, Wanted};
use crate::resources::OverQuota;

/// What a tenant's pools ask for together.
#[derive(Default)]
struct Asked {
    running: u64,
    warm: u64,
    vcpus: u64,
    mem_mib: u64,
    disk_mib: u64,
    instances: u64,
}

impl Asked {
    fn of(tenant: &TenantSpec) -> Self {
        let mut asked = Self::default();
        for pool in tenant.pools.iter().filter(|pool| !pool.orphaned) {
            asked.add(pool);
        }
        asked
    }

    fn add(&mut self, pool: &PoolSpec) {
        let named = |wanted| count(pool, |spec| spec.desired == wanted && !spec.orphaned);
        let (counts, given) = (pool.desired_counts, pool.instance_resources);
        let running = u64::from(counts.running) + named(Wanted::Running);
        let warm = u64::from(counts.warm) + named(Wanted::Warm);
        let sleeping = u64::from(counts.sleeping) + named(Wanted::Sleeping);
        self.running += running;
        self.warm += warm;
        self.vcpus += (running + warm).saturating_mul(given.vcpus.into());
        self.mem_mib = self.mem_mib.saturating_add((running + warm).saturating_mul(given.mem_mib));
        let data =
            pool.named().iter().map(|spec| spec.data_disk_mib.unwrap_or(given.data_disk_mib));
        let data = data.fold(0, u64::saturating_add);
        let unnamed = u64::from(counts.total()).saturating_mul(given.data_disk_mib);
        let asleep = sleeping.saturating_mul(given.mem_mib);
        let disk = data.saturating_add(unnamed).saturating_add(asleep);
        self.disk_mib = self.disk_mib.saturating_add(disk);
        self.instances += instances(pool);
    }
}

fn count(pool: &PoolSpec, which: impl Fn(&crate::desired::InstanceSpec) -> bool) -> u64 {
    pool.named().iter().filter(|spec| which(spec)).count() as u64
}

fn instances(pool: &PoolSpec) -> u64 {
    u64::from(pool.desired_counts.total()) + pool.named().len() as u64
}

/// Every quota that is below the counts.
pub(super) fn tenant(tenant: &TenantSpec, findings: &mut Findings) {
    let (name, quotas, asked) = (tenant.tenant_id.as_str(), tenant.quotas, Asked::of(tenant));
    let limits = [
        ("max_running", u64::from(quotas.max_running), asked.running),
        ("max_warm", u64::from(quotas.max_warm), asked.warm),
        ("max_vcpus", u64::from(quotas.max_vcpus), asked.vcpus),
        ("max_mem_mib", quotas.max_mem_mib, asked.mem_mib),
        ("max_disk_gib", quotas.max_disk_gib, asked.disk_mib.div_ceil(1024)),
        ("max_pools", u64::from(quotas.max_pools), tenant.pools.len() as u64),
    ];
    for (quota, limit, asked) in limits {
        if asked > limit {
            let over = OverQuota { quota, limit, used: 0, wanted: asked };
            let (unit, flag) = (over.unit(), over.flag());
            let problem =
                format!("its pools ask for {asked}{unit}, quota {quota} is {limit}{unit}");
            let hint =
                format!("lower the counts, or raise {quota} ('mvm tenant update {name} {flag} N')");
            findings.add(name, problem, hint);
        }
    }
    for pool in &tenant.pools {
        let (asked, limit) = (instances(pool), u64::from(quotas.max_instances_per_pool));
        if asked > limit {
            let problem = format!("{asked} instances, quota max_instances_per_pool is {limit}");
            let hint = "raise max_instances_per_pool or lower the counts";
            findings.add(&format!("{name}/{}", pool.pool_id), problem, hint);
        }
    }
    subnet(tenant, asked.instances, findings);
}

/// Everyone needs an address; `.2` is only a gateway's.
fn subnet(tenant: &TenantSpec, asked: u64, findings: &mut Findings) {
    let network = &tenant.network;
    let last = network.ipv4_subnet.max_offset().0;
    let (first, last) = network.address_range.map_or((2, last), |r| (r.first.0, r.last.0));
    let gateway = tenant
        .pools
        .iter()
        .any(|pool| pool.role == crate::image::Role::Gateway && instances(pool) > 0);
    let first = if gateway { first } else { first.max(3) };
    let room = (u64::from(last) + 1).saturating_sub(u64::from(first));
    if asked > room {
        let problem = format!("{asked} instances, {} has room for {room}", network.ipv4_subnet);
        findings.add(tenant.tenant_id.as_str(), problem, "lower the counts or use a larger subnet");
    }
}
