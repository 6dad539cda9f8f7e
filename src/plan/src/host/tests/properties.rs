//! What holds for every plan, on hosts in any state.

use std::collections::HashMap;

use mvm_model::observed::Failure;
use mvm_model::policy::{IdlePolicy, Protection};
use mvm_model::resources::Usage;
use mvm_model::state::Transition;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::sim::Sim;
use super::*;
use crate::{Order, Overrides, Plan, Removal, Step, Terms, Why, host};

const STATUSES: [Status; 6] = [
    Status::Created,
    Status::Running,
    Status::Warm,
    Status::Sleeping,
    Status::Stopped,
    Status::Failed,
];

const NAMES: [&str; 3] = ["alice", "bob", "carol"];

fn roles() -> Vec<Role> {
    vec![Role::Gateway, Role::Builder, Role::Worker, Role::Capability("pg".into())]
}

/// One pool, what is there of it, and whether it is declared.
#[derive(Debug, Clone)]
struct PoolWorld {
    spec: PoolSpec,
    there: Option<Vec<ObservedInstance>>,
    declared: bool,
}

/// How wild a world is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wild {
    /// Nothing hinders: plenty of everything, nothing protected, held or on its way.
    Calm,
    Wild,
}

/// A chance in a wild world; proptest knows no chance of zero.
fn chance(wild: Wild, chance: f64) -> f64 {
    if wild == Wild::Wild { chance } else { f64::from(f32::MIN_POSITIVE) }
}

fn an_instance(wild: Wild) -> impl Strategy<Value = ObservedInstance> {
    let hindered = prop::option::weighted(chance(wild, 0.15), 0u64..900_000);
    (
        select(&STATUSES),
        hindered.clone(),
        hindered.clone(),
        hindered,
        prop::option::of(0u64..1_000_000),
        any::<bool>(),
        select(&[0u64, 64]),
    )
        .prop_map(|(status, manual, failed, moving, idle, parked, data_disk_mib)| {
            let mut one = instance(0, status);
            one.resources.data_disk_mib = data_disk_mib;
            one.manual = manual.map(|ago| NOW - ago);
            one.failure = failed.map(|ago| Failure { count: 1 + (ago % 4) as u32, at: NOW - ago });
            one.idle_since = idle.map(|ago| NOW - ago);
            if parked && matches!(status, Status::Warm | Status::Sleeping) {
                one.parked = Parked::Idle;
            }
            one.motion = match moving.map(|x| x % 6) {
                None => Motion::Still,
                Some(0) => Motion::Moving(Transition::Starting),
                Some(1) => Motion::Interrupted(Transition::Starting),
                Some(2) => Motion::Moving(Transition::Stopping),
                Some(3) => Motion::Interrupted(Transition::Sleeping { generation: 1 }),
                Some(4) => Motion::Interrupted(Transition::Destroying),
                Some(_) => Motion::Moving(Transition::Destroying),
            };
            one
        })
}

fn a_pool(wild: Wild) -> impl Strategy<Value = PoolWorld> {
    let rare = chance(wild, 0.2);
    let counts = (0u32..4, 0u32..3, 0u32..3);
    let wanted = select(&[Wanted::Running, Wanted::Warm, Wanted::Sleeping, Wanted::Stopped]);
    let flags =
        (prop::bool::weighted(rare), prop::bool::weighted(rare), prop::bool::weighted(rare));
    let idle =
        prop::option::of((prop::option::of(0u64..600), prop::option::of(0u64..900), 0u32..3));
    let there =
        prop::option::weighted(0.8, (vec(an_instance(wild), 0..7), vec(an_instance(wild), 0..3)));
    (
        select(roles()),
        counts,
        vec(wanted, 0..3),
        flags,
        idle,
        there,
        prop::bool::weighted(1.0 - rare),
    )
        .prop_map(|(role, (running, warm, sleeping), wanted, flags, idle, there, declared)| {
            let mut spec = pool("pool", role, running, warm, sleeping);
            let asked = NAMES.iter().zip(wanted).map(|(name, wanted)| named(name, wanted));
            spec.instances = Some(asked.collect());
            (spec.pinned, spec.critical, spec.orphaned) = flags;
            if let Some((warm_after_seconds, sleep_after_seconds, keep_running)) = idle {
                spec.idle = IdlePolicy {
                    warm_after_seconds,
                    sleep_after_seconds,
                    keep_running,
                    keep_warm: 0,
                };
            }
            let there = there.map(|(unnamed, mut with_name)| {
                for (one, name) in with_name.iter_mut().zip(NAMES.iter().rev()) {
                    one.name = Some(name.parse().unwrap());
                }
                unnamed.into_iter().chain(with_name).collect()
            });
            PoolWorld { spec, there, declared }
        })
}

