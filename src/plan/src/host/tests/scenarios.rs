//! Single decisions, told one by one.

use mvm_model::intent;
use mvm_model::observed::{Failure, NetState};
use mvm_model::policy::{IdlePolicy, Protection};
use mvm_model::state::Transition;

use super::sim::Sim;
use super::*;
use crate::{Overrides, Plan, Reason, Removal, Terms, host};

pub(super) fn plan(desired: &DesiredState, observed: &Observed) -> Plan {
    host(desired, observed, &Terms::default(), NOW)
}

pub(super) fn steps(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(ToString::to_string).collect()
}

pub(super) fn of(desired: &DesiredState, list: &[Status]) -> Observed {
    observed(desired, |_| statuses(list))
}

const C: Status = Status::Created;
pub(super) const R: Status = Status::Running;
const W: Status = Status::Warm;
pub(super) const S: Status = Status::Sleeping;
const O: Status = Status::Stopped;

#[test]
fn a_fresh_document_becomes_tenant_pool_image_and_instances() {
    let desired = workers(2, 1, 1);
    let mut sim = Sim::new(Observed::default());
    let first = plan(&desired, &sim.host);
    let expected = [
        "create tenant acme",
        "create pool acme/workers",
        "create an instance in acme/workers",
        "create an instance in acme/workers",
        "create an instance in acme/workers",
        "create an instance in acme/workers",
    ];
    assert_eq!(steps(&first), expected);
    let last = sim.reconcile(&desired, &Terms::default(), NOW);
    assert_eq!((last.notes, sim.counts(0, 0)), (vec![], [2, 1, 1]));
}

#[test]
fn what_scale_left_created_is_started_and_parked() {
    let desired = workers(2, 1, 1);
    let plan = plan(&desired, &of(&desired, &[C, C, C, C]));
    let expected = [
        "start acme/workers/i-00000003",
        "start acme/workers/i-00000004",
        "start acme/workers/i-00000005",
        "warm acme/workers/i-00000005 (booted to be parked)",
        "start acme/workers/i-00000006",
        "sleep acme/workers/i-00000006 (booted to be parked)",
    ];
    assert_eq!(steps(&plan), expected);
}

#[test]
fn those_to_be_parked_go_first_where_quotas_are_tight() {
    let mut desired = workers(2, 1, 0);
    desired.tenants[0].quotas.max_running = 2;
    let mut sim = Sim::new(of(&desired, &[C, C, C]));
    let plan = sim.reconcile(&desired, &Terms::default(), NOW);
    assert_eq!((plan.notes, sim.counts(0, 0)), (vec![], [2, 1, 0]));
}

#[test]
fn wake_comes_before_resume_before_start_before_create() {
    let desired = workers(4, 0, 0);
    let plan = plan(&desired, &of(&desired, &[O, W, S]));
    let expected = [
        "wake acme/workers/i-00000005",
        "resume acme/workers/i-00000004",
        "start acme/workers/i-00000003",
        "create an instance in acme/workers",
    ];
    assert_eq!(steps(&plan), expected);
}

#[test]
fn a_spare_takes_the_place_of_one_that_failed() {
    let desired = workers(2, 1, 0);
    let plan = plan(&desired, &of(&desired, &[R, Status::Failed, W]));
    let expected = [
        "resume acme/workers/i-00000005",
        "start acme/workers/i-00000004",
        "warm acme/workers/i-00000004 (booted to be parked)",
    ];
    assert_eq!(steps(&plan), expected);
}

