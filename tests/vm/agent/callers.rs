//! Who asks, and what becomes of what they asked for.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use super::daemon::{Agent, BOOT, POOL, SOON, count};
use crate::common::world::{spawn, told, wait};
use crate::common::{Outcome, World};

pub fn streams_pass_through_it(world: &World) -> Outcome {
    let _agent = Agent::start(world, &["--interval-secs", "3600"]);
    let instance = world.members(POOL)[0].clone();
    let output = world.run_with_input(&["instance", "exec", &instance, "--", "wc", "-c"], &[7; 9]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "9", "{}", told(&output));
    world.refused(&["instance", "exec", &instance, "--", "sh", "-c", "exit 7"], 7);
    let (there, back) = (world.path("there"), world.path("back"));
    fs::write(&there, vec![5; 3 << 20]).expect("a file");
    let inside = format!("{instance}:/tmp/there");
    world.ok(&["instance", "cp", there.to_str().expect("a path"), &inside]);
    world.ok(&["instance", "cp", &inside, back.to_str().expect("a path")]);
    assert!(fs::read(&there).expect("there") == fs::read(&back).expect("back"));
    let console = world.ok(&["instance", "logs", &instance, "--console", "--lines", "5"]);
    assert!(console.lines().count() <= 5, "{console}");
    world.refused(&["instance", "exec", "aa/workers/i-00000000", "--", "true"], 3);
    Outcome::Passed
}

/// An operation goes on when who asked for it is killed, and can be watched by somebody else.
pub fn a_caller_that_leaves_stops_nothing(world: &World) -> Outcome {
    let _agent = Agent::start(world, &["--interval-secs", "3600"]);
    let instance = world.members(POOL)[0].clone();
    world.ok(&["instance", "stop", &instance]);
    let mut caller = spawn(world.command(&["instance", "start", &instance]));
    let operations = || world.json(&["agent", "operations"]);
    let running = || {
        let all = operations();
        let mut all = all.as_array().into_iter().flatten();
        all.find(|one| one["ended"].is_null()).and_then(|one| Some(one["id"].as_str()?.to_owned()))
    };
    world.eventually("the operation is on its way", SOON, || running().is_some());
    let id = running().expect("it takes seconds");
    caller.kill().expect("it is there");
    caller.wait().expect("it ends");
    let seen = world.ok(&["agent", "operations", "--watch", &id]);
    assert!(seen.contains("\"status\": \"running\""), "{seen}");
    assert_eq!(world.status(&instance), "running");
    world.refused(&["agent", "operations", "--watch", "op-00000000"], 3);
    Outcome::Passed
}

pub fn there_is_one_agent(world: &World) -> Outcome {
    let _agent = Agent::start(world, &["--interval-secs", "3600"]);
    let error = world.refused(&["agent", "serve"], 5);
    assert!(error.contains("mvm agent serve"), "the holder is not named: {error}");
    assert!(world.run(&["agent", "status"]).status.success(), "the first one no longer answers");
    Outcome::Passed
}

/// Members of the group `mvm` need no root; nobody else gets in.
pub fn only_the_group_may_ask(world: &World) -> Outcome {
    // Seen by this world's processes alone.
    let groups = world.path("group");
    let present = fs::read_to_string("/etc/group").expect("groups");
    let others = present.lines().filter(|line| !line.starts_with("mvm:"));
    let all: Vec<_> = others.chain(["mvm:x:64242:"]).collect();
    fs::write(&groups, all.join("\n") + "\n").expect("written");
    let none: Option<&str> = None;
    mount(Some(&groups), "/etc/group", none, MsFlags::MS_BIND, none).expect("mounted");
    let outcome = std::panic::catch_unwind(|| ask_as_others(world));
    umount2("/etc/group", MntFlags::MNT_DETACH).expect("unmounted");
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ask_as_others(world: &World) -> Outcome {
    let agent = Agent::start(world, &["--interval-secs", "3600"]);
    let open = Open::make(world);
    let member = open.list("--groups=64242");
    assert!(member.status.success(), "{}", told(&member));
    assert!(String::from_utf8_lossy(&member.stdout).contains("\"running\""), "{}", told(&member));
    let stranger = open.list("--clear-groups");
    assert_eq!(stranger.status.code(), Some(4), "{}", told(&stranger));
    assert!(agent.end(Signal::SIGTERM));
    Outcome::Passed
}

/// The run directory and `mvm` where others can get to them: the test's own directories may be
/// closed to them.
struct Open;

impl Open {
    fn make(world: &World) -> Self {
        let none: Option<&str> = None;
        mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), none).expect("mounted");
        fs::create_dir("/mnt/run").expect("a directory");
        mount(Some(&world.path("run")), "/mnt/run", none, MsFlags::MS_BIND, none).expect("mounted");
        fs::copy(world.command(&[]).get_program(), "/mnt/mvm").expect("copied");
        Self
    }

    /// `instance list` as nobody. No sudo on the way: who may not ask must not become root by it.
    fn list(&self, groups: &str) -> Output {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", groups, "--"]);
        command.args(["/mnt/mvm", "instance", "list", "--json"]).stdin(Stdio::null());
        command.env_clear().env("PATH", "/nonexistent").env("MVM_RUN_DIR", "/mnt/run");
        wait(spawn(command), &["instance", "list"])
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = umount2("/mnt/run", MntFlags::MNT_DETACH);
        let _ = umount2("/mnt", MntFlags::MNT_DETACH);
    }
}

/// `Type=notify` and a watchdog, as a unit asks for them.
pub fn the_service_manager_hears_of_it(world: &World) -> Outcome {
    let path = world.path("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(SOON)).expect("a timeout");
    let mut command = world.command(&["agent", "serve", "--interval-secs", "3600"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    let agent = Agent::start_as(world, command);
    // Heard all the time, as a manager does: who tells it something waits until it is taken.
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(len) = manager.recv(&mut buffer) {
            let _ = tell.send(String::from_utf8_lossy(&buffer[..len]).into_owned() + "\n");
        }
    });
    let mut heard = String::new();
    let mut hear_until = |word: &str| {
        while heard.matches(word).count() == 0 {
            heard.push_str(&told.recv_timeout(SOON).unwrap_or_else(|_| panic!("no {word}")));
        }
        heard = heard.replacen(word, "", 1);
    };
    hear_until("READY=1");
    hear_until("WATCHDOG=1");
    hear_until("WATCHDOG=1");
    assert!(agent.end(Signal::SIGTERM));
    hear_until("STOPPING=1");
    world.eventually("what runs goes on", BOOT, || count(world, "running") == 2);
    Outcome::Passed
}
