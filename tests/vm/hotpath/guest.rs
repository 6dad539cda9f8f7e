//! The same with guests that have something to lose.

use std::fs::{self, File};

use nix::sys::signal::Signal;

use crate::common::world::spawn;
use crate::common::{Outcome, World};
use crate::fleet::{
    SOON, begin, end, ended_well, is_held, phases, settings, signal, slow, waiting, wake,
};

const POOL: &str = "qq/workers";

pub fn boot_a_guest(world: &World) -> Outcome {
    settings(world, r#"{"vmm": "qemu", "prespawn": {"qemu": true}}"#);
    world.ok(&["tenant", "create", "qq"]);
    let size = ["--cpus", "1", "--mem", "128", "--data-disk", "16"];
    world.ok(&[&["pool", "create", POOL, "--profile", "minimal"], &size[..]].concat());
    world.ok(&["pool", "build", POOL]);
    world.ok(&["pool", "scale", POOL, "--running", "1"]);
    let worker = &world.members(POOL)[0];
    world.ok(&["instance", "start", worker]);
    world.guest(worker, "echo memory >/run/kept; echo disk >/data/kept; sync");
    Outcome::Passed
}

fn kept(world: &World, instance: &str) -> String {
    world.guest(instance, "cat /run/kept /data/kept /proc/sys/kernel/random/boot_id")
}

pub fn a_guest_wakes_in_the_vmm_that_waits(world: &World) -> Outcome {
    let worker = &world.members(POOL)[0];
    let before = kept(world, worker);
    for generation in 1..=2 {
        world.ok(&["instance", "sleep", worker]);
        let (vmm, _) = waiting(world, worker).expect("a QEMU waits");
        let timed = wake(world, worker);
        assert_eq!((timed["pid"].as_i64(), slow(&timed).as_str()), (Some(vmm), ""));
        assert!(!phases(&timed).contains(&"spawn"), "{timed}");
        assert_eq!(kept(world, worker), before, "generation {generation}");
    }
    Outcome::Passed
}

/// Wherever its sleep is when somebody wants it awake: not paused yet, paused, its memory written.
pub fn a_guest_goes_on(world: &World) -> Outcome {
    let worker = &world.members(POOL)[0];
    let before = kept(world, worker);
    let vmm = world.instance(worker)["pid"].clone();
    let snapshots = world.instance_dir(worker).join("snapshots");
    for place in ["prepare-guest", "pause-vm", "save-memory"] {
        let mut command = world.command(&["instance", "sleep", worker]);
        command.env("MVM_FAILPOINT", format!("hold@mvm/after:{place}#1"));
        let sleep = spawn(command);
        let pid = i64::from(sleep.id());
        world.eventually("it is held there", SOON, || is_held(pid));
        let wake = begin(world, &["instance", "wake", worker]);
        world.eventually("it is wanted", SOON, || is_wanted(world, worker));
        signal(pid, Signal::SIGCONT);
        assert!(ended_well(wake).contains("running already"), "{place}");
        let sleep = end(sleep);
        let error = String::from_utf8_lossy(&sleep.stderr).into_owned();
        assert!(!sleep.status.success() && error.contains("awake meanwhile"), "{place}: {error}");
        let view = world.instance(worker);
        assert_eq!((&view["status"], &view["pid"]), (&"running".into(), &vmm), "{place}");
        assert_eq!(kept(world, worker), before, "{place}");
        assert_eq!(fs::read_dir(&snapshots).expect("snapshots").count(), 0, "{place}");
    }
    Outcome::Passed
}

/// Whether somebody says that an instance is to be awake: they hold a lock.
fn is_wanted(world: &World, instance: &str) -> bool {
    let said = File::open(world.instance_dir(instance).join(".wanted"));
    said.is_ok_and(|said| said.try_lock().is_err())
}
