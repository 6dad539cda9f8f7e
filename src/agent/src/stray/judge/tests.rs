use proptest::prelude::*;

use super::*;

const OLD: Duration = Duration::from_secs(3600);
const MIN: Duration = Duration::from_secs(60);

fn id(bits: u32) -> InstanceId {
    InstanceId::from_bits(bits)
}

fn process(pid: u32) -> ProcessId {
    ProcessId { pid, start_ticks: u64::from(pid), boot_id: "now".into() }
}

fn net(id: u16) -> NetId {
    NetId::new(id).unwrap()
}

fn claim(status: Status, vm: Option<u32>, vm_lives: bool) -> Claim {
    let vm = vm.map(process);
    let recorded = vm.clone().filter(|_| vm_lives);
    let (waiting, generation, motion) = (None, None, Moving::No);
    Claim { status, vm, vm_lives, recorded, waiting, generation, motion }
}

fn instance(bits: u32, seen: Seen) -> Instance {
    Instance { path: format!("acme/workers/{}", id(bits)), held: false, seen }
}

/// A tenant `acme` with net 7 and instance 1 at offset 3, its VM process 100.
fn known() -> Known {
    let mut known = Known::default();
    let running = claim(Status::Running, Some(100), true);
    known.instances.insert(id(1), instance(1, Seen::Good(running)));
    known.tenants.insert("acme".parse().unwrap(), Some(net(7)));
    known.ports.insert((net(7), Offset(3)));
    known
}

fn verdict(what: What, known: &Known) -> Option<Verdict> {
    judge(&Thing { what, age: OLD }, known, MIN).map(|stray| stray.verdict)
}

fn vm(of: u32, pid: u32) -> What {
    What::Process { of: id(of), part: Part::Vm, process: process(pid) }
}

#[test]
fn a_vm_is_needed_by_its_own_record_and_by_no_other() {
    let known = known();
    assert_eq!(verdict(vm(1, 100), &known), None);
    assert_eq!(verdict(vm(1, 101), &known), Some(Verdict::Reclaim));
    assert_eq!(verdict(vm(2, 100), &known), Some(Verdict::Reclaim));
    let mut stopped = known.clone();
    stopped.instances.insert(id(1), instance(1, Seen::Good(claim(Status::Stopped, None, false))));
    assert_eq!(verdict(vm(1, 100), &stopped), Some(Verdict::Reclaim));
}

#[test]
fn a_vm_that_was_started_after_its_record_is_not_taken_for_a_stray() {
    let mut known = known();
    let older = Claim { recorded: Some(process(101)), ..claim(Status::Running, Some(100), false) };
    known.instances.insert(id(1), instance(1, Seen::Good(older)));
    assert_eq!(verdict(vm(1, 101), &known), None);
    let settle = unsettled(&known.instances[&id(1)]).unwrap();
    assert_eq!(settle.verdict, Verdict::Settle);
    assert!(settle.why.contains("lives as process 101"), "{}", settle.why);
}

#[test]
fn a_vmm_that_waits_for_a_wake_is_no_stray() {
    let mut known = known();
    let asleep = claim(Status::Sleeping, None, false);
    let waits = Claim { waiting: Some(process(100)), ..asleep.clone() };
    known.instances.insert(id(1), instance(1, Seen::Good(waits)));
    assert_eq!(verdict(vm(1, 100), &known), None);
    let supervisor = What::Process { of: id(1), part: Part::Supervisor, process: process(99) };
    assert_eq!(verdict(supervisor.clone(), &known), None);
    known.instances.insert(id(1), instance(1, Seen::Good(asleep)));
    assert_eq!(verdict(vm(1, 100), &known), Some(Verdict::Reclaim));
    assert_eq!(verdict(supervisor, &known), Some(Verdict::Reclaim));
}

#[test]
fn without_any_tenant_no_vm_is_ended() {
    // The disk with the state is not mounted.
    assert_eq!(verdict(vm(1, 100), &Known::default()), Some(Verdict::Ask));
}

#[test]
fn somebody_at_it_a_transition_or_an_unreadable_record_leaves_everything() {
    let mut known = known();
    for (held, motion) in [(true, Moving::No), (false, Moving::Yes), (false, Moving::Ending)] {
        let claim = Claim { motion, ..claim(Status::Stopped, None, false) };
        let held = Instance { held, ..instance(1, Seen::Good(claim)) };
        known.instances.insert(id(1), held);
        assert_eq!(verdict(vm(1, 100), &known), Some(Verdict::Leave));
    }
    known.instances.insert(id(1), instance(1, Seen::Unreadable));
    let jail = What::Jail { of: id(1), path: "j".into(), inhabited: false };
    assert_eq!(verdict(vm(1, 100), &known), None);
    assert_eq!(verdict(jail, &known), None);
}

