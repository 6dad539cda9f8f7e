use mvm_model::snapshot::{Kind, Platform};
use mvm_model::vm::{Accel, Vmm, VmmKind};
use mvm_model::{Digest, InstanceId};

use super::*;

fn manifest(draft: &Draft) -> Manifest {
    Manifest {
        schema_version: 1,
        kind: Kind::Sleep,
        instance: InstanceId::from_bits(1),
        generation: draft.generation,
        platform: Platform {
            vmm: Vmm { kind: VmmKind::Qemu, accel: Accel::Tcg, version: "7.2".into() },
            machine: "microvm".into(),
            cpu_class: "max".into(),
            host_kernel: "6.1".into(),
            arch: "x86_64".into(),
        },
        spec_hash: Digest::of(b"spec"),
        data_drive: None,
        memory: file::stamp(&draft.memory_path()).unwrap(),
        memory_digest: file::digest(&draft.memory_path()).unwrap(),
        devices: None,
    }
}

fn written(dir: &Path, generation: u64) -> Snapshots {
    let snapshots = Snapshots::of(dir);
    let draft = snapshots.draft(generation).unwrap();
    fs::write(draft.memory_path(), b"guest memory").unwrap();
    let manifest = manifest(&draft);
    draft.commit(&manifest).unwrap();
    snapshots
}

#[test]
fn a_snapshot_exists_only_after_its_rename() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::of(dir.path());
    let draft = snapshots.draft(1).unwrap();
    assert!(!snapshots.is_complete(1));
    drop(draft);
    assert!(!snapshots.is_complete(1), "a crash made a snapshot");
    assert!(written(dir.path(), 1).is_complete(1));
}

#[test]
fn a_changed_or_truncated_memory_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = written(dir.path(), 2);
    let manifest = snapshots.manifest(2).unwrap();
    assert_eq!(snapshots.prove_memory(&manifest), Ok(()));
    let memory = snapshots.memory(2);
    fs::write(&memory, b"guest memorY").unwrap();
    assert_eq!(snapshots.prove_memory(&manifest), Err(Unusable::MemoryChanged));
    fs::write(&memory, b"guest memory").unwrap();
    assert_eq!(snapshots.prove_memory(&manifest), Ok(()), "same content with another stamp");
    fs::write(&memory, b"guest").unwrap();
    assert_eq!(snapshots.prove_memory(&manifest), Err(Unusable::MemoryChanged));
    fs::remove_file(&memory).unwrap();
    assert!(matches!(snapshots.prove_memory(&manifest), Err(Unusable::Incomplete(_))));
}

#[test]
fn a_consumed_mark_stays() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = written(dir.path(), 3);
    assert!(!snapshots.is_consumed(3));
    snapshots.consume(3).unwrap();
    snapshots.consume(3).unwrap();
    assert!(snapshots.is_consumed(3));
}

#[test]
fn removing_keeps_what_is_named_and_sweeps_drafts() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 4);
    let snapshots = written(dir.path(), 5);
    drop(snapshots.draft(6).unwrap());
    snapshots.remove_except(Some(5)).unwrap();
    let left: Vec<_> = fs::read_dir(dir.path().join("snapshots")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1);
    assert!(snapshots.is_complete(5));
}

#[test]
fn a_sweep_takes_drafts_and_what_was_used_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for generation in [1, 2, 3] {
        written(dir.path(), generation);
    }
    let snapshots = Snapshots::of(dir.path());
    snapshots.draft(4).unwrap();
    snapshots.consume(1).unwrap();
    snapshots.consume(2).unwrap();
    snapshots.sweep(Some(2)).unwrap();
    let there = |generation| snapshots.is_complete(generation);
    assert_eq!([1, 2, 3].map(there), [false, true, true], "only the named one may be used");
    assert!(!snapshots.path(4).with_extension("tmp").exists());
    snapshots.sweep(None).unwrap();
    assert_eq!([1, 2, 3].map(there), [false, false, true]);
}
