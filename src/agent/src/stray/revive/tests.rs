use std::sync::OnceLock;

use mvm_host::snapshot::Snapshots;
use mvm_model::state::{Reality, Settlement, settle};
use mvm_model::vm::{Accel, ProcessId, Vmm, VmmKind};
use proptest::prelude::*;

use super::*;
use crate::testing::{instance, service};

fn vm(pid: u32) -> VmRef {
    let process = ProcessId { pid, start_ticks: 1, boot_id: "now".into() };
    let vmm = Vmm { kind: VmmKind::Firecracker, accel: Accel::Kvm, version: "1".into() };
    VmRef { process, vmm, resumed_from: None }
}

/// What is made of a version before, with these snapshots: complete ones, and used ones.
fn made(
    state: State,
    transition: Option<Transition>,
    lives: Option<bool>,
    complete: &[u64],
    used: &[u64],
) -> (State, Option<Transition>) {
    static ANY: OnceLock<InstanceRecord> = OnceLock::new();
    let any = ANY.get_or_init(|| {
        let (_dir, service) = service();
        instance(&service, State::Created)
    });
    let before = InstanceRecord { state, transition, next_generation: 5, ..any.clone() };
    let truth = Truth {
        vm: lives.map(|_| vm(9)),
        executing: lives,
        held: &|generation| {
            Ok(match (complete.contains(&generation), used.contains(&generation)) {
                (_, true) => Held::Used,
                (true, false) => Held::Whole,
                (false, false) => Held::Nothing,
            })
        },
    };
    let record = revive(before, &truth).unwrap();
    assert!(complete.iter().all(|generation| *generation < record.next_generation));
    (record.state, record.transition)
}

fn running() -> State {
    State::Running { vm: vm(1) }
}

fn warm() -> State {
    State::Warm { vm: vm(1) }
}

const RUNS: Option<bool> = Some(true);
const PAUSED: Option<bool> = Some(false);

#[test]
fn a_vm_that_lives_is_kept_as_it_is() {
    let taken = (State::Running { vm: vm(9) }, Some(Transition::Warming));
    assert_eq!(made(running(), None, RUNS, &[], &[]), taken);
    // Resumed since, as its vCPUs say.
    assert_eq!(made(warm(), Some(Transition::Resuming), RUNS, &[], &[]), taken);
    let paused = (State::Warm { vm: vm(9) }, Some(Transition::Resuming));
    assert_eq!(made(warm(), None, PAUSED, &[], &[]), paused);
    assert_eq!(made(running(), Some(Transition::Warming), PAUSED, &[], &[]), paused);
    // Paused half way to something else: running again.
    assert_eq!(made(running(), None, PAUSED, &[], &[]), taken);
}

#[test]
fn without_a_vm_it_is_stopped_with_its_data() {
    for state in [running(), warm(), State::Sleeping { generation: 4 }] {
        assert_eq!(made(state, None, None, &[], &[]), (State::Stopped, None));
    }
    assert_eq!(made(State::Created, None, None, &[], &[]), (State::Created, None));
}

#[test]
fn it_sleeps_only_in_a_snapshot_that_is_whole() {
    let asleep = State::Sleeping { generation: 4 };
    let settled = (asleep.clone(), Some(Transition::Waking { generation: 4 }));
    assert_eq!(made(asleep.clone(), None, None, &[4], &[]), settled);
    // It fell asleep since.
    let falling = Some(Transition::Sleeping { generation: 5 });
    assert_eq!(made(running(), None, None, &[5], &[]), (running(), falling));
    assert_eq!(made(running(), None, None, &[5], &[5]).0, State::Stopped);
}

#[test]
fn one_that_woke_is_awake_or_stopped_and_never_asleep_again() {
    let asleep = State::Sleeping { generation: 4 };
    let waking = Some(Transition::Waking { generation: 4 });
    let taken = (State::Stopped, Some(Transition::Starting));
    assert_eq!(made(asleep.clone(), waking.clone(), RUNS, &[], &[]), taken);
    assert_eq!(made(asleep.clone(), waking.clone(), None, &[], &[]), (State::Stopped, None));
    // The mark is there still: settling knows.
    assert_eq!(made(asleep.clone(), waking.clone(), RUNS, &[4], &[4]), (asleep, waking));
}

#[test]
fn from_what_cannot_be_looked_at_nothing_is_concluded() {
    let (dir, service) = service();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    // A disk that fails, as far as this can be had: a file where a directory should be.
    let snapshots = Snapshots::of(&file);
    for state in [State::Sleeping { generation: 4 }, running(), warm()] {
        let before = InstanceRecord { next_generation: 5, ..instance(&service, state) };
        let truth = Truth { vm: None, executing: None, held: &|one| snapshots.held(one) };
        assert!(revive(before, &truth).is_err());
    }
}

fn states() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Created),
        Just(State::Stopped),
        Just(running()),
        Just(warm()),
        (3_u64..6).prop_map(|generation| State::Sleeping { generation }),
    ]
}

fn transitions() -> impl Strategy<Value = Option<Transition>> {
    prop::option::of(prop_oneof![
        Just(Transition::Starting),
        Just(Transition::Warming),
        Just(Transition::Resuming),
        Just(Transition::Stopping),
        (3_u64..6).prop_map(|generation| Transition::Sleeping { generation }),
        (3_u64..6).prop_map(|generation| Transition::Waking { generation }),
    ])
}

proptest! {
    /// Revived and settled, nothing sleeps in a snapshot that was used or is not there.
    #[test]
    fn a_used_snapshot_is_never_slept_in(
        state in states(),
        transition in transitions(),
        lives in prop::option::of(any::<bool>()),
        complete in prop::collection::vec(3_u64..6, 0..3),
        used in prop::collection::vec(3_u64..6, 0..3),
    ) {
        // A mark is in its snapshot's directory.
        let used: Vec<_> = used.into_iter().filter(|one| complete.contains(one)).collect();
        let (state, transition) = made(state, transition, lives, &complete, &used);
        let generation = match (&transition, &state) {
            (Some(Transition::Sleeping { generation } | Transition::Waking { generation }), _) => {
                Some(*generation)
            }
            (_, State::Sleeping { generation }) => Some(*generation),
            _ => None,
        };
        let real = Reality {
            vm_alive: lives.is_some(),
            snapshot_complete: generation.is_some_and(|one| complete.contains(&one)),
            consumed: generation.is_some_and(|one| used.contains(&one)),
        };
        let asleep = match &transition {
            Some(transition) => match settle(transition, &state, real) {
                Settlement::Asleep => generation,
                Settlement::Restore => state_generation(&state),
                _ => None,
            },
            None => state_generation(&state),
        };
        if let Some(generation) = asleep {
            prop_assert!(complete.contains(&generation), "{state:?} {transition:?}");
            prop_assert!(!used.contains(&generation), "{state:?} {transition:?}");
        }
    }
}

fn state_generation(state: &State) -> Option<u64> {
    match state {
        State::Sleeping { generation } => Some(*generation),
        _ => None,
    }
}