#[test]
fn what_is_young_is_left() {
    let thing = Thing { what: vm(2, 5), age: Duration::from_secs(5) };
    let stray = judge(&thing, &known(), MIN).unwrap();
    assert_eq!(stray.verdict, Verdict::Leave);
    assert!(stray.why.contains("5 s old"), "{}", stray.why);
    assert_eq!(judge(&thing, &known(), Duration::ZERO).unwrap().verdict, Verdict::Reclaim);
}

#[test]
fn a_tap_that_a_record_may_name_or_a_process_has_open_stays() {
    let tap = |net_id: u16, offset: u16, attached| What::Tap {
        name: "tap".into(),
        net_id: net(net_id),
        offset: Offset(offset),
        attached,
    };
    let mut known = known();
    assert_eq!(verdict(tap(7, 3, false), &known), None);
    assert_eq!(verdict(tap(7, 4, false), &known), Some(Verdict::Reclaim));
    assert_eq!(verdict(tap(7, 4, true), &known), Some(Verdict::Leave));
    known.doubtful.insert(net(7));
    assert_eq!(verdict(tap(7, 4, false), &known), Some(Verdict::Leave));
    assert_eq!(verdict(tap(8, 4, false), &known), Some(Verdict::Reclaim));
    known.tenants.insert("broken".parse().unwrap(), None);
    assert_eq!(verdict(tap(8, 4, false), &known), Some(Verdict::Leave));
}

#[test]
fn a_bridge_is_its_tenants_for_life() {
    let bridge = |net_id: u16, tenant: &str| What::Bridge {
        name: "bridge".into(),
        net_id: net(net_id),
        tenant: tenant.parse().unwrap(),
        attached: false,
    };
    let mut known = known();
    assert_eq!(verdict(bridge(7, "acme"), &known), None);
    assert_eq!(verdict(bridge(8, "acme"), &known), Some(Verdict::Reclaim));
    assert_eq!(verdict(bridge(8, "gone"), &known), Some(Verdict::Reclaim));
    known.tenants.insert("acme".parse().unwrap(), None);
    assert_eq!(verdict(bridge(7, "acme"), &known), Some(Verdict::Leave));
}

#[test]
fn records_are_restored_or_kept_aside_and_never_guessed() {
    let record = |of, spare, newer| What::Record {
        of,
        path: "instance.json".into(),
        problem: "it is damaged".into(),
        spare,
        newer,
    };
    let mut known = known();
    known.instances.insert(id(1), instance(1, Seen::Unreadable));
    let one = Holder::Instance(id(1));
    assert_eq!(verdict(record(one, Spare::Good, false), &known), Some(Verdict::Restore));
    assert_eq!(verdict(record(one, Spare::Good, true), &known), Some(Verdict::Ask));
    assert_eq!(verdict(record(one, Spare::Missing, false), &known), Some(Verdict::Quarantine));
    assert_eq!(verdict(record(Holder::Many, Spare::Missing, false), &known), Some(Verdict::Ask));
    known.living.insert(id(1));
    assert_eq!(verdict(record(one, Spare::Missing, false), &known), Some(Verdict::Ask));
    known.instances.get_mut(&id(1)).unwrap().held = true;
    assert_eq!(verdict(record(one, Spare::Good, false), &known), Some(Verdict::Leave));
}

#[test]
fn an_instance_is_settled_when_nobody_is_at_it() {
    let gone = instance(1, Seen::Good(claim(Status::Running, Some(5), false)));
    assert_eq!(unsettled(&gone).unwrap().verdict, Verdict::Settle);
    assert_eq!(unsettled(&Instance { held: true, ..gone }), None);
    let moving = |motion| Claim { motion, ..claim(Status::Running, Some(5), true) };
    let verdict = |motion| unsettled(&instance(1, Seen::Good(moving(motion)))).map(|s| s.verdict);
    assert_eq!(verdict(Moving::No), None);
    assert_eq!(verdict(Moving::Yes), Some(Verdict::Settle));
    // It deletes data: a repair does not do that.
    assert_eq!(verdict(Moving::Ending), Some(Verdict::Leave));
}

fn statuses() -> impl Strategy<Value = Status> {
    prop::sample::select(vec![
        Status::Created,
        Status::Running,
        Status::Warm,
        Status::Sleeping,
        Status::Stopped,
        Status::Failed,
    ])
}

fn claims() -> impl Strategy<Value = Claim> {
    let motion = prop::sample::select(vec![Moving::No, Moving::No, Moving::Yes, Moving::Ending]);
    let pid = || prop::option::of(1_u32..4);
    (statuses(), pid(), any::<bool>(), pid(), pid(), prop::option::of(0_u64..3), motion).prop_map(
        |(status, vm, vm_lives, recorded, waiting, generation, motion)| Claim {
            status,
            vm: vm.map(process),
            vm_lives: vm_lives && vm.is_some(),
            recorded: recorded.map(process),
            waiting: waiting.map(process).filter(|_| status == Status::Sleeping),
            generation,
            motion,
        },
    )
}

