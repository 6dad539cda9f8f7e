//! VMMs that wait for a wake.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::common::{Outcome, World};
use crate::fleet::{
    POOL, SOON, begin, lives, phases, processes_of, settings, signal, slow, struck, usual, waiting,
    wake, with_fault,
};

/// What a slow wake says, and what is done to VMM and supervisor before it.
type Doubt<'a> = (&'a str, &'a dyn Fn(i64, i64));
/// A moment of a sleep, and whether it is now.
type Moment<'a> = (&'a str, &'a dyn Fn() -> bool);

/// Sleeps an instance, for which a VMM then waits.
fn sleep(world: &World, instance: &str) -> (i64, i64) {
    world.ok(&["instance", "sleep", instance]);
    waiting(world, instance).expect("a VMM waits")
}

/// How often it woke, and how often of these slowly.
fn counted(world: &World, instance: &str) -> (i64, i64) {
    let stats = world.instance(instance);
    let count = |name: &str| stats[name].as_i64().expect("a count");
    (count("wakes"), count("slow_wakes"))
}

pub fn a_wake_takes_the_vmm_that_waits(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    let (vmm, supervisor) = sleep(world, worker);
    let view = world.instance(worker);
    assert_eq!((view["status"].as_str(), view["pid"].as_i64()), (Some("sleeping"), None));
    // Whoever looks at it changes nothing: reads, a reconcile that settles, a second sleep.
    world.ok(&["instance", "sleep", worker]);
    world.ok(&["instance", "list"]);
    assert_eq!(waiting(world, worker), Some((vmm, supervisor)));
    let timed = wake(world, worker);
    assert_eq!(timed["pid"].as_i64(), Some(vmm));
    assert_eq!(slow(&timed), "");
    let phases = phases(&timed);
    assert!(phases.contains(&"load") && !phases.contains(&"spawn"), "{phases:?}");
    assert_eq!(counted(world, worker), (1, 0));
    assert_eq!(world.instance(worker)["vmm_waits"], false);
    assert_eq!(processes_of(world, worker), 1);
    Outcome::Passed
}

pub fn a_doubtful_one_costs_only_time(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    let config = world.instance_dir(worker).join("config.img");
    let before = counted(world, worker);
    let doubts: [Doubt<'_>; 4] = [
        ("no VMM waited", &|vmm, _| signal(vmm, Signal::SIGKILL)),
        ("no VMM waited", &|_, supervisor| signal(supervisor, Signal::SIGKILL)),
        ("did not answer", &|vmm, _| signal(vmm, Signal::SIGSTOP)),
        ("with something else", &|_, _| {
            let image = fs::read(&config).expect("the image");
            fs::remove_file(&config).expect("unlinked");
            fs::write(&config, image).expect("another file");
        }),
    ];
    for (why, doubt) in doubts {
        let (vmm, supervisor) = sleep(world, worker);
        doubt(vmm, supervisor);
        if why == "no VMM waited" {
            world.eventually("one is gone", SOON, || !lives(vmm) || !lives(supervisor));
        }
        let timed = wake(world, worker);
        assert_eq!(timed["status"], "running");
        assert!(slow(&timed).contains(why), "{why}: {timed}");
        assert_ne!(timed["pid"].as_i64(), Some(vmm), "{why}");
        assert!(!lives(vmm) && !lives(supervisor), "{why}");
        assert_eq!(processes_of(world, worker), 1, "{why}");
        assert!(timed["reason"].is_null(), "{why}: it was booted instead: {timed}");
    }
    // One that fails at what it is for.
    let (vmm, _) = sleep(world, worker);
    let timed = crate::fleet::with_fault("PUT /snapshot/load", "refuse no", || {
        let wake = begin(world, &["instance", "wake", worker, "--timings", "--json"]);
        world.eventually("the first attempt is over", SOON, || !lives(vmm));
        wake
    });
    let text = crate::fleet::ended_well(timed);
    assert!(text.contains("could not be used"), "{text}");
    assert_eq!(world.status(worker), "running");
    assert_eq!(counted(world, worker), (before.0 + 5, before.1 + 5));
    Outcome::Passed
}