#[test]
fn scaling_down_parks_stops_and_removes_but_keeps_data() {
    let desired = workers(1, 1, 0);
    let plan1 = plan(&desired, &of(&desired, &[R, R, R, S]));
    let expected = [
        "stop acme/workers/i-00000006 (more than the counts)",
        "stop acme/workers/i-00000005 (more than the counts)",
        "destroy acme/workers/i-00000006 (more than the counts)",
        "destroy acme/workers/i-00000005 (more than the counts)",
        "warm acme/workers/i-00000004 (the pool's counts)",
    ];
    assert_eq!(steps(&plan1), expected);

    let with_data = observed(&desired, |_| {
        let mut list = statuses(&[R, W, R, O, C]);
        list.iter_mut().for_each(|instance| instance.resources.data_disk_mib = 64);
        list
    });
    let plan2 = plan(&desired, &with_data);
    let expected = [
        "stop acme/workers/i-00000005 (more than the counts)",
        "destroy acme/workers/i-00000007 (more than the counts)",
    ];
    assert_eq!(steps(&plan2), expected, "only what was never started holds nothing");
    assert!(plan2.notes.iter().any(|note| note.reason == Reason::KeptData { instances: 1 }));
    let terms = Terms { removal: Removal::DeleteData, ..Terms::default() };
    assert_eq!(host(&desired, &with_data, &terms, NOW).steps.len(), 4);
}

#[test]
fn roles_come_up_from_the_gateway_and_go_down_to_it() {
    let mut acme = tenant("acme", 7);
    let capability = Role::Capability("pg".into());
    for (name, role) in [
        ("pg", capability),
        ("workers", Role::Worker),
        ("gateways", Role::Gateway),
        ("builders", Role::Builder),
    ] {
        acme.pools.push(pool(name, role, 1, 0, 0));
    }
    let up = desired(vec![acme.clone()]);
    let fresh = observed(&up, |pool| vec![instance(20 + pool.pool_id.as_str().len() as u32, C)]);
    let order = |plan: Plan| -> Vec<String> {
        plan.steps.iter().map(|step| step.pool().unwrap().pool.to_string()).collect()
    };
    assert_eq!(order(plan(&up, &fresh)), ["gateways", "builders", "workers", "pg"]);
    acme.orphaned = true;
    let running = observed(&up, |pool| vec![instance(20 + pool.pool_id.as_str().len() as u32, R)]);
    let mut down = plan(&desired(vec![acme]), &running);
    assert_eq!(down.steps.pop().unwrap().to_string(), "update tenant acme");
    assert_eq!(order(down), ["pg", "workers", "builders", "gateways"]);
}

#[test]
fn nobody_is_started_in_the_place_of_what_a_person_stopped() {
    let desired = workers(2, 1, 0);
    let mut now = of(&desired, &[R, O, W]);
    now.tenants[0].pools[0].instances[1].manual = Some(NOW - 599_000);
    let held = plan(&desired, &now);
    assert_eq!(steps(&held), [""; 0]);
    let reason = Reason::Manual { until: NOW + 1_000 };
    assert_eq!((held.notes[0].reason.clone(), held.next_due()), (reason, Some(NOW + 1_000)));
    let later = host(&desired, &now, &Terms::default(), NOW + 1_000);
    assert_eq!(later.steps.len(), 3, "resume the spare, boot and park the stopped one");
    let since = |at| Terms { overrides: Overrides::Since(at), ..Terms::default() };
    assert_eq!(host(&desired, &now, &since(NOW), NOW).steps, later.steps);
    let done_meanwhile = host(&desired, &now, &since(NOW - 600_000), NOW);
    assert_eq!(done_meanwhile.steps, held.steps, "a person did it after the other had asked");
    now.tenants[0].pools[0].instances[1].manual = Some(NOW + 3_600_000);
    assert!(!plan(&desired, &now).is_empty(), "the clock was set back: nothing holds for hours");
}

#[test]
fn what_a_person_started_beyond_the_counts_is_left_alone_for_a_while() {
    let desired = workers(1, 0, 0);
    let mut now = of(&desired, &[R, R]);
    now.tenants[0].pools[0].instances[1].manual = Some(NOW - 1_000);
    assert!(plan(&desired, &now).is_empty());
    assert_eq!(host(&desired, &now, &Terms::default(), NOW + 600_000).steps.len(), 2);
}