/// Desired state, host and terms.
type World = (DesiredState, Observed, Terms);

fn a_world(wild: Wild) -> impl Strategy<Value = World> {
    let quotas = (1u32..9, 1u32..5, 2u32..14).prop_map(move |(max_running, max_warm, most)| {
        if wild == Wild::Calm {
            let (max_running, max_warm, max_vcpus) = (1000, 1000, 1000);
            return Quotas {
                max_running,
                max_warm,
                max_vcpus,
                max_mem_mib: 1 << 20,
                ..Quotas::default()
            };
        }
        let max_mem_mib = 256 * u64::from(most);
        Quotas {
            max_running,
            max_warm,
            max_mem_mib,
            max_instances_per_pool: most,
            max_pools: 2,
            ..Quotas::default()
        }
    });
    let a_tenant = (vec(a_pool(wild), 1..4), quotas, prop::bool::weighted(0.9));
    let memory = prop::option::weighted(chance(wild, 0.5), 1000u64..6000);
    let terms = (any::<bool>(), any::<bool>()).prop_map(|(delete, clear)| Terms {
        removal: if delete { Removal::DeleteData } else { Removal::KeepData },
        overrides: if clear { Overrides::Since(NOW) } else { Overrides::Respect },
        ..Terms::default()
    });
    (vec(a_tenant, 1..4), memory, terms, any::<bool>()).prop_map(
        move |(tenants, guest_mem_mib, terms, prune)| {
            let (mut state, mut there) = (desired(vec![]), Vec::new());
            (state.prune_unknown_tenants, state.prune_unknown_pools) = (prune, prune);
            for (number, (pools, quotas, declared)) in tenants.into_iter().enumerate() {
                let (spec, one) = build(number as u16, pools, quotas);
                if declared || wild == Wild::Calm {
                    state.tenants.push(spec);
                }
                there.push(one);
            }
            (state, Observed { guest_mem_mib, tenants: there }, terms)
        },
    )
}

fn build(number: u16, pools: Vec<PoolWorld>, quotas: Quotas) -> (TenantSpec, ObservedTenant) {
    let mut spec = TenantSpec { quotas, ..tenant(&format!("tenant-{number}"), number) };
    let mut there = ObservedTenant::new(spec.without_pools());
    let mut next = 2;
    for (place, mut pool) in pools.into_iter().enumerate() {
        pool.spec.pool_id = format!("pool-{place}").parse().unwrap();
        if let Some(mut instances) = pool.there {
            for one in &mut instances {
                one.instance_id = InstanceId::from_bits(u32::from(number) * 1000 + next);
                (one.offset, one.role) = (Offset(next as u16), pool.spec.role.clone());
                next += 1;
            }
            let mut observed = ObservedPool::new(pool.spec.clone());
            (observed.instances, observed.image) = (instances, ImageState::Ready(Digest::of(b"i")));
            there.pools.push(observed);
        }
        if pool.declared {
            spec.pools.push(pool.spec);
        }
    }
    (spec, there)
}

fn is_down(step: &Step) -> bool {
    matches!(
        step,
        Step::Stop { .. } | Step::Destroy { .. } | Step::Sleep { .. } | Step::Warm { .. }
    )
}

fn is_parking(step: &Step) -> bool {
    matches!(step, Step::Warm { why: Why::Parking, .. } | Step::Sleep { why: Why::Parking, .. })
}

/// The place of a step among those that bring up.
fn up_kind(step: &Step) -> Option<u32> {
    match step {
        Step::Wake { .. } => Some(0),
        Step::Resume { .. } => Some(1),
        Step::Start { .. } => Some(2),
        Step::Create { .. } => Some(3),
        _ => None,
    }
}

fn rank_of(world: &World, step: &Step) -> usize {
    let path = step.pool().unwrap();
    let declared = world.0.tenant(&path.tenant).and_then(|tenant| tenant.pool(&path.pool));
    let there = || {
        let mut pools = world.1.tenants.iter().flat_map(|t| t.pools.iter().map(move |p| (t, p)));
        let found =
            pools.find(|(t, p)| t.spec.tenant_id == path.tenant && p.spec.pool_id == path.pool);
        &found.unwrap().1.spec
    };
    super::super::rank(&declared.unwrap_or_else(there).role)
}

