//! What ends a VM or a start without anybody asking the instance for it: it is told why, and the
//! agent hears of it at once.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::daemon::{Agent, BOOT, POOL, SOON};
use crate::common::world::{spawn, told, wait};
use crate::common::{Outcome, World};

fn reason(world: &World, instance: &str) -> String {
    world.instance(instance)["reason"].as_str().unwrap_or_default().to_owned()
}

/// A guest that panics and one that turns itself off, under an agent whose next round is an hour
/// away: told at once, brought up again, and what they said is kept.
pub fn what_ends_by_itself_is_told_and_comes_back(world: &World) -> Outcome {
    let _agent = Agent::start(world, &["--interval-secs", "3600"]);
    let one = world.members(POOL).remove(0);
    world.ok(&["instance", "stop", &one]);
    // By hand, a moment ago: that holds while it is so, and no longer.
    world.ok(&["instance", "start", &one]);
    let crash = ["instance", "exec", &one, "--", "sh", "-c", "echo c > /proc/sysrq-trigger"];
    let said = world.refused(&crash, 5);
    assert!(said.contains("panicked: sysrq triggered crash"), "{said}");
    assert!(reason(world, &one).contains("its guest's kernel panicked"));
    world.eventually("its end is written down", SOON, || {
        let events = world.ok(&["events", "aa"]);
        events.contains("instance.exit") && events.contains("panicked")
    });
    world.eventually("the agent brings it up", BOOT, || world.status(&one) == "running");
    let console = world.ok(&["instance", "logs", &one, "--console", "--lines", "9999"]);
    let both = console.rsplit_once("another VM of this instance");
    let (before, after) = both.expect("what both said is kept");
    assert!(before.contains("sysrq triggered crash") && after.contains("ready"), "{console}");
    let said = world.refused(&["instance", "exec", &one, "--", "poweroff", "-f"], 5);
    assert!(said.contains("its guest turned itself off"), "{said}");
    assert_eq!(world.status(&one), "stopped");
    world.eventually("the second time waits longer", SOON, || {
        world.ok(&["pool", "explain", POOL]).contains("its last step failed")
    });
    world.ok(&["instance", "start", &one]);
    Outcome::Passed
}

/// Somebody who is cut off is told who did it.
pub fn whoever_is_cut_off_is_told_why(world: &World) -> Outcome {
    let one = world.members(POOL).remove(0);
    let args = ["instance", "exec", one.as_str(), "--", "sleep", "60"];
    let cut = spawn(world.command(&args));
    let mark = world.path("run/vm").join(one.rsplit('/').next().expect("an id")).join("opened");
    let is_open = || std::fs::File::open(&mark).is_ok_and(|mark| mark.try_lock().is_err());
    world.eventually("it is open", SOON, is_open);
    world.ok(&["instance", "sleep", &one]);
    let output = wait(cut, &args);
    let said = told(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("was put to sleep by mvm instance sleep"), "{said}");
    assert!(said.contains(&format!("hint: mvm instance wake {one}")), "{said}");
    world.ok(&["instance", "wake", &one]);
    Outcome::Passed
}

/// The VMM of a run directory, once it runs and its supervisor listens for its guest.
fn booting(dir: &Path) -> Option<Pid> {
    let changed = |name: &str| dir.join(name).metadata().and_then(|meta| meta.modified()).ok();
    let record = fs::read(dir.join("vmm.json")).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
    let pid = i32::try_from(record["process"]["pid"].as_i64()?).ok()?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let listens = changed("guest.sock")? > changed("vmm.json")?;
    (comm.starts_with("qemu") && listens).then(|| Pid::from_raw(pid))
}

/// A start that is called off, by Ctrl-C or by another's stop, leaves what was there.
pub fn a_start_can_be_called_off(world: &World) -> Outcome {
    let one = world.members(POOL).remove(0);
    world.ok(&["instance", "stop", &one]);
    let console = world.ok(&["instance", "logs", &one, "--console"]);
    assert!(console.contains("ready"), "what it said stays: {console}");
    let args = ["instance", "start", one.as_str()];
    let dir = world.path("run/vm").join(one.rsplit('/').next().expect("an id"));
    let begun = || {
        let start = spawn(world.command(&args));
        world.eventually("it boots", SOON, || booting(&dir).is_some());
        let vmm = booting(&dir).expect("it boots");
        // It does not come to its end before it is called off.
        kill(vmm, Signal::SIGSTOP).expect("it takes a signal");
        assert_eq!(world.instance(&one)["transition"], "starting");
        (start, vmm)
    };
    let (start, _) = begun();
    kill(Pid::from_raw(start.id() as i32), Signal::SIGINT).expect("it takes a signal");
    assert_eq!(wait(start, &args).status.code(), Some(130));
    assert_eq!(world.status(&one), "stopped");
    assert!(reason(world, &one).contains("called off"), "{}", reason(world, &one));
    let (start, _) = begun();
    world.ok(&["instance", "stop", &one]);
    let said = wait(start, &args);
    assert_eq!(said.status.code(), Some(4), "{}", told(&said));
    assert_eq!(world.status(&one), "stopped");
    let (left, vmm) = begun();
    kill(Pid::from_raw(left.id() as i32), Signal::SIGKILL).expect("it takes a signal");
    wait(left, &args);
    kill(vmm, Signal::SIGCONT).expect("it takes a signal");
    world.ok(&args);
    let events = world.ok(&["events", "aa", "--last", "3"]);
    assert!(events.contains("was interrupted"), "the killed start is told: {events}");
    // What was done by hand is no business of the scenarios that follow.
    world.ok(&["agent", "reconcile"]);
    Outcome::Passed
}
