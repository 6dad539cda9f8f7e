//! The same with guests that have something to lose.

use std::time::Duration;

use crate::common::{Outcome, World};
use crate::fleet::{begin, end, falls_asleep, phases, settings, slow, waiting, wake};

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

pub fn a_guest_goes_on(world: &World) -> Outcome {
    let worker = &world.members(POOL)[0];
    let before = kept(world, worker);
    let mut called_off = 0;
    for delay in [0, 60, 150] {
        let sleep = begin(world, &["instance", "sleep", worker]);
        falls_asleep(world, worker);
        std::thread::sleep(Duration::from_millis(delay));
        // Called off, or done and woken from: the request is never lost.
        world.ok(&["instance", "wake", worker]);
        called_off += usize::from(!end(sleep).status.success());
        assert_eq!(world.status(worker), "running");
        assert_eq!(kept(world, worker), before);
    }
    println!("{called_off} of 3 were called off");
    Outcome::Passed
}
