use std::os::unix::fs::symlink;

use super::*;
use crate::spec::{Drive, example};
use crate::testing::skipped_without_root;

fn jailed(dir: &Path) -> (VmSpec, PathBuf) {
    let mut spec = example();
    let file = |name: &str, mode| {
        let path = dir.join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    (spec.kernel, spec.initrd) = (file("vmlinux", 0o444), file("initrd", 0o444));
    let drive = |path, access| Drive { path, access };
    spec.drives = vec![
        drive(file("rootfs", 0o444), Access::ReadOnly),
        drive(file("data.img", 0o600), Access::ReadWrite),
        drive(file("secrets.img", 0o600), Access::ReadOnly),
        drive(file("config.img", 0o600), Access::ReadOnly),
    ];
    (spec, dir.join("jails"))
}

#[test]
fn a_jail_shows_the_vm_its_own_files_and_each_start_has_another() {
    if skipped_without_root("a_jail_shows_the_vm_its_own_files_and_each_start_has_another") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (spec, base) = jailed(dir.path());
    let (jail, binds) = Jail::prepare(&base, &spec).unwrap();
    assert!(binds.is_empty());
    let same = |one: &Path, name: &str| {
        let (one, other) = (fs::metadata(one).unwrap(), fs::metadata(jail.root().join(name)));
        one.ino() == other.unwrap().ino()
    };
    assert!(same(&spec.kernel, "kernel") && same(&spec.initrd, "initrd"));
    for (drive, name) in spec.drives.iter().zip(config::DRIVES) {
        assert!(same(&drive.path, &format!("drives/{name}")), "{name}");
    }
    let owner = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o777)
    };
    assert_eq!(owner(&spec.drives[0].path), (0, 0, 0o444));
    assert_eq!(owner(&spec.drives[1].path), (spec.uid, spec.gid, 0o600));
    assert_eq!(owner(&spec.drives[2].path), (0, spec.gid, 0o640));
    let (other, _) = Jail::prepare(&base, &spec).unwrap();
    assert_ne!(other.id, jail.id);
    remove_jails(&base, spec.instance).unwrap();
    assert!(!jail.root().exists() && !other.root().exists());
    assert!(spec.drives.iter().all(|drive| drive.path.exists()));
}

#[test]
fn another_instances_jail_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("firecracker/i-0000beef0-1");
    fs::create_dir_all(&other).unwrap();
    remove_jails(dir.path(), InstanceId::from_bits(0xbeef)).unwrap();
    assert!(other.exists());
}

#[test]
fn a_link_a_vm_laid_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let jail = Jail { id: "j".into(), base: dir.path().to_owned() };
    fs::create_dir_all(jail.root()).unwrap();
    fs::write(dir.path().join("pid"), "1\n").unwrap();
    symlink(dir.path().join("pid"), jail.root().join("firecracker.pid")).unwrap();
    assert!(jail.pid().is_err());
    mkfifo(&dir.path().join("fifo"), Mode::S_IRUSR).unwrap();
    symlink(dir.path().join("fifo"), jail.log_path()).unwrap();
    assert!(read_log(&jail.root()).is_err());
    fs::remove_file(jail.log_path()).unwrap();
    fs::write(jail.log_path(), "").unwrap();
    assert!(read_log(&jail.root()).is_err(), "a file is no fifo");
}

#[test]
fn a_snapshot_needs_empty_files_and_all_the_room_it_will_take() {
    if skipped_without_root("a_snapshot_needs_empty_files_and_all_the_room_it_will_take") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, store) = (dir.path().join("root"), dir.path().join("store"));
    fs::create_dir_all(root.join("snapshot")).unwrap();
    fs::create_dir(&store).unwrap();
    let files = SnapshotFiles::in_dir(&store);
    let shown = Shown::for_writing(&root, &files, (7, 7), 1 << 20).unwrap();
    assert_eq!(fs::metadata(root.join("snapshot/memory")).unwrap().len(), 1 << 20);
    assert!(fs::metadata(&files.memory).unwrap().blocks() * 512 >= 1 << 20);
    assert!(is_being_saved(&root, 7));
    shown.hide().unwrap();
    assert!(!is_being_saved(&root, 7));
    assert!(!root.join("snapshot/memory").exists() && files.memory.exists());
    take_back(&files, 7).unwrap();
    let meta = fs::metadata(&files.memory).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (0, 7, 0o440));
    let again = Shown::for_writing(&root, &files, (7, 7), 1 << 20);
    assert!(again.is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists));
}

#[test]
fn half_a_snapshot_is_forgotten_and_a_loaded_one_stays() {
    if skipped_without_root("half_a_snapshot_is_forgotten_and_a_loaded_one_stays") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, store) = (dir.path().join("root"), dir.path().join("store"));
    fs::create_dir_all(root.join("snapshot")).unwrap();
    fs::create_dir(&store).unwrap();
    let files = SnapshotFiles::in_dir(&store);
    // Its writer dies here.
    drop(Shown::for_writing(&root, &files, (7, 7), 4096).unwrap());
    assert!(is_being_saved(&root, 7) && !is_being_saved(&root, 8));
    forget_saved(&root, 7).unwrap();
    assert!(!root.join("snapshot/memory").exists() && !root.join("snapshot/devices").exists());
    take_back(&files, 7).unwrap();
    drop(Shown::for_reading(&root, &files).unwrap());
    assert!(!is_being_saved(&root, 7));
    forget_saved(&root, 7).unwrap();
    assert!(root.join("snapshot/memory").exists());
}
