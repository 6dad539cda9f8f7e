use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mvm_model::image::{Profile, Role};

use super::*;
use crate::packages::Control;
use crate::progress::Progress;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn control() -> Control<'static> {
    Control::new(&|_: Progress| (), &GO_ON)
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cache")).unwrap();
    (dir, store)
}

/// Builds a revision of four small files that all say `text`.
fn revision(store: &Store, text: &str) -> Revision {
    let lock = store.lock(control()).unwrap();
    let shop = store.workshop().unwrap();
    let out = shop.path().join("revision");
    fs::create_dir(&out).unwrap();
    let entry = |name: &str| {
        fs::write(out.join(name), format!("{name} {text}")).unwrap();
        store.seal(&out, name).unwrap()
    };
    let files = ArchFiles {
        kernel: entry(KERNEL),
        vmlinux: entry(VMLINUX),
        initrd: entry(INITRD),
        rootfs: entry(ROOTFS),
        kernel_release: "6.1".into(),
        rootfs_type: "erofs".into(),
    };
    let manifest = Manifest {
        schema_version: 1,
        profile: Profile::Minimal.into(),
        role: Role::Worker,
        builder: "embedded".into(),
        guest_proto: 1,
        inputs: BTreeMap::from([("package:one".into(), "1:2 sha256:x".into())]),
        arch: BTreeMap::from([(Arch::HOST.to_string(), files)]),
        workload: None,
    };
    store.install(&lock, &out, &manifest, control()).unwrap()
}

/// Overwrites a sealed file.
fn tamper(path: &Path, text: &str) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_revision_is_found_by_its_digest_with_read_only_files() {
    let (_dir, store) = store();
    let made = revision(&store, "a");
    let found = store.get(&made.digest).unwrap();
    assert_eq!(found.manifest, made.manifest);
    store.verify(&made.digest, control()).unwrap();
    let rootfs = found.files(Arch::HOST).unwrap().rootfs;
    assert_eq!(fs::metadata(rootfs).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(fs::read_dir(store.tmp()).unwrap().count(), 0);
    let other = Digest::of(b"other");
    assert!(matches!(store.get(&other), Err(ImageError::NotFound { .. })));
}

#[test]
fn damage_is_named_and_healed_by_building_again() {
    let (_dir, store) = store();
    let made = revision(&store, "a");
    store.remember(&Digest::of(b"key"), &made.digest).unwrap();
    let rootfs = made.dir.join(ROOTFS);
    tamper(&rootfs, "rootfs b");
    store.get(&made.digest).unwrap();
    let error = store.verify(&made.digest, control()).unwrap_err();
    assert!(error.to_string().contains("rootfs was changed since it was built"), "{error}");
    assert!(error.hint().unwrap().contains("mvm pool build"));
    assert!(store.built(&Digest::of(b"key")).is_none(), "the index still leads to damage");
    revision(&store, "a");
    store.verify(&made.digest, control()).unwrap();
    fs::remove_file(&rootfs).unwrap();
    let error = store.get(&made.digest).unwrap_err();
    assert!(error.to_string().contains("rootfs is missing"), "{error}");
    tamper(&made.dir.join(MANIFEST), "{}");
    assert!(store.get(&made.digest).unwrap_err().to_string().contains("manifest.json was changed"));
    assert!(store.list().unwrap().is_empty());
    revision(&store, "a");
    store.verify(&made.digest, control()).unwrap();
}

#[test]
fn a_symbolic_link_is_no_file_of_a_revision() {
    let (dir, store) = store();
    let made = revision(&store, "a");
    let kernel = made.dir.join(KERNEL);
    let copy = dir.path().join("copy");
    fs::rename(&kernel, &copy).unwrap();
    std::os::unix::fs::symlink(&copy, &kernel).unwrap();
    let error = store.get(&made.digest).unwrap_err();
    assert!(error.to_string().contains("not a plain file"), "{error}");
}

#[test]
fn collecting_keeps_what_is_named_and_forgets_the_rest() {
    let (_dir, store) = store();
    let (kept, gone) = (revision(&store, "a"), revision(&store, "b"));
    store.remember(&Digest::of(b"a"), &kept.digest).unwrap();
    store.remember(&Digest::of(b"b"), &gone.digest).unwrap();
    let debs = store.packages().join("debs");
    fs::create_dir_all(&debs).unwrap();
    for name in ["one_1%3a2_amd64.deb", "two_1_amd64.deb"] {
        fs::write(debs.join(name), "deb").unwrap();
    }
    let told = store.would_free(std::slice::from_ref(&kept.digest)).unwrap();
    let freed = store.gc(std::slice::from_ref(&kept.digest), control()).unwrap();
    assert_eq!(freed.revisions, std::slice::from_ref(&gone.digest));
    assert_eq!(told, freed);
    assert!(freed.bytes > 0);
    assert!(store.built(&Digest::of(b"a")).is_some() && store.built(&Digest::of(b"b")).is_none());
    assert!(debs.join("one_1%3a2_amd64.deb").exists() && !debs.join("two_1_amd64.deb").exists());
    assert_eq!(fs::read_dir(store.tmp()).unwrap().count(), 0);
}

#[test]
fn a_pool_keeps_its_links_and_current_moves_with_each_revision() {
    let (dir, store) = store();
    let pool = dir.path().join("pool");
    let (a, b) = (revision(&store, "a"), revision(&store, "b"));
    store.link_into(&pool, &a.digest).unwrap();
    let linked = store.link_into(&pool, &a.digest).unwrap();
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(linked.dir.join(VMLINUX)), inode(a.dir.join(VMLINUX)));
    store.link_into(&pool, &b.digest).unwrap();
    let current = fs::read_link(pool.join("artifacts/current")).unwrap();
    assert_eq!(current, Path::new("revisions").join(b.digest.as_str()));
    let freed = store.gc(&[], control()).unwrap();
    assert_eq!(freed.revisions.len(), 2);
    linked.verify(control()).unwrap();
    assert!(pool.join("artifacts/current/manifest.json").exists());
}

