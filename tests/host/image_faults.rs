//! Faults: a full disk, a kill, a cancel, no network. What was there before is there after.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mvm_host::image::{ImageError, Store};
use mvm_host::packages::PackageError;
use mvm_model::image::{Profile, Role};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::skip::skip;
use crate::world::{self, World, apart};

/// Names the cache directory in which a builder that is to be killed works.
const CHILD: &str = "MVM_IMAGE_TEST_BUILD_IN";

/// Everything below `tmp/` of a store.
fn unfinished(cache: &Path) -> Vec<PathBuf> {
    fs::read_dir(cache.join("tmp")).unwrap().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn a_full_disk_at_any_step_leaves_the_earlier_image_intact() {
    let name = "a_full_disk_at_any_step";
    if !nix::unistd::geteuid().is_root() {
        return skip(name, "mounting needs root");
    }
    let Some(world) = World::enter(name) else { return };
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let size = Some("size=420m");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), size).unwrap();
        world.stock(dir.path());
        let store = Store::open(dir.path()).unwrap();
        nothing_half_built(&world, &store, dir.path());
        nothing_lost(&world, &store, dir.path());
        umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
    });
}

/// In an empty store each step of a build fails in its turn: unpacking, kernel, initrd, root.
fn nothing_half_built(world: &World, store: &Store, cache: &Path) {
    for free_mib in [1, 94, 115, 160] {
        fill(&cache.join("ballast"), free_mib);
        let error = world.build(store, Profile::Minimal, Role::Worker).unwrap_err();
        assert!(full(&error), "{free_mib} MiB free: {error:?}");
        assert!(error.hint().is_some());
        assert_eq!(unfinished(cache), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(cache.join("revisions")).unwrap().count(), 0);
    }
    fs::remove_file(cache.join("ballast")).unwrap();
}

/// A build that fails beside an earlier image leaves that image and its index entry alone.
fn nothing_lost(world: &World, store: &Store, cache: &Path) {
    let earlier = world.build(store, Profile::Minimal, Role::Worker).unwrap();
    let (other, _file) = world.with_other_guest();
    fill(&cache.join("ballast"), 94);
    let error = other.build(store, Profile::Minimal, Role::Worker).unwrap_err();
    assert!(full(&error), "{error:?}");
    store.verify(&earlier.digest, world.control()).unwrap();
    let again = world.build(store, Profile::Minimal, Role::Worker).unwrap();
    assert_eq!(again.digest, earlier.digest);
}

fn full(error: &ImageError) -> bool {
    matches!(error, ImageError::NoSpace { .. } | ImageError::Package(PackageError::NoSpace { .. }))
}

/// Leaves about this much room on the file system of `ballast`.
fn fill(ballast: &Path, free_mib: u64) {
    let _ = fs::remove_file(ballast);
    let file = fs::File::create(ballast).unwrap();
    let stat = nix::sys::statvfs::statvfs(ballast).unwrap();
    let free = stat.blocks_available() * stat.fragment_size();
    let size = i64::try_from(free.saturating_sub(free_mib << 20)).unwrap();
    nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, size).unwrap();
}

#[test]
fn a_builder_killed_at_any_step_costs_only_its_own_work() {
    // The process that is killed is this test, started again.
    if let Some(cache) = std::env::var_os(CHILD) {
        world::build_aloud(&Store::open(Path::new(&cache)).unwrap()).unwrap();
        return;
    }
    let Some(world) = World::enter("a_builder_killed_at_any_step") else { return };
    let here = world.built();
    let earlier = world.build(&here.store, Profile::Minimal, Role::Gateway).unwrap();
    let (other, agent) = world.with_other_guest();
    for step in ["unpacking", "extracting the kernel", "root file system", "sealing"] {
        kill_at(here.path(), agent.path(), step);
        here.store.verify(&earlier.digest, world.control()).unwrap();
    }
    assert!(!unfinished(here.path()).is_empty(), "no builder was killed half way");
    let made = other.build(&here.store, Profile::Minimal, Role::Worker).unwrap();
    here.store.verify(&made.digest, world.control()).unwrap();
    assert_eq!(unfinished(here.path()), Vec::<PathBuf>::new());
}

/// Starts a builder in a process of its own and kills it when it comes to `step`.
fn kill_at(cache: &Path, agent: &Path, step: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "faults::a_builder_killed_at_any_step_costs_only_its_own_work",
        "--nocapture",
    ]);
    command.env(CHILD, cache).env("MVM_GUEST", agent).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let came = lines.map_while(Result::ok).any(|line| line.contains(step));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(came, "the builder never came to {step:?}");
}

#[test]
fn a_cancelled_build_stops_at_once_and_leaves_nothing() {
    let Some(world) = World::enter("a_cancelled_build_stops_at_once") else { return };
    let here = world.store();
    for step in ["unpacking", "extracting the kernel", "writing the initrd", "root file system"] {
        let error = world.build_until(&here.store, step).unwrap_err();
        assert!(error.is_cancelled(), "at {step}: {error}");
        assert_eq!(unfinished(here.path()), Vec::<PathBuf>::new());
    }
    assert!(here.store.list().unwrap().is_empty());
}

#[test]
fn without_network_and_packages_the_reason_is_said() {
    let name = "without_network_and_packages";
    if !nix::unistd::geteuid().is_root() {
        return skip(name, "a network namespace needs root");
    }
    let Some(world) = World::enter(name) else { return };
    let here = world.store();
    let debs = here.path().join("packages/debs");
    fs::remove_dir_all(&debs).unwrap();
    let error = apart(|| {
        world::without_network();
        world.build(&here.store, Profile::Minimal, Role::Worker).unwrap_err()
    });
    assert!(matches!(&error, ImageError::Package(PackageError::NoNetwork { .. })), "{error:?}");
    assert!(error.hint().unwrap().contains("network"));
}

#[test]
fn a_tampered_package_is_refused_and_fetched_anew() {
    let Some(world) = World::enter("a_tampered_package_is_refused") else { return };
    let here = world.store();
    let debs = here.path().join("packages/debs");
    let entries = fs::read_dir(&debs).unwrap().flatten();
    let busybox = entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("busybox"));
    let busybox = busybox.unwrap();
    world::flip_byte(&busybox, 1000);
    let error = world.build(&here.store, Profile::Minimal, Role::Worker).unwrap_err();
    assert!(error.to_string().contains("has not the digest"), "{error}");
    assert!(!busybox.exists(), "the wrong file stays");
    assert_eq!(unfinished(here.path()), Vec::<PathBuf>::new());
}