/// Removing before adding, roles and kinds in their order.
fn check_order(world: &World, plan: &Plan) {
    let ups: Vec<_> = plan.steps.iter().filter(|step| up_kind(step).is_some()).collect();
    let downs: Vec<_> =
        plan.steps.iter().filter(|step| is_down(step) && !is_parking(step)).collect();
    let first_up = plan.steps.iter().position(|step| up_kind(step).is_some());
    let last_down = plan.steps.iter().rposition(|step| is_down(step) && !is_parking(step));
    if let (Some(up), Some(down)) = (first_up, last_down) {
        assert!(down < up, "removing comes before adding: {:?}", plan.steps);
    }
    let key = |step: &&Step| (rank_of(world, step), up_kind(step));
    assert!(ups.is_sorted_by_key(key), "{ups:?}");
    assert!(downs.is_sorted_by_key(|step| std::cmp::Reverse(rank_of(world, step))), "{downs:?}");
}

fn over(usage: &Usage, quotas: &Quotas) -> [u64; 4] {
    let over = |used: u64, limit: u64| used.saturating_sub(limit);
    [
        over(usage.running.into(), quotas.max_running.into()),
        over(usage.warm.into(), quotas.max_warm.into()),
        over(usage.vcpus.into(), quotas.max_vcpus.into()),
        over(usage.mem_mib, quotas.max_mem_mib),
    ]
}

/// How far every tenant and the host are over what they may use.
fn excess(sim: &Sim) -> Vec<u64> {
    let tenants = &sim.host.tenants;
    let mut all: Vec<u64> = tenants.iter().flat_map(|t| over(&t.usage(), &t.spec.quotas)).collect();
    let used: u64 = tenants.iter().map(|tenant| tenant.usage().mem_mib).sum();
    all.push(used.saturating_sub(sim.host.guest_mem_mib.unwrap_or(u64::MAX)));
    all
}

fn protection(world: &World, step: &Step) -> Protection {
    let Some(path) = step.pool() else { return Protection::None };
    if let Some(tenant) = world.0.tenant(&path.tenant)
        && let Some(spec) = tenant.pool(&path.pool)
    {
        return spec.protection(tenant.pinned);
    }
    let tenants = world.1.tenants.iter().filter(|tenant| tenant.spec.tenant_id == path.tenant);
    let mut pools = tenants.flat_map(|tenant| &tenant.pools);
    let pool = pools.find(|pool| pool.spec.pool_id == path.pool);
    pool.map_or(Protection::None, |pool| pool.protection(false))
}

/// Executes a plan, holding each step against everything that must never happen.
fn execute(world: &World, sim: &mut Sim, plan: &Plan) {
    let before: HashMap<InstanceId, ObservedInstance> = sim
        .host
        .tenants
        .iter()
        .flat_map(|tenant| tenant.instances().map(|one| (one.instance_id, one.clone())))
        .collect();
    for step in &plan.steps {
        let over_before = excess(sim);
        let protection = protection(world, step);
        if is_down(step) {
            assert_ne!(protection, Protection::Critical, "{step}");
            let pauses = matches!(step, Step::Warm { .. });
            assert!(pauses || protection != Protection::Pinned, "{step}");
        }
        if let Some(path) = step.instance()
            && let mvm_model::id::InstanceRef::Id(id) = path.instance
        {
            let one = &before[&id];
            let held = world.2.held_until(one, NOW).is_some();
            assert!(!held || matches!(step, Step::Settle { .. }), "a person's {step}");
            let kept = one.holds_data() && world.2.removal == Removal::KeepData;
            assert!(!(kept && matches!(step, Step::Destroy { .. })), "{step} loses data");
        }
        sim.execute(&world.0, step);
        let quotas_change = matches!(
            step,
            Step::EnsureTenant { .. } | Step::DestroyTenant { .. } | Step::Settle { .. }
        );
        if !quotas_change {
            let more = excess(sim).iter().zip(&over_before).any(|(after, before)| after > before);
            assert!(!more, "{step} exceeds a quota");
        }
    }
}