/// The VMM that was started last for an instance.
fn last_started(world: &World, instance: &str) -> i64 {
    let id = world.instance(instance)["instance_id"].as_str().expect("an id").to_owned();
    let record = fs::read(world.path("run/vm").join(id).join("vmm.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    record["process"]["pid"].as_i64().expect("a pid")
}

/// As a host does that lacks memory.
pub fn a_vmm_killed_at_its_load_costs_no_snapshot(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    sleep(world, worker);
    let output = with_fault("PUT /snapshot/load", "hang", || {
        let before = struck();
        let wake = begin(world, &["instance", "wake", worker]);
        // The one that waited, and three tries.
        for load in 1..=4 {
            world.eventually("it loads", SOON, || struck() == before + load);
            signal(last_started(world, worker), Signal::SIGKILL);
        }
        crate::fleet::end(wake)
    });
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("the VMM left while it loaded the memory file"), "{text}");
    assert!(text.contains("its memory is kept"), "{text}");
    assert_eq!(world.status(worker), "sleeping");
    let timed = wake(world, worker);
    assert_eq!(timed["status"], "running");
    assert!(timed["reason"].is_null(), "it was booted instead: {timed}");
    Outcome::Passed
}

/// It met something in the file: each of them would.
pub fn a_snapshot_no_vmm_survives_is_given_up(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    sleep(world, worker);
    let timed = with_fault("PUT /snapshot/load", "die", || wake(world, worker));
    assert_eq!(timed["status"], "running");
    let reason = timed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("booted from its drives"), "{timed}");
    Outcome::Passed
}

pub fn new_secrets_are_never_woken_past(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    let before = sleep(world, worker);
    world.run_with_input(&["tenant", "secrets", "set", "fa", "TOKEN"], b"first");
    let after = waiting(world, worker).expect("another waits");
    assert_ne!(before, after);
    assert!(!lives(before.0) && !lives(before.1));
    let timed = wake(world, worker);
    assert_eq!((timed["pid"].as_i64(), slow(&timed).as_str()), (Some(after.0), ""));
    Outcome::Passed
}

