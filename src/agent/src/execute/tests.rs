//! Plan → execute → observe on a host of values: what holds whatever is asked and whenever the
//! executor dies.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use mvm_model::desired::{DesiredState, InstanceSpec, NetworkSpec, PoolSpec, TenantSpec, Wanted};
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::observed::{ImageState, Motion, NetState, Observed, ObservedPool, ObservedTenant};
use mvm_model::record::{DesiredCounts, Egress, ManagedBy};
use mvm_model::resources::{Quotas, Resources};
use mvm_model::state::{Status, Transition};
use mvm_model::{Digest, InstanceId, NetId, Offset, TenantName};
use mvm_plan::{Overrides, Terms};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::fake::{Fake, NOW, instance};
use crate::error::{Kind, Result};
use crate::reconcile::{Converging, Report};

const GIVEN: Resources = Resources { vcpus: 1, mem_mib: 256, data_disk_mib: 0 };

fn tenant(number: u16, quotas: Quotas) -> TenantSpec {
    let tenant_net_id = NetId::new(number + 1).unwrap();
    TenantSpec {
        tenant_id: format!("tenant-{number}").parse().unwrap(),
        network: NetworkSpec {
            tenant_net_id,
            ipv4_subnet: tenant_net_id.default_subnet(),
            address_range: None,
        },
        quotas,
        egress: Egress::Internet,
        pinned: false,
        secrets_hash: None,
        managed_by: ManagedBy::Local,
        orphaned: false,
        pools: Vec::new(),
    }
}

/// A pool that is asked for, what is there of it, and whether its image is.
#[derive(Debug, Clone)]
struct PoolWorld {
    role: Role,
    counts: DesiredCounts,
    named: Vec<Wanted>,
    there: Option<(Vec<Status>, Vec<Status>, bool)>,
}

fn a_pool() -> impl Strategy<Value = PoolWorld> {
    let roles = [Role::Gateway, Role::Builder, Role::Worker, Role::Capability("pg".into())];
    let status = || {
        select(&[
            Status::Created,
            Status::Running,
            Status::Warm,
            Status::Sleeping,
            Status::Stopped,
            Status::Failed,
        ])
    };
    let wanted = select(&[Wanted::Running, Wanted::Warm, Wanted::Sleeping, Wanted::Stopped]);
    let counts = (0u32..4, 0u32..3, 0u32..3);
    let there = (vec(status(), 0..5), vec(status(), 0..3), any::<bool>());
    (select(roles.to_vec()), counts, vec(wanted, 0..3), prop::option::weighted(0.7, there))
        .prop_map(|(role, (running, warm, sleeping), named, there)| {
            let counts = DesiredCounts { running, warm, sleeping };
            PoolWorld { role, counts, named, there }
        })
}

fn a_world() -> impl Strategy<Value = (DesiredState, Observed)> {
    let tenants = vec((vec(a_pool(), 1..4), any::<bool>(), 6u32..30), 1..4);
    tenants.prop_map(|tenants| {
        let (mut desired, mut host) = (DesiredState::default(), Observed::default());
        for (number, (pools, broken, most)) in tenants.into_iter().enumerate() {
            let quotas = Quotas {
                // What runs at first fits, so that exceeding it is the executor's doing.
                max_running: most.max(18),
                max_warm: 40,
                max_vcpus: 200,
                max_mem_mib: 1 << 20,
                ..Quotas::default()
            };
            let (spec, there) = build(number as u16, quotas, pools, broken);
            desired.tenants.push(spec);
            host.tenants.extend(there);
        }
        (desired, host)
    })
}