#[test]
fn pinned_stays_in_memory_and_critical_is_not_touched() {
    for (pinned, critical, expected) in [
        (true, false, vec!["warm acme/workers/i-00000003 (the pool's counts)"]),
        (true, true, vec![]),
    ] {
        let mut desired = workers(0, 1, 1);
        let pool = &mut desired.tenants[0].pools[0];
        (pool.pinned, pool.critical) = (pinned, critical);
        let plan = plan(&desired, &of(&desired, &[R, R, R, R]));
        assert_eq!(steps(&plan), expected);
        let protection = if critical { Protection::Critical } else { Protection::Pinned };
        assert!(plan.notes.iter().all(|note| note.reason == Reason::Protected(protection)));
    }
    let mut desired = workers(1, 0, 0);
    desired.tenants[0].pools[0].critical = true;
    let plan = plan(&desired, &of(&desired, &[O]));
    assert_eq!(steps(&plan), ["start acme/workers/i-00000003"], "it is still brought up");
}

#[test]
fn quotas_hold_before_every_step_and_each_deferral_has_a_note() {
    let mut desired = workers(3, 0, 0);
    desired.tenants[0].quotas.max_running = 2;
    let plan1 = plan(&desired, &of(&desired, &[C, C, C]));
    assert_eq!(plan1.steps.len(), 2);
    let note = plan1.notes[0].to_string();
    let expected =
        "acme/workers/i-00000005: max_running of 2 would be exceeded (2 in use, 1 more wanted)";
    assert_eq!(note, expected);
    let mut small = of(&workers(3, 0, 0), &[C, C, C]);
    small.guest_mem_mib = Some(600);
    let plan2 = plan(&workers(3, 0, 0), &small);
    assert_eq!(plan2.steps.len(), 2);
    assert_eq!(plan2.notes[0].reason, Reason::HostMemory { wanted: 256, free: 88 });
}

#[test]
fn a_full_subnet_and_a_full_pool_are_notes() {
    let mut desired = workers(20, 0, 0);
    desired.tenants[0].network.ipv4_subnet = "10.240.7.0/28".parse().unwrap();
    let plan1 = plan(&desired, &of(&desired, &[]));
    assert_eq!((plan1.steps.len(), &plan1.notes[0].reason), (12, &Reason::NoAddress));
    desired.tenants[0].quotas.max_instances_per_pool = 5;
    let plan2 = plan(&desired, &of(&desired, &[]));
    assert_eq!(plan2.steps.len(), 5);
    assert!(plan2.notes[0].to_string().starts_with("acme/workers: max_instances_per_pool of 5"));
}

#[test]
fn the_first_gateway_gets_two_and_asked_for_offsets_are_kept() {
    let mut acme = tenant("acme", 7);
    acme.pools.push(pool("workers", Role::Worker, 2, 0, 0));
    acme.pools.push(pool("gateways", Role::Gateway, 2, 0, 0));
    acme.pools[0].instances =
        Some(vec![InstanceSpec { offset: Some(Offset(4)), ..named("alice", Wanted::Stopped) }]);
    let desired = desired(vec![acme]);
    let plan = plan(&desired, &of(&desired, &[]));
    let leased: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            crate::Step::Create { pool, offset, .. } => Some((pool.pool.to_string(), offset.0)),
            _ => None,
        })
        .collect();
    let expected =
        [("gateways", 2), ("gateways", 3), ("workers", 4), ("workers", 5), ("workers", 6)];
    assert_eq!(leased, expected.map(|(pool, offset)| (pool.to_owned(), offset)));
}

#[test]
fn a_named_instance_is_what_it_is_asked_to_be_whatever_the_counts() {
    for (wanted, status, expected) in [
        (Wanted::Running, S, Some("wake acme/workers/i-00000009")),
        (Wanted::Running, W, Some("resume acme/workers/i-00000009")),
        (Wanted::Sleeping, R, Some("sleep acme/workers/i-00000009 (asked for by name)")),
        (Wanted::Stopped, S, Some("stop acme/workers/i-00000009 (asked for by name)")),
        (Wanted::Stopped, C, None),
    ] {
        let mut desired = workers(1, 0, 0);
        desired.tenants[0].pools[0].instances = Some(vec![named("alice", wanted)]);
        let now = observed(&desired, |_| {
            let name = Some("alice".parse().unwrap());
            vec![instance(3, R), ObservedInstance { name, ..instance(9, status) }]
        });
        assert_eq!(steps(&plan(&desired, &now)), Vec::from_iter(expected));
        let mut unsaid = desired.clone();
        unsaid.tenants[0].pools[0].instances = Some(vec![]);
        assert!(plan(&unsaid, &now).is_empty(), "what is not named is not touched");
    }
}

