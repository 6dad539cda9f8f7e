mod properties;
mod removal;
mod scenarios;
mod sim;
mod speed;

use mvm_model::desired::{DesiredState, InstanceSpec, NetworkSpec, PoolSpec, TenantSpec, Wanted};
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::observed::{
    ImageState, Motion, Observed, ObservedInstance, ObservedPool, ObservedTenant, Parked,
};
use mvm_model::record::{DesiredCounts, Egress, ManagedBy, Millis};
use mvm_model::resources::{Quotas, Resources};
use mvm_model::state::Status;
use mvm_model::{Digest, InstanceId, NetId, Offset};

pub(super) const NOW: Millis = 10_000_000_000;

pub(super) const GIVEN: Resources = Resources { vcpus: 1, mem_mib: 256, data_disk_mib: 0 };

pub(super) fn tenant(name: &str, net_id: u16) -> TenantSpec {
    let tenant_net_id = NetId::new(net_id).unwrap();
    TenantSpec {
        tenant_id: name.parse().unwrap(),
        network: NetworkSpec {
            tenant_net_id,
            ipv4_subnet: tenant_net_id.default_subnet(),
            address_range: None,
        },
        quotas: Quotas::default(),
        egress: Egress::Internet,
        pinned: false,
        secrets_hash: None,
        managed_by: ManagedBy::Local,
        orphaned: false,
        pools: Vec::new(),
    }
}

pub(super) fn pool(name: &str, role: Role, running: u32, warm: u32, sleeping: u32) -> PoolSpec {
    let image = ImageSource::embedded(Profile::Minimal);
    PoolSpec {
        role,
        desired_counts: DesiredCounts { running, warm, sleeping },
        ..PoolSpec::new(name.parse().unwrap(), image, GIVEN)
    }
}

pub(super) fn instance(number: u32, status: Status) -> ObservedInstance {
    ObservedInstance {
        instance_id: InstanceId::from_bits(number),
        name: None,
        role: Role::Worker,
        offset: Offset(number as u16),
        resources: GIVEN,
        status,
        motion: Motion::Still,
        since: NOW - 3_600_000,
        manual: None,
        idle_since: None,
        parked: Parked::No,
        failure: None,
        revision: None,
    }
}

/// A host on which everything declared has a record and an image, and these instances exist.
pub(super) fn observed(
    desired: &DesiredState,
    instances: impl Fn(&PoolSpec) -> Vec<ObservedInstance>,
) -> Observed {
    let tenants = desired.tenants.iter().map(|spec| {
        let mut tenant = ObservedTenant::new(spec.without_pools());
        tenant.pools = spec
            .pools
            .iter()
            .map(|pool| ObservedPool {
                spec: pool.clone(),
                image: ImageState::Ready(Digest::of(b"image")),
                instances: instances(pool),
            })
            .collect();
        tenant
    });
    Observed { guest_mem_mib: None, tenants: tenants.collect() }
}

pub(super) fn desired(tenants: Vec<TenantSpec>) -> DesiredState {
    DesiredState { tenants, ..DesiredState::default() }
}

/// `acme` with one pool of workers.
pub(super) fn workers(running: u32, warm: u32, sleeping: u32) -> DesiredState {
    let mut acme = tenant("acme", 7);
    acme.pools.push(pool("workers", Role::Worker, running, warm, sleeping));
    desired(vec![acme])
}

pub(super) fn statuses(list: &[Status]) -> Vec<ObservedInstance> {
    list.iter().enumerate().map(|(i, status)| instance(i as u32 + 3, *status)).collect()
}

pub(super) fn named(name: &str, wanted: Wanted) -> InstanceSpec {
    InstanceSpec { desired: wanted, ..InstanceSpec::new(name.parse().unwrap()) }
}
