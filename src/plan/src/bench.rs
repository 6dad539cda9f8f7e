//! Input for measuring the planner: a host of any size on which everybody has something to do
//! or is where they should be.

use mvm_model::desired::{DesiredState, NetworkSpec, PoolSpec, TenantSpec};
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::observed::{
    ImageState, Motion, Observed, ObservedInstance, ObservedPool, ObservedTenant, Parked,
};
use mvm_model::record::{DesiredCounts, Egress, ManagedBy, Millis};
use mvm_model::resources::{Quotas, Resources};
use mvm_model::state::Status;
use mvm_model::{Digest, InstanceId, NetId, Offset};

/// The time the input is of.
pub const NOW: Millis = 10_000_000;

/// Instances of one tenant.
const PER_TENANT: usize = 100;

const GIVEN: Resources = Resources { vcpus: 1, mem_mib: 128, data_disk_mib: 0 };

/// What each of a pool's instances is: some as they should be, some not, in turn.
const MIX: [Status; 5] =
    [Status::Running, Status::Warm, Status::Sleeping, Status::Stopped, Status::Created];

/// About `instances` instances in tenants of 100; running, warm and sleeping are each asked for
/// a third of them.
pub fn bench_input(instances: usize) -> (DesiredState, Observed) {
    let tenants: Vec<ObservedTenant> = (0..instances.div_ceil(PER_TENANT))
        .map(|number| tenant(number, PER_TENANT.min(instances - number * PER_TENANT)))
        .collect();
    let specs = tenants.iter().map(|tenant| TenantSpec {
        pools: tenant.pools.iter().map(|pool| pool.spec.clone()).collect(),
        ..tenant.spec.clone()
    });
    let desired = DesiredState { tenants: specs.collect(), ..DesiredState::default() };
    (desired, Observed { guest_mem_mib: None, tenants })
}

fn tenant(number: usize, instances: usize) -> ObservedTenant {
    // Both are in range for every size that fits the net ids: 409,600 instances.
    let net_id = NetId::new((number % usize::from(NetId::MAX)) as u16);
    let tenant_net_id = net_id.unwrap_or_else(|_| unreachable!("a remainder is in range"));
    let spec = TenantSpec {
        tenant_id: name(&format!("tenant-{number}")),
        network: NetworkSpec {
            tenant_net_id,
            ipv4_subnet: tenant_net_id.default_subnet(),
            address_range: None,
        },
        quotas: plenty(),
        egress: Egress::Internet,
        pinned: false,
        secrets_hash: None,
        managed_by: ManagedBy::Local,
        orphaned: false,
        pools: Vec::new(),
    };
    let mut tenant = ObservedTenant::new(spec);
    let roles = [Role::Gateway, Role::Worker];
    let each = instances.div_ceil(roles.len());
    let mut left = instances;
    for role in roles {
        let count = each.min(left);
        left -= count;
        tenant.pools.push(pool(number, role, count));
    }
    tenant
}

fn pool(tenant: usize, role: Role, count: usize) -> ObservedPool {
    let gateway = role == Role::Gateway;
    let image = ImageSource::embedded(Profile::Minimal);
    let third = (count / 3) as u32;
    let mut spec = PoolSpec::new(name(if gateway { "gateways" } else { "workers" }), image, GIVEN);
    spec.role = role.clone();
    spec.desired_counts =
        DesiredCounts { running: count as u32 - 2 * third, warm: third, sleeping: third };
    let first = if gateway { 2 } else { 100 };
    let instances = (0..count).map(|number| ObservedInstance {
        instance_id: InstanceId::from_bits((tenant * 1000 + first + number) as u32),
        name: None,
        role: role.clone(),
        offset: Offset((first + number) as u16),
        resources: GIVEN,
        status: MIX[number % MIX.len()],
        motion: Motion::Still,
        since: 0,
        manual: None,
        idle_since: None,
        parked: Parked::No,
        failure: None,
        revision: None,
    });
    let instances = instances.collect();
    ObservedPool { spec, image: ImageState::Ready(Digest::of(b"image")), instances }
}

fn name<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| unreachable!("{text:?} is a good name"))
}

fn plenty() -> Quotas {
    Quotas {
        max_vcpus: 10_000,
        max_mem_mib: 1 << 30,
        max_running: 10_000,
        max_warm: 10_000,
        max_pools: 100,
        max_instances_per_pool: 10_000,
        max_disk_gib: 1 << 20,
    }
}