#[test]
fn a_pools_links_to_damaged_files_are_replaced_after_a_rebuild() {
    let (dir, store) = store();
    let pool = dir.path().join("pool");
    let made = revision(&store, "a");
    let linked = store.link_into(&pool, &made.digest).unwrap();
    tamper(&made.dir.join(ROOTFS), "rootfs b");
    assert!(linked.verify(control()).is_err());
    revision(&store, "a");
    store.link_into(&pool, &made.digest).unwrap().verify(control()).unwrap();
    let shelf = fs::read_dir(pool.join("artifacts/revisions")).unwrap();
    assert_eq!(shelf.count(), 1, "nothing is left beside the revision");
}

#[test]
fn what_a_killed_builder_left_is_swept_and_nothing_else() {
    let (_dir, store) = store();
    let made = revision(&store, "a");
    let shop = store.workshop().unwrap().keep();
    fs::write(shop.join("half"), "x").unwrap();
    let download = store.packages().join("download-x");
    fs::create_dir(&download).unwrap();
    drop(store.lock(control()).unwrap());
    assert!(!shop.exists() && !download.exists());
    store.verify(&made.digest, control()).unwrap();
}

#[test]
fn the_one_who_waits_is_told_for_whom() {
    let (_dir, store) = store();
    let _held = store.lock(control()).unwrap();
    let said = Mutex::new(Vec::new());
    let sink = |progress: Progress| said.lock().unwrap().push(progress.what);
    let waiting = Control::new(&sink, &GO_ON);
    let error = store.lock_within(waiting, Duration::from_millis(1)).unwrap_err();
    let me = format!("pid {} (", std::process::id());
    assert!(error.to_string().contains(&me), "{error}");
    assert!(said.lock().unwrap().iter().any(|what| what.contains(&me)));
    let stop = AtomicBool::new(true);
    let error = store.lock(Control::new(&sink, &stop)).unwrap_err();
    assert!(error.is_cancelled(), "{error}");
}

#[test]
fn files_are_shared_only_while_they_are_intact() {
    let (_dir, store) = store();
    let made = revision(&store, "a");
    let files = made.arch(Arch::HOST).unwrap();
    let both = [&files.kernel, &files.vmlinux];
    let shop = store.workshop().unwrap();
    assert!(store.share(&made, &both, shop.path()).unwrap());
    assert_eq!(fs::metadata(made.dir.join(KERNEL)).unwrap().nlink(), 2);
    tamper(&made.dir.join(KERNEL), "kernel b");
    let other = store.workshop().unwrap();
    assert!(!store.share(&made, &both, other.path()).unwrap());
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
}

#[test]
fn nothing_is_collected_while_somebody_is_about_to_link() {
    let (_dir, store) = store();
    let made = revision(&store, "a");
    let holds = [store.hold(control()).unwrap(), store.hold(control()).unwrap()];
    let stop = AtomicBool::new(false);
    let said = Mutex::new(Vec::new());
    let sink = |progress: Progress| {
        said.lock().unwrap().push(progress.what);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let error = store.gc(&[], Control::new(&sink, &stop)).unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert!(said.lock().unwrap()[0].contains("waiting for a build"));
    assert!(store.get(&made.digest).is_ok());
    drop(holds);
    assert_eq!(store.gc(&[], control()).unwrap().revisions, [made.digest]);
}
