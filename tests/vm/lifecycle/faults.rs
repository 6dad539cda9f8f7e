//! Things that go wrong: said clearly, nothing lost, nothing leaked.

use std::fs;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::world::{spawn, told, wait};
use crate::common::{Outcome, World};
use crate::setup::{STRANGERS, WORKERS};

/// How long something may take to show.
const SOON: Duration = Duration::from_secs(20);

fn signal(world: &World, instance: &str, signal: Signal) {
    let pid = world.instance(instance)["pid"].as_i64().expect("a pid");
    kill(Pid::from_raw(pid as i32), signal).expect("the VMM takes a signal");
}

fn mark(world: &World, instance: &str, text: &str) {
    world.guest(instance, &format!("echo {text} > /data/mark; sync"));
}

/// Wakes an instance whose snapshot should not be trusted.
fn boots_instead(world: &World, instance: &str, why: &str, text: &str) {
    let output = world.run(&["instance", "wake", instance]);
    assert!(output.status.success(), "{}", told(&output));
    let reason = world.instance(instance)["reason"].as_str().unwrap_or_default().to_owned();
    assert!(
        reason.contains("booted from its drives") && reason.contains(why),
        "{reason:?} lacks {why:?}"
    );
    assert_eq!(world.guest(instance, "cat /data/mark"), text, "the data drive lost something");
}

pub fn a_doubtful_snapshot_is_a_cold_boot(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    let snapshots = world.instance_dir(worker).join("snapshots");
    let memory =
        || fs::read_dir(&snapshots).expect("snapshots").flatten().next().expect("one").path();
    for (damage, why) in [
        ("tampered", "changed or truncated"),
        ("truncated", "changed or truncated"),
        ("consumed", "used before"),
    ] {
        mark(world, worker, damage);
        world.ok(&["instance", "sleep", worker]);
        let dir = memory();
        let file = dir.join("memory");
        match damage {
            "tampered" => {
                use std::os::unix::fs::FileExt;
                let memory =
                    fs::OpenOptions::new().write(true).open(&file).expect("the memory file");
                memory.write_all_at(b"!", 4096 * 16 + 17).expect("a byte is changed");
            }
            "truncated" => fs::OpenOptions::new()
                .write(true)
                .open(&file)
                .and_then(|file| file.set_len(100_000))
                .expect("cut"),
            _ => fs::write(dir.join("consumed"), b"").expect("a mark"),
        }
        boots_instead(world, worker, why, damage);
    }
    Outcome::Passed
}

pub fn a_full_disk_calls_the_sleep_off(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    let snapshots = world.instance_dir(worker).join("snapshots");
    let boot = world.guest(worker, "cat /proc/sys/kernel/random/boot_id");
    fs::create_dir_all(&snapshots).expect("a directory");
    let none: Option<&str> = None;
    mount(Some("tmpfs"), &snapshots, Some("tmpfs"), MsFlags::empty(), Some("size=4m"))
        .expect("a small disk");
    let error = world.refused(&["instance", "sleep", worker], 1);
    umount2(&snapshots, MntFlags::MNT_DETACH).expect("the small disk goes");
    let _ = none;
    assert!(error.contains("space"), "{error}");
    assert_eq!(world.status(worker), "running");
    assert_eq!(
        world.guest(worker, "cat /proc/sys/kernel/random/boot_id"),
        boot,
        "it was booted anew"
    );
    world.ok(&["instance", "sleep", worker]);
    world.ok(&["instance", "wake", worker]);
    assert_eq!(world.guest(worker, "cat /proc/sys/kernel/random/boot_id"), boot);
    Outcome::Passed
}