#[test]
fn an_offset_of_another_instance_is_not_given_away() {
    let mut desired = workers(1, 0, 0);
    let asked = InstanceSpec { offset: Some(Offset(3)), ..named("alice", Wanted::Running) };
    desired.tenants[0].pools[0].instances = Some(vec![asked]);
    let plan = plan(&desired, &of(&desired, &[R]));
    assert_eq!((plan.steps.len(), &plan.notes[0].reason), (0, &Reason::AddressTaken));
}

#[test]
fn idle_instances_are_parked_and_stay_parked() {
    let mut desired = workers(3, 0, 0);
    desired.tenants[0].pools[0].idle = IdlePolicy {
        warm_after_seconds: Some(60),
        sleep_after_seconds: Some(300),
        keep_running: 1,
        keep_warm: 0,
    };
    let mut now = of(&desired, &[R, R, R]);
    for (i, instance) in now.tenants[0].pools[0].instances.iter_mut().enumerate() {
        instance.idle_since = Some(NOW - 100_000 - 1_000 * i as u64);
    }
    let mut sim = Sim::new(now);
    let first = plan(&desired, &sim.host);
    let expected = [
        "warm acme/workers/i-00000005 (idle for 102 s)",
        "warm acme/workers/i-00000004 (idle for 101 s)",
    ];
    assert_eq!(steps(&first), expected, "one has to keep running, the least idle");
    assert!(sim.reconcile(&desired, &Terms::default(), NOW).is_empty(), "nobody wakes them");
    let later = NOW + 300_000;
    sim.reconcile(&desired, &Terms::default(), later);
    assert_eq!(sim.counts(0, 0), [1, 0, 2]);
    desired.tenants[0].pools[0].idle.keep_running = 3;
    sim.reconcile(&desired, &Terms::default(), later);
    assert_eq!(sim.counts(0, 0), [3, 0, 0], "keep_running brings them back");
}

#[test]
fn minimum_times_bind_the_idle_policy_and_nothing_else() {
    let mut desired = workers(0, 1, 0);
    let mut young = of(&desired, &[R]);
    young.tenants[0].pools[0].instances[0].since = NOW - 1_000;
    assert_eq!(plan(&desired, &young).steps.len(), 1, "counts do not wait");
    desired = workers(1, 0, 0);
    desired.tenants[0].pools[0].idle.sleep_after_seconds = Some(0);
    young = of(&desired, &[R]);
    young.tenants[0].pools[0].instances[0].since = NOW - 59_000;
    young.tenants[0].pools[0].instances[0].idle_since = Some(NOW - 1_000);
    assert!(plan(&desired, &young).is_empty());
    young.tenants[0].pools[0].instances[0].since = NOW - 60_000;
    assert_eq!(plan(&desired, &young).steps.len(), 1);
}

#[test]
fn what_failed_is_tried_again_later_and_later() {
    let desired = workers(1, 0, 0);
    let mut now = of(&desired, &[Status::Failed]);
    for (count, wait) in [(1, 10_000), (2, 20_000), (3, 40_000), (50, 300_000)] {
        now.tenants[0].pools[0].instances[0].failure = Some(Failure { count, at: NOW });
        let waiting = host(&desired, &now, &Terms::default(), NOW + wait - 1);
        assert_eq!(waiting.notes[0].reason, Reason::Backoff { until: NOW + wait });
        assert!(waiting.is_empty(), "and nobody is created in its place");
        assert_eq!(host(&desired, &now, &Terms::default(), NOW + wait).steps.len(), 1);
    }
}