fn build(
    number: u16,
    quotas: Quotas,
    pools: Vec<PoolWorld>,
    broken: bool,
) -> (TenantSpec, Option<ObservedTenant>) {
    let mut spec = tenant(number, quotas);
    let mut seen = ObservedTenant::new(spec.without_pools());
    seen.net = if broken { NetState::Broken } else { NetState::Ready };
    let exists = pools.iter().any(|pool| pool.there.is_some());
    let mut next = 3;
    for (place, world) in pools.into_iter().enumerate() {
        let image = ImageSource::Embedded { profile: Profile::Minimal, role: None };
        let names = ["alice", "bob", "carol"];
        let named = names.iter().zip(world.named).map(|(name, desired)| InstanceSpec {
            desired,
            ..InstanceSpec::new(name.parse().unwrap())
        });
        let pool = PoolSpec {
            role: world.role.clone(),
            desired_counts: world.counts,
            instances: Some(named.collect()),
            ..PoolSpec::new(format!("pool-{place}").parse().unwrap(), image, GIVEN)
        };
        if let Some((unnamed, with_name, built)) = world.there {
            let mut there = ObservedPool::new(pool.clone());
            if built {
                there.image = ImageState::Ready(Digest::of(b"image"));
            }
            let unnamed = unnamed.into_iter().map(|status| (None, status));
            let with_name = names.iter().rev().zip(with_name);
            let with_name = with_name.map(|(name, status)| (Some(name.parse().unwrap()), status));
            for (name, status) in unnamed.chain(with_name) {
                let id = InstanceId::from_bits(u32::from(number) * 1000 + next);
                let mut one = instance(id, status, GIVEN);
                (one.name, one.offset, one.role) = (name, Offset(next as u16), world.role.clone());
                there.instances.push(one);
                next += 1;
            }
            seen.pools.push(there);
        }
        spec.pools.push(pool);
    }
    (spec, exists.then_some(seen))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

async fn reconcile(desired: &DesiredState, fake: &Fake) -> Result<Report> {
    reconcile_that(true, desired, fake).await
}

async fn reconcile_that(waits: bool, desired: &DesiredState, fake: &Fake) -> Result<Report> {
    let terms = Terms { overrides: Overrides::Since(NOW), ..Terms::default() };
    let (facilities, lanes) = (fake, 3);
    let (goes_on, is_left, tell) = (&|| true, &|_: &TenantName| false, &|_: &mvm_plan::Step| ());
    Converging { facilities, desired, terms, lanes, waits, goes_on, is_left, tell }.run().await
}

/// Nothing of what is asked for is missing.
fn assert_converged(desired: &DesiredState, fake: &Fake, name: &TenantName) {
    let spec = desired.tenant(name).unwrap();
    let host = fake.host();
    let tenant = host.tenants.iter().find(|tenant| tenant.spec.tenant_id == *name).unwrap();
    for pool in &spec.pools {
        let seen = tenant.pools.iter().find(|seen| seen.spec.pool_id == pool.pool_id).unwrap();
        let count = |status| {
            let unnamed = seen.instances.iter().filter(|one| one.name.is_none());
            unnamed.filter(|one| one.status == status).count() as u32
        };
        let counts = DesiredCounts {
            running: count(Status::Running),
            warm: count(Status::Warm),
            sleeping: count(Status::Sleeping),
        };
        assert_eq!(counts, pool.desired_counts, "{name}/{}", pool.pool_id);
        for asked in pool.named() {
            let one = seen.instances.iter().find(|one| one.name.as_ref() == Some(&asked.name));
            let status = one.unwrap().status;
            let off = matches!(status, Status::Created | Status::Stopped | Status::Failed);
            let right =
                status == asked.desired.status() || (asked.desired == Wanted::Stopped && off);
            assert!(right, "{} is {status}", asked.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn it_converges_and_then_does_nothing((desired, host) in a_world()) {
        let fake = Fake::new(host);
        let report = run(reconcile(&desired, &fake)).unwrap();
        prop_assert!(report.converged, "{report:?}");
        for tenant in &desired.tenants {
            assert_converged(&desired, &fake, &tenant.tenant_id);
        }
        let again = run(reconcile(&desired, &fake)).unwrap();
        prop_assert!(again.converged && again.done.is_empty() && again.passes == 1, "{again:?}");
    }

    #[test]
    fn a_broken_tenant_never_blocks_the_others(
        (desired, host) in a_world(),
        kind in select(&[Kind::Failed, Kind::Conflict]),
    ) {
        let mut fake = Fake::new(host);
        let broken = desired.tenants[0].tenant_id.clone();
        fake.broken.insert(broken.clone(), kind);
        let report = run(reconcile(&desired, &fake)).unwrap();
        prop_assert!(report.converged || !report.failed.is_empty(), "{report:?}");
        for tenant in desired.tenants.iter().filter(|tenant| tenant.tenant_id != broken) {
            assert_converged(&desired, &fake, &tenant.tenant_id);
        }
        let failed_elsewhere = report.failed.iter().find(|step| !step.object.starts_with(broken.as_str()));
        prop_assert!(failed_elsewhere.is_none(), "{failed_elsewhere:?}");
        // Once it is whole again and has waited long enough, it gets there too.
        fake.broken.clear();
        for one in fake.host().tenants.iter_mut().flat_map(|t| &mut t.pools).flat_map(|p| &mut p.instances) {
            one.failure = None;
        }
        prop_assert!(run(reconcile(&desired, &fake)).unwrap().converged);
        assert_converged(&desired, &fake, &broken);
    }

    #[test]
    fn killed_anywhere_it_goes_on((desired, host) in a_world(), moments in vec(0usize..60, 1..4)) {
        let fake = Fake::new(host);
        for moment in moments {
            run(async {
                let mut work = pin!(reconcile(&desired, &fake));
                let mut context = Context::from_waker(Waker::noop());
                for _ in 0..moment {
                    if let Poll::Ready(report) = work.as_mut().poll(&mut context) {
                        report.unwrap();
                        break;
                    }
                }
            });
            fake.abandon();
        }
        prop_assert!(run(reconcile(&desired, &fake)).unwrap().converged);
        for tenant in &desired.tenants {
            assert_converged(&desired, &fake, &tenant.tenant_id);
        }
    }

    #[test]
    fn roles_come_up_in_order((desired, host) in a_world()) {
        let fake = Fake::new(host);
        run(reconcile(&desired, &fake)).unwrap();
        let roles = |path: &str| {
            let mut parts = path.split('/');
            let (tenant, pool) = (parts.next().unwrap(), parts.next().unwrap());
            let tenant = desired.tenants.iter().find(|spec| spec.tenant_id.as_str() == tenant).unwrap();
            let role = tenant.pools.iter().find(|spec| spec.pool_id.as_str() == pool).unwrap().role.clone();
            (tenant.tenant_id.clone(), mvm_plan::rank(&role))
        };
        let mut on_its_way: Vec<(String, TenantName, usize)> = Vec::new();
        for event in fake.log.lock().unwrap().iter() {
            let (what, path) = event.split_once(' ').unwrap();
            if !what.ends_with("start") && !what.ends_with("wake") {
                continue;
            }
            let (tenant, rank) = roles(path);
            match &what[..1] {
                "+" => {
                    let other = on_its_way.iter().find(|(_, t, r)| *t == tenant && *r != rank);
                    prop_assert!(other.is_none(), "{event} beside {other:?}");
                    on_its_way.push((path.to_owned(), tenant, rank));
                }
                _ => on_its_way.retain(|(other, ..)| other != path),
            }
        }
    }
}

/// A tenant with one pool of workers of which these are there.
fn workers(counts: DesiredCounts, there: &[Status], quotas: Quotas) -> (DesiredState, Fake) {
    let there = Some((there.to_vec(), Vec::new(), true));
    let pool = PoolWorld { role: Role::Worker, counts, named: Vec::new(), there };
    let (spec, there) = build(0, quotas, vec![pool], false);
    let host = Observed { tenants: there.into_iter().collect(), ..Observed::default() };
    (DesiredState { tenants: vec![spec], ..DesiredState::default() }, Fake::new(host))
}

#[test]
fn instances_of_one_role_come_up_side_by_side() {
    let (desired, fake) = workers(
        DesiredCounts { running: 3, warm: 0, sleeping: 0 },
        &[Status::Created; 3],
        Quotas::default(),
    );
    assert!(run(reconcile(&desired, &fake)).unwrap().converged);
    let log = fake.log.lock().unwrap();
    assert!(log[..3].iter().all(|event| event.starts_with("+start")), "{log:?}");
}

/// Booting to be parked needs a place in `max_running` for a moment: one after the other.
#[test]
fn what_is_booted_to_be_parked_gives_its_place_to_the_next() {
    let quotas = Quotas { max_running: 1, ..Quotas::default() };
    let (desired, fake) =
        workers(DesiredCounts { running: 1, warm: 2, sleeping: 2 }, &[Status::Created; 5], quotas);
    assert!(run(reconcile(&desired, &fake)).unwrap().converged);
    assert_converged(&desired, &fake, &desired.tenants[0].tenant_id);
}

/// Two who make the same host so at once: what one finds done already is no failure.
#[test]
fn what_somebody_else_was_quicker_at_is_planned_anew() {
    let (desired, mut fake) =
        workers(DesiredCounts { running: 3, warm: 0, sleeping: 0 }, &[], Quotas::default());
    fake.rivals = 2.into();
    let report = run(reconcile(&desired, &fake)).unwrap();
    assert!(report.converged && report.failed.is_empty(), "{report:?}");
    assert_converged(&desired, &fake, &desired.tenants[0].tenant_id);
}

/// A person's reconcile ends with what is asked for; the loop has a next round.
#[test]
fn who_is_at_an_instance_is_waited_for_by_a_person_only() {
    let (desired, fake) = workers(
        DesiredCounts { running: 2, warm: 0, sleeping: 0 },
        &[Status::Stopped; 2],
        Quotas::default(),
    );
    fake.host().tenants[0].pools[0].instances[0].motion = Motion::Moving(Transition::Starting);
    let report = run(reconcile_that(false, &desired, &fake)).unwrap();
    assert!(!report.converged && report.done.len() == 1, "{report:?}");
    assert_eq!(report.notes[0].reason, "busy: starting");
    let report = run(reconcile_that(true, &desired, &fake)).unwrap();
    assert!(report.converged && report.done.is_empty(), "{report:?}");
    assert_converged(&desired, &fake, &desired.tenants[0].tenant_id);
}
