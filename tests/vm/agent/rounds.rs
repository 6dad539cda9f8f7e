//! The loop: what it brings about, what it leaves alone, what is true without it.

use std::fs;

use nix::sys::signal::Signal;

use super::daemon::{Agent, BOOT, POOL, SOON, count};
use crate::common::world::{spawn, told, wait};
use crate::common::{Outcome, World};

/// D§4: `scale` starts nothing; an agent that runs does, at once and not at its next round.
pub fn boot_what_scale_asks_for(world: &World) -> Outcome {
    world.ok(&["tenant", "create", "aa"]);
    world.ok(&["pool", "create", POOL, "--profile", "minimal", "--mem", "128"]);
    world.ok(&["pool", "build", POOL, "--yes"]);
    world.ok(&["pool", "scale", POOL, "--running", "1"]);
    assert_eq!(count(world, "created"), 1, "scale started something");
    let agent = Agent::start(world, &["--interval-secs", "3600"]);
    world.eventually("the first round starts it", BOOT, || count(world, "running") == 1);
    world.ok(&["pool", "scale", POOL, "--running", "2"]);
    world.eventually("scale wakes the loop", BOOT, || count(world, "running") == 2);
    assert!(agent.end(Signal::SIGTERM), "it does not end well");
    world.refused(&["agent", "status"], 5);
    assert_eq!(count(world, "running"), 2, "its end stopped something");
    Outcome::Passed
}

pub fn what_a_person_stopped_stays_so(world: &World) -> Outcome {
    let _agent = Agent::start(world, &["--interval-secs", "1"]);
    let instance = world.members(POOL)[0].clone();
    world.ok(&["instance", "stop", &instance]);
    let rounds = || world.json(&["agent", "status"])["last_round"].as_u64();
    let before = rounds();
    world.eventually("two more rounds", SOON, || rounds() > before.map(|at| at + 1500));
    assert_eq!(world.status(&instance), "stopped");
    world.eventually("the loop says that it is left so", SOON, || {
        let notes = world.json(&["agent", "status"])["last_report"]["notes"].to_string();
        notes.contains("left as a person put it")
    });
    // A person's own reconcile does not wait.
    world.ok(&["agent", "reconcile"]);
    assert_eq!(world.status(&instance), "running");
    Outcome::Passed
}

/// What a plan takes down waits for what people have open in it, but not for ever.
pub fn what_people_have_open_drains(world: &World) -> Outcome {
    let members = world.members(POOL);
    let open = |instance: &str, seconds: &str| {
        spawn(world.command(&["instance", "exec", instance, "--", "sleep", seconds]))
    };
    let visited = |instance: &str| {
        let id = instance.rsplit('/').next().expect("an id");
        let mark = fs::File::open(world.path("run/vm").join(id).join("opened"));
        mark.is_ok_and(|mark| mark.try_lock().is_err())
    };
    let visits: Vec<_> = members.iter().map(|one| open(one, "4")).collect();
    world.eventually("both are visited", SOON, || members.iter().all(|one| visited(one)));
    world.ok(&["pool", "scale", POOL, "--running", "1"]);
    world.ok(&["agent", "reconcile"]);
    assert_eq!(count(world, "running"), 1);
    for visit in visits {
        let output = wait(visit, &["instance", "exec"]);
        assert!(output.status.success(), "{}", told(&output));
    }
    let last = members.iter().find(|one| world.status(one) == "running").expect("one is left");
    world.ok(&["pool", "update", POOL, "--drain-timeout", "1"]);
    let visit = open(last, "100");
    world.eventually("it is visited", SOON, || visited(last));
    world.ok(&["pool", "scale", POOL, "--running", "0"]);
    world.ok(&["agent", "reconcile"]);
    assert_eq!(count(world, "running"), 0);
    assert!(!wait(visit, &["instance", "exec"]).status.success());
    world.ok(&["pool", "scale", POOL, "--running", "2"]);
    world.ok(&["agent", "reconcile"]);
    Outcome::Passed
}

pub fn a_file_is_applied_when_it_changes(world: &World) -> Outcome {
    let file = world.path("desired.json");
    let name = file.to_str().expect("a path");
    world.ok(&["agent", "desired", "--file", name]);
    let whole = fs::read_to_string(&file).expect("it is written");
    let _agent = Agent::start(world, &["--interval-secs", "3600", "--desired", name]);
    fs::write(&file, whole.replace("\"running\": 2", "\"running\": 1")).expect("written");
    world.eventually("one is stopped", SOON, || count(world, "running") == 1);
    // Half a file means nothing; above all not "delete everything".
    fs::write(&file, &whole[..whole.len() / 2]).expect("written");
    let problem = || world.json(&["agent", "status"])["problem"].to_string();
    world.eventually("it says what is wrong", SOON, || problem().contains("ends in the middle"));
    assert_eq!(count(world, "running"), 1);
    fs::write(&file, &whole).expect("written");
    world.eventually("the whole file is applied", BOOT, || count(world, "running") == 2);
    world.eventually("the problem is over", SOON, || problem() == "null");
    Outcome::Passed
}

pub fn killed_it_leaves_everything_running(world: &World) -> Outcome {
    let agent = Agent::start(world, &[]);
    let members = world.members(POOL);
    let pids = || members.iter().map(|one| world.instance(one)["pid"].clone()).collect::<Vec<_>>();
    let before = pids();
    assert!(before.iter().all(serde_json::Value::is_u64), "{before:?}");
    assert!(!agent.end(Signal::SIGKILL));
    // Its socket is still there and nobody listens: commands do the work themselves.
    assert_eq!(pids(), before);
    let name = format!("{}.workers.aa.mvm", members[1].rsplit('/').next().expect("an id"));
    let found = world.guest(&members[0], &format!("nslookup {name} | tail -n 3"));
    assert!(found.contains("10.240."), "the resolver went with it: {found}");
    let agent = Agent::start(world, &["--interval-secs", "3600"]);
    world.eventually("its first round", SOON, || {
        world.json(&["agent", "status"])["last_round"].is_u64()
    });
    assert_eq!(pids(), before, "a new agent started something anew");
    assert!(agent.end(Signal::SIGINT));
    Outcome::Passed
}