pub fn nothing_waits_beyond_the_budget(world: &World) -> Outcome {
    crate::fakes!();
    let members = world.members(POOL);
    let with = |prespawn: &str| {
        let text = format!(r#"{{"vmm": "firecracker", "limits": "none", "prespawn": {prespawn}}}"#);
        settings(world, &text);
    };
    with(r#"{"most": 1}"#);
    for worker in &members[..2] {
        world.ok(&["instance", "sleep", worker]);
    }
    let waits = |worker: &String| waiting(world, worker).is_some();
    assert_eq!(members.iter().filter(|one| waits(one)).count(), 1);
    for (worker, why) in [(&members[1], "no VMM waited for it"), (&members[0], "")] {
        assert_eq!(slow(&wake(world, worker)), why);
    }
    for none in [r#"{"most": 0}"#, r#"{"mem_percent": 0}"#] {
        with(none);
        world.ok(&["instance", "sleep", &members[0]]);
        assert!(!waits(&members[0]), "{none}");
        let timed = wake(world, &members[0]);
        assert!(phases(&timed).contains(&"spawn"));
    }
    usual(world);
    Outcome::Passed
}

/// Wherever the command that puts to sleep is killed, also while it lets a VMM wait, the next one
/// finds something true.
pub fn a_killed_sleep_leaves_nothing_wrong(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    let (dir, id) = (world.instance_dir(worker), worker.rsplit('/').next().expect("an id"));
    let run = world.path("run/vm").join(id);
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let sleeps = || text(&dir.join("instance.json")).contains(r#""status": "sleeping""#);
    let snapshot = |done: bool| {
        let all = fs::read_dir(dir.join("snapshots")).into_iter().flatten().flatten();
        all.into_iter().any(|one| one.file_name().to_string_lossy().ends_with(".tmp") != done)
    };
    let restores = || text(&run.join("vmm.json")).contains(r#""mode": "restore""#);
    let moments: [Moment<'_>; 6] = [
        ("while it is written", &|| snapshot(false)),
        ("when it is complete", &|| snapshot(true)),
        ("when it sleeps", &sleeps),
        ("when there is a jail", &|| sleeps() && processes_of(world, worker) == 1),
        ("when there is a VMM", &|| sleeps() && restores()),
        ("when it can be reached", &|| sleeps() && restores() && run.join("guest.sock").exists()),
    ];
    for (moment, is_now) in moments {
        let mut sleep = begin(world, &["instance", "sleep", worker]);
        while !is_now() && sleep.try_wait().expect("it is ours").is_none() {
            std::thread::yield_now();
        }
        let _ = sleep.kill();
        sleep.wait().expect("it ends");
        let timed = wake(world, worker);
        assert_eq!(timed["status"], "running", "{moment}");
        let reason = timed["reason"].as_str().unwrap_or_default();
        assert!(!reason.contains("booted"), "{moment}: {reason}");
        world.eventually("one VMM is left", SOON, || processes_of(world, worker) == 1);
    }
    Outcome::Passed
}

pub fn an_agent_lets_them_wait_again(world: &World) -> Outcome {
    crate::fakes!();
    let members = world.members(POOL);
    world.ok(&["instance", "sleep", &members[0]]);
    world.ok(&["instance", "sleep", &members[1]]);
    let (vmm, supervisor) = waiting(world, &members[0]).expect("one waits");
    let kept = waiting(world, &members[1]);
    signal(supervisor, Signal::SIGKILL);
    signal(vmm, Signal::SIGKILL);
    let mut agent = world.command(&["agent", "serve", "--interval-secs", "1"]);
    let mut agent = agent.spawn().expect("mvm starts");
    world
        .eventually("the agent answers", SOON, || world.run(&["agent", "status"]).status.success());
    world.eventually("another waits", SOON, || waiting(world, &members[0]).is_some());
    assert_eq!(waiting(world, &members[1]), kept, "what was right was replaced");
    // Many callers, one wake.
    let wakes: Vec<_> = (0..6).map(|_| begin(world, &["instance", "wake", &members[0]])).collect();
    let said: Vec<_> = wakes.into_iter().map(crate::fleet::ended_well).collect();
    let woke = said.iter().filter(|text| text.contains("Running")).count();
    assert_eq!(woke, 1, "{said:?}");
    let others = said.iter().filter(|text| text.contains("running already")).count();
    assert_eq!(others, 5, "{said:?}");
    // The agent's end is nothing to what waits.
    agent.kill().expect("it is there");
    agent.wait().expect("it ends");
    // A child it was just starting may keep its socket for a moment.
    world.eventually("nobody answers for it", SOON, || {
        !world.run(&["agent", "status"]).status.success()
    });
    assert_eq!(waiting(world, &members[1]), kept);
    world.ok(&["instance", "wake", &members[1]]);
    Outcome::Passed
}

pub fn what_ends_an_instance_ends_what_waits(world: &World) -> Outcome {
    crate::fakes!();
    let members = world.members(POOL);
    for (verb, worker) in [("stop", &members[2]), ("destroy", &members[3])] {
        let (vmm, supervisor) = sleep(world, worker);
        match verb {
            "destroy" => world.ok(&["instance", "destroy", worker, "--force"]),
            _ => world.ok(&["instance", verb, worker]),
        };
        assert!(!lives(vmm) && !lives(supervisor), "{verb}");
        assert_eq!(processes_of(world, worker), 0, "{verb}");
    }
    world.ok(&["instance", "start", &members[2]]);
    Outcome::Passed
}