pub fn a_killed_vmm_is_noticed_and_started_again(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    mark(world, worker, "before-kill");
    signal(world, worker, Signal::SIGKILL);
    world.eventually("the end is noticed", SOON, || world.status(worker) == "failed");
    let reason = world.instance(worker)["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("SIGKILL") || reason.contains("signal 9"), "{reason}");
    world.ok(&["instance", "start", worker]);
    assert_eq!(world.guest(worker, "cat /data/mark"), "before-kill");
    Outcome::Passed
}

/// Kills the process beside an instance's VM, and waits until it is gone.
fn kill_supervisor(world: &World, instance: &str) -> i64 {
    let id = world.instance(instance)["instance_id"].as_str().expect("an id").to_owned();
    let record = fs::read(world.path("run/vm").join(id).join("vmm.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let pid = record["supervisor"]["pid"].as_i64().expect("a pid");
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("the supervisor takes a signal");
    let alive = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    world.eventually("the supervisor is gone", SOON, || !alive());
    pid
}

pub fn a_killed_supervisor_is_followed_by_another(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    let boot = world.guest(worker, "cat /proc/sys/kernel/random/boot_id");
    let vmm = world.instance(worker)["pid"].clone();
    let first = kill_supervisor(world, worker);
    // The first command that needs the guest brings the next one.
    assert_eq!(world.guest(worker, "cat /proc/sys/kernel/random/boot_id"), boot);
    world.guest(worker, "echo said after the first > /dev/console");
    world.eventually("the console is kept again", SOON, || {
        world.ok(&["instance", "logs", worker, "--console"]).contains("said after the first")
    });
    assert_ne!(kill_supervisor(world, worker), first);
    world.ok(&["instance", "sleep", worker]);
    world.ok(&["instance", "wake", worker]);
    assert_eq!(world.guest(worker, "cat /proc/sys/kernel/random/boot_id"), boot);
    assert_ne!(world.instance(worker)["pid"], vmm);
    kill_supervisor(world, worker);
    world.ok(&["instance", "warm", worker]);
    world.ok(&["instance", "wake", worker]);
    assert_eq!(world.guest(worker, "cat /proc/sys/kernel/random/boot_id"), boot);
    // How a VM ended that another process started is known on kernels from 6.15.
    world.run(&["instance", "exec", worker, "--", "poweroff"]);
    world.eventually("it is off", SOON, || {
        let row = world.instance(worker);
        let unseen = row["reason"].as_str().is_some_and(|reason| reason.contains("not known"));
        row["status"] == "stopped" || row["status"] == "failed" && unseen
    });
    world.ok(&["instance", "start", worker]);
    Outcome::Passed
}

pub fn a_killed_command_is_settled_by_the_next(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    world.ok(&["instance", "start", worker]);
    mark(world, worker, "settled");
    let boot = world.guest(worker, "cat /proc/sys/kernel/random/boot_id");
    // Wherever the kill lands, the next command finds a state that is true.
    for (verb, delays) in [("sleep", [150, 600, 1200]), ("wake", [100, 300, 900])] {
        for delay in delays {
            let opposite = if verb == "sleep" { "wake" } else { "sleep" };
            world.ok(&["instance", "start", worker]);
            if verb == "wake" {
                world.ok(&["instance", "sleep", worker]);
            }
            let mut child = spawn(world.command(&["instance", verb, worker]));
            // Not a condition to wait for: the moment of the kill is what is varied.
            std::thread::sleep(Duration::from_millis(delay));
            let _ = child.kill();
            let _ = child.wait();
            let after = world.run(&["instance", opposite, worker]);
            assert!(
                after.status.success(),
                "{verb} killed after {delay} ms left {}\n{}",
                world.status(worker),
                told(&after)
            );
            world.ok(&["instance", "start", worker]);
            assert_eq!(
                world.guest(worker, "cat /data/mark /proc/sys/kernel/random/boot_id"),
                format!("settled\n{boot}"),
                "{verb} killed after {delay} ms lost data or memory"
            );
        }
    }
    Outcome::Passed
}

/// Whether a process has a handler of its own for Ctrl-C, or has ended.
fn hears_interrupts(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = 1 << (Signal::SIGINT as u64 - 1);
    status.contains("State:\tZ") || caught.is_none_or(|mask| mask & bit != 0)
}

pub fn ctrl_c_leaves_something_true(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    mark(world, worker, "interrupted");
    for (before, verb, delays) in [
        ("start", "sleep", [100, 700]),
        ("sleep", "wake", [100, 700]),
        ("stop", "start", [200, 2000]),
    ] {
        for delay in delays {
            world.ok(&["instance", "start", worker]);
            if before != "start" {
                world.ok(&["instance", before, worker]);
            }
            let args = ["instance", verb, worker.as_str()];
            let child = spawn(world.command(&args));
            world.eventually("Ctrl-C is heard", SOON, || hears_interrupts(child.id()));
            // Not a condition to wait for: the moment of the key press is what is varied.
            std::thread::sleep(Duration::from_millis(delay));
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGINT);
            let output = wait(child, &args);
            let row = world.instance(worker);
            assert!(
                row["transition"].is_null(),
                "{verb} was left half-done: {row}\n{}",
                told(&output)
            );
            if output.status.success() {
                continue;
            }
            assert_eq!(output.status.code(), Some(130), "{}", told(&output));
            world.ok(&["instance", "start", worker]);
        }
    }
    assert_eq!(world.guest(worker, "cat /data/mark"), "interrupted");
    // Building is interrupted before anything is written; what is current stays current.
    let current = world.json(&["pool", "info", WORKERS])["current"].clone();
    let child = spawn(world.command(&["pool", "build", WORKERS]));
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGINT);
    wait(child, &["pool", "build", WORKERS]);
    assert_eq!(world.json(&["pool", "info", WORKERS])["current"], current);
    Outcome::Passed
}

pub fn a_silent_guest_is_an_error_not_a_hang(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    signal(world, worker, Signal::SIGSTOP);
    let error = world.refused(&["instance", "exec", worker, "--", "true"], 5);
    signal(world, worker, Signal::SIGCONT);
    assert!(error.contains("no answer") || error.contains("does not answer"), "{error}");
    assert!(error.contains("mvm instance logs"), "{error}");
    world.eventually("it answers again", SOON, || world.guest_can(worker, "true"));
    Outcome::Passed
}

pub fn two_commands_at_once_do_not_mix(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    let args = ["instance", "sleep", worker.as_str()];
    let (one, two) = (spawn(world.command(&args)), spawn(world.command(&args)));
    let (one, two) = (wait(one, &args), wait(two, &args));
    for output in [&one, &two] {
        assert!(matches!(output.status.code(), Some(0 | 5)), "{}", told(output));
    }
    assert_eq!(world.status(worker), "sleeping");
    world.ok(&["instance", "wake", worker]);
    Outcome::Passed
}

pub fn a_guest_that_turns_itself_off_is_stopped(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    mark(world, worker, "off");
    world.run(&["instance", "exec", worker, "--", "poweroff"]);
    world.eventually("it is off", SOON, || world.status(worker) == "stopped");
    world.ok(&["instance", "start", worker]);
    assert_eq!(world.guest(worker, "cat /data/mark"), "off");
    world.ok(&["instance", "stop", worker]);
    assert_eq!(world.status(worker), "stopped");
    world.refused(&["instance", "sleep", worker], 4);
    Outcome::Passed
}

pub fn a_tampered_image_is_not_booted(world: &World) -> Outcome {
    let instance = &world.members(STRANGERS)[0];
    let revision = world.instance(instance)["revision"].as_str().expect("a revision").to_owned();
    let _ = revision;
    world.ok(&["instance", "stop", instance]);
    let pool = world.path("state/tenants/bb/pools/workers/artifacts/current");
    let rootfs = fs::canonicalize(pool).expect("a current revision").join("rootfs");
    // A copy, so that the shared cache keeps the good file.
    let good = fs::read(&rootfs).expect("the root");
    fs::remove_file(&rootfs).expect("unlinked");
    let mut bad = good.clone();
    bad[70_000] ^= 1;
    fs::write(&rootfs, bad).expect("tampered");
    let error = world.refused(&["instance", "start", instance], 1);
    assert!(error.contains("rootfs"), "{error}");
    world.ok(&["pool", "build", STRANGERS]);
    world.ok(&["instance", "start", instance]);
    Outcome::Passed
}