fn records() -> impl Strategy<Value = Known> {
    let seen = prop_oneof![4 => claims().prop_map(Seen::Good), 1 => Just(Seen::Unreadable)];
    let one = (0_u32..4, seen, any::<bool>());
    let instances = prop::collection::vec(one, 0..4);
    let ports = prop::collection::btree_set((0_u16..3, 2_u16..5), 0..4);
    (instances, ports, any::<bool>()).prop_map(|(instances, ports, readable)| {
        let mut known = Known::default();
        known.tenants.insert("acme".parse().unwrap(), readable.then(|| net(1)));
        for (bits, seen, held) in instances {
            known.instances.insert(id(bits), Instance { held, ..instance(bits, seen) });
        }
        known.ports = ports.into_iter().map(|(id, offset)| (net(id), Offset(offset))).collect();
        known
    })
}

fn things() -> impl Strategy<Value = What> {
    let of = || (0_u32..5).prop_map(id);
    let part = prop::sample::select(vec![Part::Vm, Part::Supervisor]);
    let held = prop::option::of(prop::sample::select(vec![Held::Whole, Held::Used, Held::Nothing]));
    let spare = || prop::sample::select(vec![Spare::Good, Spare::Missing]);
    let path = || PathBuf::from("p");
    prop_oneof![
        (of(), part, 1_u32..4).prop_map(|(of, part, pid)| What::Process {
            of,
            part,
            process: process(pid)
        }),
        (of(), any::<bool>()).prop_map(move |(of, inhabited)| What::LastLink {
            of,
            path: path(),
            inhabited
        }),
        (of(), any::<bool>()).prop_map(move |(of, inhabited)| What::Jail {
            of,
            path: path(),
            inhabited
        }),
        (of(), prop::option::of(0_u64..3), held).prop_map(move |(of, generation, held)| {
            What::Snapshot { of, path: path(), generation, held }
        }),
        (0_u16..3, 2_u16..5, any::<bool>()).prop_map(|(id, offset, attached)| What::Tap {
            name: "t".into(),
            net_id: net(id),
            offset: Offset(offset),
            attached
        }),
        (of(), spare(), any::<bool>()).prop_map(move |(of, spare, drives)| What::Unrecorded {
            of,
            path: path(),
            spare,
            drives
        }),
        (of(), spare(), any::<bool>()).prop_map(move |(of, spare, newer)| What::Record {
            of: Holder::Instance(of),
            path: path(),
            problem: "x".into(),
            spare,
            newer
        }),
    ]
}

/// What a living record names.
fn is_named(what: &What, known: &Known) -> bool {
    let claim = |of: &InstanceId| match known.instances.get(of).map(|one| &one.seen) {
        Some(Seen::Good(claim)) => Some(claim),
        _ => None,
    };
    match what {
        What::Process { of, part: Part::Vm, process } => claim(of).is_some_and(|claim| {
            (claim.vm_lives && claim.vm.as_ref() == Some(process))
                || claim.waiting.as_ref() == Some(process)
        }),
        What::Snapshot { of, generation: Some(generation), .. } => {
            claim(of).is_some_and(|claim| claim.generation == Some(*generation))
        }
        What::Tap { net_id, offset, .. } => known.ports.contains(&(*net_id, *offset)),
        _ => false,
    }
}

proptest! {
    #[test]
    fn what_a_living_record_names_is_never_touched(what in things(), known in records()) {
        let found = verdict(what.clone(), &known);
        if is_named(&what, &known) {
            prop_assert!(found.is_none_or(|verdict| !verdict.acts()), "{what:?} {found:?}");
        }
    }

    #[test]
    fn data_is_never_deleted(what in things(), known in records()) {
        let holds_data = matches!(
            what,
            What::LastLink { .. }
                | What::Snapshot { held: None | Some(Held::Whole), .. }
                | What::Unrecorded { drives: true, .. }
                | What::Record { .. }
        );
        let found = verdict(what, &known);
        prop_assert!(!holds_data || found != Some(Verdict::Reclaim));
    }

    #[test]
    fn under_somebodys_lock_nothing_of_an_instance_is_done(what in things(), known in records()) {
        let mut known = known;
        known.instances.values_mut().for_each(|instance| instance.held = true);
        let of = match &what {
            What::Process { of, .. } | What::LastLink { of, .. } | What::Jail { of, .. }
            | What::Snapshot { of, .. } | What::Unrecorded { of, .. }
            | What::Record { of: Holder::Instance(of), .. } => Some(*of),
            _ => None,
        };
        if of.is_some_and(|of| known.instances.contains_key(&of)) {
            prop_assert!(verdict(what, &known).is_none_or(|verdict| !verdict.acts()));
        }
    }
}
