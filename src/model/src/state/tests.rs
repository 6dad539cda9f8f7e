use proptest::prelude::*;

use super::*;
use crate::vm::{Accel, VmmKind};

fn vm() -> VmRef {
    VmRef {
        process: ProcessId { pid: 1, start_ticks: 2, boot_id: "b".into() },
        vmm: Vmm { kind: VmmKind::Qemu, accel: Accel::Tcg, version: "7.2".into() },
        resumed_from: None,
    }
}

fn states() -> Vec<State> {
    vec![
        State::Created,
        State::Running { vm: vm() },
        State::Warm { vm: vm() },
        State::Sleeping { generation: 4 },
        State::Stopped,
        State::Failed { reason: "r".into(), kept: "k".into() },
    ]
}

const VERBS: [Verb; 6] =
    [Verb::Start, Verb::Warm, Verb::Sleep, Verb::Wake, Verb::Stop, Verb::Destroy];

/// One letter per state above: `=` already, `x` refused, else the transition's first letter
/// (`s`tart, `W`arm, `r`esume, `z` sleep, `w`ake, `o` stop, `d`estroy).
const TABLE: [(Verb, &str); 6] = [
    (Verb::Start, "s=rwss"),
    (Verb::Warm, "xW=xxx"),
    (Verb::Sleep, "xzz=xx"),
    (Verb::Wake, "x=rwxs"),
    (Verb::Stop, "=ooo=o"),
    (Verb::Destroy, "dddddd"),
];

#[test]
fn every_verb_in_every_state_means_what_the_table_says() {
    for (verb, row) in TABLE {
        for (state, expected) in states().iter().zip(row.chars()) {
            let letter = match decide(state, verb, 9) {
                Err(_) => 'x',
                Ok(Decision::Already(_)) => '=',
                Ok(Decision::Go(Transition::Starting)) => 's',
                Ok(Decision::Go(Transition::Warming)) => 'W',
                Ok(Decision::Go(Transition::Resuming)) => 'r',
                Ok(Decision::Go(Transition::Sleeping { generation })) => {
                    assert_eq!(generation, 9);
                    'z'
                }
                Ok(Decision::Go(Transition::Waking { generation })) => {
                    assert_eq!(generation, 4);
                    'w'
                }
                Ok(Decision::Go(Transition::Stopping)) => 'o',
                Ok(Decision::Go(Transition::Destroying)) => 'd',
            };
            assert_eq!(letter, expected, "{verb} while {}", state.status());
        }
    }
}

#[test]
fn states_survive_json_with_their_lower_case_word() {
    for state in states() {
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["status"], state.status().to_string());
        assert_eq!(serde_json::from_value::<State>(json).unwrap(), state);
    }
}

fn any_transition() -> impl Strategy<Value = Transition> {
    prop_oneof![
        Just(Transition::Starting),
        Just(Transition::Warming),
        Just(Transition::Resuming),
        (0u64..9).prop_map(|generation| Transition::Sleeping { generation }),
        (0u64..9).prop_map(|generation| Transition::Waking { generation }),
        Just(Transition::Stopping),
        Just(Transition::Destroying),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn a_consumed_snapshot_is_never_slept_on_again(
        transition in any_transition(), index in 0usize..6, vm_alive: bool, complete: bool,
    ) {
        let real = Reality { vm_alive, snapshot_complete: complete, consumed: true };
        if matches!(transition, Transition::Waking { .. }) {
            prop_assert_ne!(settle(&transition, &states()[index], real), Settlement::Asleep);
        }
    }

    #[test]
    fn a_vm_is_adopted_only_when_it_is_alive(
        transition in any_transition(), index in 0usize..6, complete: bool, consumed: bool,
    ) {
        let real = Reality { vm_alive: false, snapshot_complete: complete, consumed };
        let settled = settle(&transition, &states()[index], real);
        prop_assert!(!matches!(settled, Settlement::AdoptRunning | Settlement::AdoptWarm));
    }

    #[test]
    fn an_incomplete_snapshot_is_never_trusted(index in 0usize..6, vm_alive: bool, consumed: bool) {
        let real = Reality { vm_alive, snapshot_complete: false, consumed };
        let settled = settle(&Transition::Sleeping { generation: 1 }, &states()[index], real);
        prop_assert_ne!(settled, Settlement::Asleep);
        // Its VM may be the only one that has its memory.
        let settled = settle(&Transition::Waking { generation: 1 }, &states()[index], real);
        let kept = if vm_alive { Settlement::AdoptRunning } else { Settlement::Failed };
        prop_assert_eq!(settled, kept);
    }

    #[test]
    fn stop_always_leads_to_a_state_that_start_leaves(index in 0usize..6) {
        let state = &states()[index];
        match decide(state, Verb::Stop, 1) {
            Ok(Decision::Go(_)) => prop_assert_eq!(decide(&State::Stopped, Verb::Start, 1), Ok(Decision::Go(Transition::Starting))),
            Ok(Decision::Already(_)) => prop_assert!(matches!(decide(state, Verb::Start, 1), Ok(Decision::Go(Transition::Starting)))),
            Err(refusal) => prop_assert!(false, "{refusal}"),
        }
        for verb in VERBS { let _ = decide(state, verb, 0); }
    }
}