/// Runs a world to its end; the plan that is left.
fn run(world: &World, sim: &mut Sim) -> Plan {
    for _ in 0..12 {
        let plan = host(&world.0, &sim.host, &world.2, NOW);
        assert_eq!(plan, host(&world.0, &sim.host, &world.2, NOW), "a plan is a function");
        check_order(world, &plan);
        if plan.is_empty() {
            return plan;
        }
        execute(world, sim, &plan);
    }
    panic!("no end: {:?}", host(&world.0, &sim.host, &world.2, NOW));
}

/// The steps about named instances or the others, without what names them.
fn about(world: &World, plan: &Plan, names: bool) -> Vec<String> {
    let instances = world.1.tenants.iter().flat_map(ObservedTenant::instances);
    let with_name: Vec<InstanceId> =
        instances.filter(|one| one.name.is_some()).map(|one| one.instance_id).collect();
    let is_named = |step: &Step| match step {
        Step::Create { name, .. } => Some(name.is_some()),
        _ => step.instance().map(|path| match path.instance {
            mvm_model::id::InstanceRef::Id(id) => with_name.contains(&id),
            mvm_model::id::InstanceRef::Name(_) => true,
        }),
    };
    let steps = plan.steps.iter().filter(|step| is_named(step) == Some(names));
    steps.map(ToString::to_string).collect()
}

/// The same world without named instances, or without the others.
fn only(world: &World, names: bool) -> World {
    let mut world = world.clone();
    let specs = world.0.tenants.iter_mut().flat_map(|tenant| &mut tenant.pools);
    let there = world.1.tenants.iter_mut().flat_map(|tenant| &mut tenant.pools);
    let forget = |spec: &mut PoolSpec| match names {
        true => spec.desired_counts = DesiredCounts::default(),
        false => spec.instances = Some(vec![]),
    };
    specs.for_each(forget);
    for pool in there {
        forget(&mut pool.spec);
        pool.instances.retain(|one| one.name.is_some() == names);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_plan_converges_within_quotas_in_order_and_spares_what_is_protected(
        world in a_world(Wild::Wild),
    ) {
        let mut sim = Sim::new(world.1.clone());
        run(&world, &mut sim);
    }

    #[test]
    fn where_nothing_hinders_the_host_becomes_what_is_desired(world in a_world(Wild::Calm)) {
        let mut sim = Sim::new(world.1.clone());
        for tenant in &mut sim.host.tenants {
            for one in tenant.pools.iter_mut().flat_map(|pool| &mut pool.instances) {
                one.since = 0;
                one.idle_since = None;
                one.parked = Parked::No;
            }
        }
        let world = (world.0, sim.host.clone(), world.2);
        let left = run(&world, &mut sim);
        for note in &left.notes {
            prop_assert!(matches!(note.reason, crate::Reason::KeptData { .. }), "{}", note);
        }
        for tenant in &world.0.tenants {
            let there = sim.tenant(&tenant.tenant_id).clone();
            for spec in &tenant.pools {
                let pool = there.pools.iter().find(|pool| pool.spec.pool_id == spec.pool_id).unwrap();
                let status = |status| {
                    let unnamed = pool.instances.iter().filter(|one| one.name.is_none());
                    unnamed.filter(|one| one.status == status).count() as u32
                };
                let counts = spec.desired_counts;
                let got = [status(Status::Running), status(Status::Warm), status(Status::Sleeping)];
                prop_assert_eq!(got, [counts.running, counts.warm, counts.sleeping]);
                for named in spec.named() {
                    let one = pool.instances.iter().find(|one| one.name.as_ref() == Some(&named.name));
                    let status = one.unwrap().status;
                    let off = matches!(status, Status::Created | Status::Stopped | Status::Failed);
                    let is = status == named.desired.status() || (named.desired == Wanted::Stopped && off);
                    prop_assert!(is, "{} is {}, not {}", named.name, status, named.desired);
                }
            }
        }
    }

    #[test]
    fn named_and_unnamed_instances_do_not_know_each_other(mut world in a_world(Wild::Calm)) {
        // All of a tenant wait for its entry, whatever is new there.
        world.2.order = Order::Loose;
        let whole = host(&world.0, &world.1, &world.2, NOW);
        for names in [true, false] {
            let half = only(&world, names);
            let plan = host(&half.0, &half.1, &half.2, NOW);
            prop_assert_eq!(about(&world, &whole, names), about(&half, &plan, names));
        }
    }
}