#[test]
fn what_broke_off_is_settled_first_and_what_is_busy_left_alone() {
    let desired = workers(2, 0, 0);
    let mut now = of(&desired, &[C, C]);
    let instances = &mut now.tenants[0].pools[0].instances;
    instances[0].motion = Motion::Interrupted(Transition::Starting);
    instances[1].motion = Motion::Moving(Transition::Starting);
    let plan = plan(&desired, &now);
    assert_eq!(steps(&plan), ["settle acme/workers/i-00000003"]);
    let reasons: Vec<_> = plan.notes.into_iter().map(|note| note.reason).collect();
    assert_eq!(reasons, [Reason::Settling, Reason::Busy(Transition::Starting)]);
}

#[test]
fn images_are_built_only_when_something_boots() {
    let mut now = of(&workers(1, 0, 0), &[C]);
    now.tenants[0].pools[0].image = ImageState::Missing;
    assert!(plan(&workers(0, 0, 0), &of(&workers(0, 0, 0), &[])).is_empty());
    assert_eq!(steps(&plan(&workers(1, 0, 0), &now)), ["build the image of acme/workers"]);
    now.tenants[0].pools[0].image = ImageState::Failed { at: NOW, reason: "no network".into() };
    let failed = plan(&workers(1, 0, 0), &now);
    assert_eq!(failed.steps, []);
    assert_eq!(failed.notes[0].to_string(), "acme/workers: its image was not built: no network");
}

#[test]
fn a_tenant_never_changes_its_network() {
    let mut moved = workers(1, 0, 0);
    let now = of(&moved, &[C]);
    moved.tenants[0].network.tenant_net_id = NetId::new(8).unwrap();
    let plan = plan(&moved, &now);
    assert_eq!(plan.steps, []);
    let reason = &plan.notes[0].reason;
    assert!(matches!(reason, Reason::ForLife(intent::Why::ForLife { field: "net id", .. })));
}

#[test]
fn a_missing_bridge_is_made_again_before_anything_starts() {
    let desired = workers(1, 0, 0);
    let mut now = of(&desired, &[C]);
    now.tenants[0].net = NetState::Broken;
    let expected = ["repair the network of tenant acme", "start acme/workers/i-00000003"];
    assert_eq!(steps(&plan(&desired, &now)), expected);
}

#[test]
fn explain_says_what_the_plan_does() {
    let desired = workers(1, 0, 1);
    let mut now = of(&desired, &[R, O, C]);
    now.tenants[0].pools[0].instances[1].manual = Some(NOW);
    let pool = &now.tenants[0].pools[0];
    let told = crate::explain(&pool.spec, false, &pool.instances, &Terms::default(), NOW);
    let next: Vec<_> = told.iter().map(|one| &one.next[..]).collect();
    let expected =
        ["stays as it is", "waits: left as a person put it", "is removed (more than the counts)"];
    assert_eq!(next, expected);
    assert_eq!(told[0].slot, "one of those the counts want running");
    assert_eq!(told[0].idle.as_deref(), Some("never parked: the pool has no idle policy"));
    assert_eq!(told[1].due, Some(NOW + 600_000));
}

#[test]
fn nobody_comes_up_before_an_entry_that_is_not_there_yet() {
    let mut acme = tenant("acme", 7);
    acme.pools.push(pool("gateways", Role::Gateway, 1, 0, 0));
    acme.pools.push(pool("workers", Role::Worker, 1, 0, 0));
    let state = desired(vec![acme]);
    let workers = |spec: &PoolSpec| match spec.role {
        Role::Worker => statuses(&[Status::Sleeping]),
        _ => Vec::new(),
    };
    let host = observed(&state, workers);
    let steps = |order| {
        let terms = Terms { order, ..Terms::default() };
        let plan = crate::host(&state, &host, &terms, NOW);
        plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(steps(crate::Order::Strict), ["create an instance in acme/gateways"]);
    let loose = steps(crate::Order::Loose);
    assert_eq!(loose.len(), 2, "{loose:?}");
}
