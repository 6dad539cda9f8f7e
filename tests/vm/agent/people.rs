//! Several people at several terminals, at the same pool and the same instances at once: every
//! command is carried out whole, or refused with the name of who is at it; nothing deadlocks and
//! nothing is left half-done.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::daemon::{Agent, BOOT, SOON};
use crate::common::world::{spawn, told, wait};
use crate::common::{Outcome, World};

/// The pool they quarrel about.
const SHARED: &str = "aa/shared";

pub fn two_people_at_two_terminals(world: &World) -> Outcome {
    let members = prepare(world);
    quarrel(world, &members);
    settled(world);
    destroy_at_once(world);
    Outcome::Passed
}

pub fn two_people_and_an_agent(world: &World) -> Outcome {
    let members = prepare(world);
    let agent = Agent::start(world, &["--interval-secs", "1"]);
    quarrel(world, &members);
    settled(world);
    destroy_at_once(world);
    assert!(agent.end(Signal::SIGTERM));
    Outcome::Passed
}

/// A pool with two instances of which none runs; their paths.
fn prepare(world: &World) -> Vec<String> {
    world.ok(&["pool", "create", SHARED, "--profile", "minimal", "--mem", "128"]);
    world.ok(&["pool", "build", SHARED, "--yes"]);
    world.ok(&["pool", "scale", SHARED, "--running", "2"]);
    world.members(SHARED)
}

/// Three people, each with commands of their own, at once.
fn quarrel(world: &World, members: &[String]) {
    let (one, two) = (members[0].as_str(), members[1].as_str());
    let scale = |count| vec!["pool", "scale", SHARED, "--running", count];
    let people = [
        vec![
            vec!["instance", "start", one],
            vec!["pool", "update", SHARED, "--mem", "144"],
            vec!["instance", "stop", one],
            scale("2"),
        ],
        vec![
            scale("3"),
            vec!["instance", "start", two],
            vec!["instance", "destroy", one, "--force"],
            vec!["instance", "create", "aa/shared/carol"],
        ],
        vec![
            vec!["instance", "stop", two],
            scale("1"),
            vec!["pool", "update", SHARED, "--mem", "160"],
            vec!["instance", "start", one],
            vec!["instance", "stop", two],
        ],
    ];
    std::thread::scope(|scope| {
        for commands in people {
            scope.spawn(move || {
                for args in commands {
                    answered(&world.run(&args), &args);
                }
            });
        }
    });
}

/// A command was carried out, or refused with the reason: the object is gone (3), is in no state
/// for it (4), or somebody is at it (5), who is named.
fn answered(output: &Output, args: &[&str]) {
    let said = told(output);
    match output.status.code() {
        Some(0 | 3 | 4) => {}
        Some(5) => assert!(said.contains("(pid ") && said.contains("is at it"), "{args:?}\n{said}"),
        _ => panic!("mvm {}\n{said}", args.join(" ")),
    }
}

fn rows(world: &World) -> Vec<Value> {
    let list = world.json(&["instance", "list", "--tenant", "aa"]);
    list.as_array().cloned().unwrap_or_default()
}

/// Nothing is half-done, nobody has another's address, and what is asked for comes about.
fn settled(world: &World) {
    world.eventually("nothing is on its way", BOOT, || {
        rows(world).iter().all(|row| row["transition"].is_null())
    });
    world.ok(&["agent", "reconcile"]);
    let (all, mut addresses) = (rows(world), BTreeSet::new());
    for row in &all {
        assert!(addresses.insert(row["guest_ip"].to_string()), "{all:?}");
    }
    let pool = world.json(&["pool", "info", SHARED]);
    let running = |row: &&Value| {
        row["pool_id"] == "shared" && row["name"].is_null() && row["status"] == "running"
    };
    let up = all.iter().filter(running).count();
    assert_eq!(pool["desired_counts"]["running"].as_u64(), Some(up as u64), "{all:?}");
    assert!([144, 160].contains(&pool["instance_resources"]["mem_mib"].as_u64().unwrap_or(0)));
    assert!(world.ok(&["events", "aa", "--verify"]).contains("none changed"));
    assert!(world.ok(&["net", "verify"]).contains("clean"));
}

/// Two people destroy a pool while a third works in it: it is gone, with all that was in it.
fn destroy_at_once(world: &World) {
    let last = world.members(SHARED).pop().expect("an instance");
    let start = ["instance", "start", last.as_str()];
    let destroy = ["pool", "destroy", SHARED, "--force"];
    std::thread::scope(|scope| {
        for args in [&start[..], &destroy, &destroy] {
            scope.spawn(move || answered(&world.run(args), args));
        }
    });
    if world.run(&["pool", "info", SHARED]).status.success() {
        // Somebody was at an instance of it for longer than either waited.
        world.ok(&destroy);
    }
    world.refused(&["pool", "info", SHARED], 3);
    assert!(rows(world).iter().all(|row| row["pool_id"] != "shared"));
}

/// Somebody stops in the middle of a change, of an instance and of the records: who comes next is
/// told who that is and what to do, and it can be gone on with.
pub fn who_is_at_it_is_named(world: &World) -> Outcome {
    let member = world.members("aa/workers").remove(0);
    let args = ["instance", "stop", member.as_str()];
    let mut stop = world.command(&args);
    stop.env("MVM_FAILPOINT", "hold@mvm/before:power-off#1");
    let first = spawn(stop);
    let (pid, name) = (Pid::from_raw(first.id() as i32), format!("(pid {})", first.id()));
    let stat = format!("/proc/{pid}/status");
    let holds = || fs::read_to_string(&stat).is_ok_and(|text| text.contains("State:\tT"));
    world.eventually("it is at the instance", SOON, holds);
    let records = fs::File::options().write(true).open(world.path("state/.lock"));
    let records = records.expect("the records' lock");
    fs::write(world.path("state/.lock"), "mvm pool scale (pid 1)").expect("written");
    records.lock().expect("locked");
    let start = ["instance", "start", member.as_str()];
    let scale = ["pool", "scale", "aa/workers", "--running", "2"];
    let commands = [
        (&start[..], format!("mvm instance stop by uid 0 {name}")),
        (&scale, "mvm pool scale (pid 1)".to_owned()),
        (&["instance", "destroy", &member, "--force"], format!("by uid 0 {name}")),
    ];
    std::thread::scope(|scope| {
        scope.spawn(|| waits_for(world, &member));
        for (args, holder) in &commands {
            scope.spawn(move || {
                let error = world.refused(args, 5);
                assert!(error.contains(holder), "{holder} is not named: {error}");
                assert!(error.contains("hint:"), "{error}");
            });
        }
    });
    drop(records);
    kill(pid, Signal::SIGCONT).expect("it takes a signal");
    assert!(wait(first, &args).status.success());
    assert_eq!(world.status(&member), "stopped");
    world.ok(&scale);
    world.ok(&start);
    Outcome::Passed
}

/// A reconcile waits for who is at an instance as long as it may, says so, and then what is missing.
fn waits_for(world: &World, member: &str) {
    let error = world.refused(&["agent", "reconcile", "--timeout", "6"], 5);
    assert!(error.contains(&format!("wait for who is at {member}")), "{error}");
    assert!(error.contains("not all of it can be so now: busy: stopping"), "{error}");
}
