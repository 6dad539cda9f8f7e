use super::*;

#[test]
fn its_states_are_understood() {
    assert_eq!(run_state("Running"), RunState::Running);
    assert_eq!(run_state("Paused"), RunState::Paused);
    assert_eq!(run_state("Not started"), RunState::Waiting);
    assert_eq!(run_state("\x1bodd"), RunState::Ended("\u{fffd}odd".into()));
}

#[test]
fn a_full_disk_is_told_from_other_refusals() {
    let full = "Cannot write memory file: No space left on device (os error 28)";
    assert!(matches!(refused(full.into()), SnapshotError::NoSpace));
    assert!(matches!(refused("no".into()), SnapshotError::Failed(_)));
}

#[test]
fn without_a_record_there_is_no_way_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = Firecracker::connect(dir.path()).unwrap_err();
    assert!(matches!(
        error,
        VmmError::Firecracker { source: FirecrackerError::NoRecord(None), .. }
    ));
}
