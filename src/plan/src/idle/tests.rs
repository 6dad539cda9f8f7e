use mvm_model::image::Role;
use mvm_model::resources::Resources;
use mvm_model::state::Transition;
use mvm_model::{InstanceId, Offset};

use super::*;
use crate::Overrides;

const NOW: Millis = 1_000_000_000;

fn instance(status: Status, age: u64, idle: u64) -> ObservedInstance {
    ObservedInstance {
        instance_id: InstanceId::from_bits(1),
        name: None,
        role: Role::Worker,
        offset: Offset(3),
        resources: Resources { vcpus: 1, mem_mib: 128, data_disk_mib: 0 },
        status,
        motion: Motion::Still,
        since: NOW - age * 1000,
        manual: None,
        idle_since: Some(NOW - idle * 1000),
        parked: if status == Status::Running { Parked::No } else { Parked::Idle },
        failure: None,
        revision: None,
    }
}

fn policies(warm: Option<u64>, sleep: Option<u64>) -> Policies {
    let idle = IdlePolicy {
        warm_after_seconds: warm,
        sleep_after_seconds: sleep,
        ..IdlePolicy::default()
    };
    Policies { idle, runtime: RuntimePolicy::default(), protection: Protection::None }
}

fn verdict(instance: &ObservedInstance, policies: &Policies) -> Verdict {
    decide(instance, policies, &Terms::default(), NOW)
}

#[test]
fn each_decision_has_its_reason() {
    let both = policies(Some(100), Some(300));
    let running = |age, idle| instance(Status::Running, age, idle);
    let warm = |age, idle| instance(Status::Warm, age, idle);
    let working = ObservedInstance { idle_since: None, ..running(500, 0) };
    let stay = Verdict::Stay;
    for (one, policies, expected) in [
        (running(500, 100), both, Verdict::Warm { idle: 100 }),
        (running(500, 99), both, stay(Stay::NotYet { idle: 99, after: 100 })),
        (running(59, 200), both, stay(Stay::TooYoung { been: 59, least: 60 })),
        (running(60, 200), both, Verdict::Warm { idle: 200 }),
        (running(900, 400), policies(None, Some(300)), Verdict::Sleep { idle: 400 }),
        (running(900, 400), policies(None, None), stay(Stay::NoPolicy)),
        (working, both, stay(Stay::Working)),
        (warm(40, 300), both, Verdict::Sleep { idle: 300 }),
        (warm(29, 300), both, stay(Stay::TooYoung { been: 29, least: 30 })),
        (warm(40, 200), both, stay(Stay::NotYet { idle: 200, after: 300 })),
        (warm(40, 900), policies(Some(100), None), stay(Stay::NothingToPark)),
        (instance(Status::Sleeping, 40, 900), both, stay(Stay::NothingToPark)),
    ] {
        assert_eq!(verdict(&one, &policies), expected, "{one:?}");
        assert!(!expected.to_string().is_empty());
    }
}

#[test]
fn a_warm_one_the_policy_did_not_park_is_a_spare_and_stays() {
    let spare = ObservedInstance { parked: Parked::No, ..instance(Status::Warm, 900, 900) };
    let both = policies(Some(1), Some(2));
    assert_eq!(verdict(&spare, &both), Verdict::Stay(Stay::NothingToPark));
}

#[test]
fn protection_a_person_and_a_transition_come_first() {
    let one = instance(Status::Running, 900, 900);
    let both = policies(Some(100), Some(300));
    let with = |protection| Policies { protection, ..both };
    assert_eq!(verdict(&one, &with(Protection::Pinned)), Verdict::Warm { idle: 900 });
    let critical = Stay::Protected(Protection::Critical);
    assert_eq!(verdict(&one, &with(Protection::Critical)), Verdict::Stay(critical));
    let warm = instance(Status::Warm, 900, 900);
    let pinned = Stay::Protected(Protection::Pinned);
    assert_eq!(verdict(&warm, &with(Protection::Pinned)), Verdict::Stay(pinned));

    let held = ObservedInstance { manual: Some(NOW - 1_000), ..one.clone() };
    let until = NOW + 599_000;
    assert_eq!(verdict(&held, &both), Verdict::Stay(Stay::Manual { until }));
    let clear = Terms { overrides: Overrides::Since(NOW), ..Terms::default() };
    assert_eq!(decide(&held, &both, &clear, NOW), Verdict::Warm { idle: 900 });
    let moving = ObservedInstance { motion: Motion::Moving(Transition::Warming), ..one };
    assert_eq!(verdict(&moving, &both), Verdict::Stay(Stay::Moving));
}

#[test]
fn a_clock_set_back_parks_nobody_early_and_blocks_nobody_for_long() {
    let both = policies(Some(100), Some(300));
    let future = ObservedInstance {
        since: NOW + 3_600_000,
        idle_since: Some(NOW + 3_600_000),
        manual: Some(NOW + 3_600_000),
        ..instance(Status::Running, 0, 0)
    };
    let not_yet = Stay::NotYet { idle: 0, after: 100 };
    assert_eq!(verdict(&future, &both), Verdict::Stay(not_yet));
    let idle_since = Some(NOW - 200_000);
    let idle = ObservedInstance { idle_since, ..future };
    assert_eq!(verdict(&idle, &both), Verdict::Warm { idle: 200 });
}

#[test]
fn so_many_stay_as_have_to() {
    let policy = IdlePolicy { keep_running: 2, keep_warm: 1, ..IdlePolicy::default() };
    let mut keep = Keep::new(policy, 3, 2);
    let (park, sleep) = (Verdict::Warm { idle: 1 }, Verdict::Sleep { idle: 1 });
    assert_eq!(keep.limit(Status::Running, park), park);
    assert_eq!(keep.limit(Status::Running, park), Verdict::Stay(Stay::Kept { least: 2 }));
    assert_eq!(keep.limit(Status::Warm, sleep), sleep);
    assert_eq!(keep.limit(Status::Warm, sleep), Verdict::Stay(Stay::Kept { least: 1 }));
}
