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
    assert_eq!(snapshots.held(1).unwrap(), Held::Nothing);
    drop(draft);
    assert_eq!(snapshots.held(1).unwrap(), Held::Nothing, "a crash made a snapshot");
    assert_eq!(written(dir.path(), 1).held(1).unwrap(), Held::Whole);
}

#[test]
fn a_changed_or_truncated_memory_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = written(dir.path(), 2);
    let manifest = snapshots.manifest(2).unwrap();
    let prove = || {
        snapshots.prove_memory(&manifest).map_err(|error| match error {
            Unproven::Unusable(unusable) => unusable,
            Unproven::Unread(error) => panic!("{error}"),
        })
    };
    assert_eq!(prove(), Ok(()));
    let memory = snapshots.memory(2);
    fs::write(&memory, b"guest memorY").unwrap();
    assert_eq!(prove(), Err(Unusable::MemoryChanged));
    fs::write(&memory, b"guest memory").unwrap();
    assert_eq!(prove(), Ok(()), "same content with another stamp");
    fs::write(&memory, b"guest").unwrap();
    assert_eq!(prove(), Err(Unusable::MemoryChanged));
    fs::remove_file(&memory).unwrap();
    assert!(matches!(prove(), Err(Unusable::Incomplete(_))));
}

#[test]
fn a_consumed_mark_stays() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = written(dir.path(), 3);
    assert_eq!(snapshots.held(3).unwrap(), Held::Whole);
    snapshots.consume(3).unwrap();
    snapshots.consume(3).unwrap();
    assert_eq!(snapshots.held(3).unwrap(), Held::Used);
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
    assert_eq!(snapshots.held(5).unwrap(), Held::Whole);
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
    let held = |generation| snapshots.held(generation).unwrap();
    let left = [Held::Nothing, Held::Used, Held::Whole];
    assert_eq!([1, 2, 3].map(held), left, "only the named one may be used");
    assert!(!snapshots.path(4).with_extension("tmp").exists());
    snapshots.sweep(None).unwrap();
    assert_eq!([1, 2, 3].map(held), [Held::Nothing, Held::Nothing, Held::Whole]);
}

#[test]
fn what_is_held_is_whole_used_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = written(dir.path(), 1);
    drop(snapshots.draft(2).unwrap());
    let held = |generation| snapshots.held(generation).unwrap();
    assert_eq!([1, 2, 3].map(held), [Held::Whole, Held::Nothing, Held::Nothing]);
    snapshots.consume(1).unwrap();
    assert_eq!(held(1), Held::Used);
    snapshots.unmark(1).unwrap();
    snapshots.unmark(1).unwrap();
    assert_eq!(held(1), Held::Whole);
    // Half of one is none, however it came about.
    fs::remove_file(snapshots.memory(1)).unwrap();
    assert_eq!(held(1), Held::Nothing);
}

#[cfg(debug_assertions)]
#[test]
fn a_removal_cut_short_leaves_no_snapshot() {
    use std::cell::Cell;

    thread_local!(static IS_CUT: Cell<bool> = const { Cell::new(false) });
    failpoint::install(|place| {
        let is_there = place.to_string() == "before:remove-dir" && IS_CUT.get();
        if is_there { Err(io::Error::other("cut")) } else { Ok(()) }
    });
    for is_used in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = written(dir.path(), 1);
        if is_used {
            snapshots.consume(1).unwrap();
        }
        IS_CUT.set(true);
        snapshots.remove_except(None).unwrap_err();
        IS_CUT.set(false);
        // All of it is there still, and nobody takes it for a snapshot.
        let aside = file::temporary(&snapshots.path(1));
        assert!(aside.join("manifest.json").exists() && aside.join("memory").exists());
        assert_eq!(snapshots.held(1).unwrap(), Held::Nothing);
        // The same number once more, and whoever sweeps.
        assert_eq!(written(dir.path(), 1).held(1).unwrap(), Held::Whole);
        snapshots.remove_except(None).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0);
    }
}

#[test]
fn what_this_host_cannot_read_is_not_the_snapshots_fault() {
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    let snapshots = written(dir.path(), 1);
    let manifest = snapshots.manifest(1).unwrap();
    // Too many links: an error that says nothing of what is there.
    for name in ["memory", "consumed", "manifest.json"] {
        let path = snapshots.path(1).join(name);
        let _ = fs::remove_file(&path);
        symlink(&path, &path).unwrap();
        let unread = match name {
            "memory" => {
                let size = fs::symlink_metadata(&path).unwrap().len();
                let memory = FileStamp { size, ..manifest.memory };
                snapshots.prove_memory(&Manifest { memory, ..manifest.clone() })
            }
            "manifest.json" => snapshots.manifest(1).map(drop),
            _ => snapshots.held(1).map(drop).map_err(Unproven::from),
        };
        assert!(matches!(unread, Err(Unproven::Unread(_))), "{name}: {unread:?}");
        snapshots.held(1).unwrap_err();
    }
    for name in ["memory", "consumed", "manifest.json"] {
        fs::remove_file(snapshots.path(1).join(name)).unwrap();
    }
    let gone = snapshots.manifest(1);
    assert!(matches!(gone, Err(Unproven::Unusable(Unusable::Incomplete(_)))), "{gone:?}");
    // That nothing can be listed is not that nothing is there.
    fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    snapshots.remove_except(None).unwrap();
    fs::write(dir.path().join("snapshots"), "").unwrap();
    snapshots.remove_except(None).unwrap_err();
}
