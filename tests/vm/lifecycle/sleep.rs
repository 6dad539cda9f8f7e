//! Warm and asleep: nothing a guest had is lost.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::common::world::told;
use crate::common::{Outcome, World};
use crate::setup::{STRANGERS, WORKERS};

fn host_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64()
}

/// The guest's clock minus the host's, seconds, at worst.
fn clock_error(world: &World, instance: &str) -> f64 {
    let before = host_seconds();
    let there: f64 =
        world.guest(instance, "cat /proc/uptime >/dev/null; date +%s").parse().expect("seconds");
    let after = host_seconds();
    // `date` cuts the fraction off: the guest is somewhere in [there, there + 1).
    if there + 1.0 < before {
        there + 1.0 - before
    } else if there > after {
        there - after
    } else {
        0.0
    }
}

pub fn a_warm_instance_goes_on_where_it_was(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    let boot = world.guest(worker, "cat /proc/sys/kernel/random/boot_id");
    world.ok(&["instance", "warm", worker]);
    assert_eq!(world.status(worker), "warm");
    assert!(world.ok(&["instance", "warm", worker]).contains("already"));
    world.refused(&["instance", "exec", worker, "--", "true"], 4);
    world.ok(&["instance", "wake", worker]);
    assert_eq!(world.guest(worker, "cat /proc/sys/kernel/random/boot_id"), boot);
    assert!(clock_error(world, worker).abs() <= 1.0);
    assert!(world.ok(&["instance", "wake", worker]).contains("already"));
    Outcome::Passed
}

pub fn three_generations_keep_everything(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    let dir = world.instance_dir(worker);
    let before = world.instance(worker);
    let counter = "i=0; while :; do i=$((i+1)); echo $i > /dev/shm/counter.new; mv /dev/shm/counter.new /dev/shm/counter; usleep 50000; done";
    world.guest(worker, &format!("({counter}) >/dev/null 2>&1 </dev/null &"));
    for generation in 1..=3 {
        world.guest(worker, &format!("echo memory-{generation} > /dev/shm/mark; echo data-{generation} > /data/mark; sync"));
        world.ok(&["instance", "sleep", worker]);
        let asleep = world.instance(worker);
        assert_eq!((asleep["status"].as_str(), asleep["pid"].as_u64()), (Some("sleeping"), None));
        assert_eq!(fs::read_dir(dir.join("snapshots")).expect("snapshots").count(), 1);
        world.refused(&["instance", "exec", worker, "--", "true"], 4);
        world.ok(&["instance", "wake", worker]);
        let awake = world.instance(worker);
        assert!(awake["reason"].is_null(), "generation {generation}: {}", awake["reason"]);
        for kept in ["guest_ip", "mac", "tap_dev", "revision"] {
            assert_eq!(awake[kept], before[kept], "{kept} changed");
        }
        assert_eq!(world.guest(worker, "cat /dev/shm/mark"), format!("memory-{generation}"));
        assert_eq!(world.guest(worker, "cat /data/mark"), format!("data-{generation}"));
        let error = clock_error(world, worker);
        assert!(error.abs() <= 1.0, "the clock is {error} s off");
        let count: u64 = world.guest(worker, "cat /dev/shm/counter").parse().expect("a number");
        assert!(world.guest_can(
            worker,
            &format!("until [ $(cat /dev/shm/counter) -gt {count} ]; do usleep 20000; done")
        ));
    }
    Outcome::Passed
}

/// What was on its way when one of the two fell asleep is said again.
pub fn a_conversation_outlives_a_sleep(world: &World) -> Outcome {
    let workers = world.members(WORKERS);
    let (hears, speaks) = (&workers[0], &workers[1]);
    let address = world.instance(hears)["guest_ip"].as_str().expect("an address").to_owned();
    let aside = |command: &str| format!("({command}) >/dev/null 2>&1 </dev/null &");
    // It hears as long as it could still say something.
    world.guest(hears, &aside("tail -f /dev/null | nc -l -p 7007 >/dev/shm/heard"));
    let counts =
        format!("i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done | nc {address} 7007");
    // 7007, as the kernel writes it.
    let port_is_open =
        "timeout 20 sh -c 'until cat /proc/net/tcp* | grep -q :1B5F; do usleep 20000; done'";
    world.guest(hears, port_is_open);
    world.guest(speaks, &aside(&counts));
    let more_than = |count: u64| {
        format!(
            "timeout 60 sh -c 'until [ $(wc -l </dev/shm/heard) -gt {count} ]; do usleep 20000; done'"
        )
    };
    assert!(world.guest_can(hears, &more_than(20)), "nothing is said");
    for sleeper in [hears, speaks] {
        world.ok(&["instance", "sleep", sleeper]);
        world.ok(&["instance", "wake", sleeper]);
        let before = world.guest(hears, "wc -l </dev/shm/heard").parse().expect("a number");
        let goes_on = world.guest_can(hears, &more_than(before));
        assert!(goes_on, "{sleeper} slept, and nothing was said any more");
    }
    let complete = "n=$(wc -l </dev/shm/heard); head -n $n /dev/shm/heard >/dev/shm/all; seq $n | cmp - /dev/shm/all";
    assert!(world.guest_can(hears, complete), "something was lost");
    world.guest(hears, "kill $(pidof nc) $(pidof tail)");
    Outcome::Passed
}

pub fn secrets_changed_in_sleep_are_there_after_it(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    let put = |value: &[u8]| {
        let output = world.run_with_input(&["tenant", "secrets", "set", "aa", "token"], value);
        assert!(output.status.success(), "{}", told(&output));
    };
    world.ok(&["instance", "sleep", worker]);
    put(b"first-secret");
    world.ok(&["instance", "wake", worker]);
    assert_eq!(world.guest(worker, "cat /run/secrets/token"), "first-secret");
    world.ok(&["instance", "sleep", worker]);
    put(b"second-secret");
    world.ok(&["instance", "wake", worker]);
    assert_eq!(world.guest(worker, "cat /run/secrets/token"), "second-secret");
    assert!(
        !world.guest_can(worker, "grep -q first-secret /dev/vdc"),
        "the old image is still there"
    );
    assert!(!world.guest_can(worker, "touch /run/secrets/mine"), "secrets are writable");
    Outcome::Passed
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

pub fn one_snapshot_twice_gives_other_randomness(world: &World) -> Outcome {
    // Without a data drive, so that below the product's interface a snapshot can be put back.
    let instance = &world.members(STRANGERS)[0];
    let dir = world.instance_dir(instance);
    world.ok(&["instance", "sleep", instance]);
    let generation = fs::read_dir(dir.join("snapshots"))
        .expect("snapshots")
        .flatten()
        .next()
        .expect("one")
        .path();
    let (kept, record) = (world.path("kept-snapshot"), world.path("kept-record"));
    copy_tree(&generation, &kept);
    fs::copy(dir.join("instance.json"), &record).expect("a copy");
    let mut drawn = Vec::new();
    for _ in 0..2 {
        world.ok(&["instance", "wake", instance]);
        assert!(world.instance(instance)["reason"].is_null(), "it was booted, not resumed");
        drawn.push(world.guest(instance, "head -c 16 /dev/urandom | od -An -tx1"));
        world.ok(&["instance", "stop", instance]);
        copy_tree(&kept, &generation);
        fs::copy(&record, dir.join("instance.json")).expect("a copy");
    }
    assert_ne!(drawn[0], drawn[1], "both guests drew the same randomness");
    world.ok(&["instance", "stop", instance]);
    world.ok(&["instance", "start", instance]);
    Outcome::Passed
}
