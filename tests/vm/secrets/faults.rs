//! What goes wrong: nothing is lost, and no guest goes on with what it should not have.

use std::fs;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};

use crate::common::world::{spawn, told, wait};
use crate::common::{Outcome, World};
use crate::{WORKERS, seen, set, when};

pub fn a_wake_that_finds_nothing_ready_says_so(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    set(world, "aa", "SLACK_TOKEN=before\n");
    world.ok(&["instance", "sleep", worker]);
    // As after a boot of the host: the tmpfs is gone, with every image.
    let images = world.path("run/secrets");
    let id = worker.rsplit('/').next().expect("an id");
    fs::remove_file(images.join(format!("{id}.img"))).expect("the image goes");
    world.ok(&["instance", "wake", worker]);
    assert_eq!(seen(world, worker, "SLACK_TOKEN"), "before");
    let events = world.ok(&["events", "aa", "--last", "1"]);
    assert!(events.contains("instance.wake") && events.contains("slow: its secrets"), "{events}");
    // Every image of every instance is made again where an agent starts.
    world.ok(&["instance", "sleep", worker]);
    let others = world.members(WORKERS);
    world.ok(&["instance", "sleep", &others[0]]);
    umount2(&images, MntFlags::MNT_DETACH).expect("the tmpfs goes");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let delivered = runtime.block_on(service(world).refresh_secrets());
    assert!(!delivered.is_empty(), "nothing was delivered");
    for instance in [worker, &others[0]] {
        world.ok(&["instance", "wake", instance]);
        let events = world.ok(&["events", "aa", "--last", "1"]);
        assert!(!events.contains("slow"), "{events}");
        assert_eq!(seen(world, instance, "SLACK_TOKEN"), "before");
    }
    Outcome::Passed
}

/// The service, for what an agent does when it starts.
fn service(world: &World) -> mvm_agent::Service {
    let dirs = mvm_agent::Dirs {
        state: world.path("state"),
        run: world.path("run"),
        config: world.path("etc"),
        cache: world.path("state").join("unused"),
    };
    mvm_agent::Service::open(dirs, env!("CARGO_BIN_EXE_mvm").into(), "test".into())
        .expect("a service")
}

pub fn a_lost_key_keeps_a_guest_asleep(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    let (key, kept) = (world.path("etc/secret.key"), world.path("etc/kept"));
    world.ok(&["instance", "sleep", worker]);
    fs::rename(&key, &kept).expect("the key goes");
    for args in [
        &["instance", "wake", worker][..],
        &["tenant", "secrets", "list", "aa"],
        &["tenant", "secrets", "rotate", "aa"],
    ] {
        let error = world.refused(args, 5);
        assert!(error.contains("secret.key") && error.contains("put the key back"), "{error}");
    }
    assert_eq!(world.status(worker), "sleeping");
    assert!(!key.exists(), "a new key was made");
    fs::rename(&kept, &key).expect("the key comes back");
    world.ok(&["instance", "wake", worker]);
    assert!(world.instance(worker)["reason"].is_null());
    assert_eq!(seen(world, worker, "SLACK_TOKEN"), "before");
    Outcome::Passed
}

pub fn an_older_envelope_is_not_delivered(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    let (envelope, old) = (world.path("state/tenants/aa/secrets.sealed"), world.path("old"));
    set(world, "aa", "SLACK_TOKEN=old\n");
    fs::copy(&envelope, &old).expect("a copy");
    set(world, "aa", "SLACK_TOKEN=young\n");
    world.ok(&["instance", "sleep", worker]);
    fs::copy(&old, &envelope).expect("the old one is put in place");
    let error = world.refused(&["instance", "wake", worker], 1);
    assert!(error.contains("delivered before") && error.contains("rotate aa"), "{error}");
    assert_eq!(world.status(worker), "sleeping");
    // A person who restored a backup says so.
    let changed = world.json(&["tenant", "secrets", "rotate", "aa"]);
    assert_eq!(when(&changed, worker), "at_wake");
    world.ok(&["instance", "wake", worker]);
    assert_eq!(seen(world, worker, "SLACK_TOKEN"), "old");
    Outcome::Passed
}

pub fn a_killed_command_is_made_up_for(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    for delay in [5, 20, 40, 60, 80, 110] {
        let value = format!("SLACK_TOKEN=killed-{delay}\n");
        let file = world.path("lines");
        fs::write(&file, value).expect("a file");
        let path = file.to_str().expect("a path");
        let args = ["tenant", "secrets", "set", "aa", "--from-file", path];
        let mut child = spawn(world.command(&args));
        // Not a condition to wait for: the moment of the kill is what is varied.
        std::thread::sleep(Duration::from_millis(delay));
        let _ = child.kill();
        drop(wait(child, &args));
        let changed = world.json(&["tenant", "secrets", "rotate", "aa"]);
        assert_eq!(when(&changed, worker), "now", "killed after {delay} ms: {changed}");
        let now = seen(world, worker, "SLACK_TOKEN");
        let other = seen(world, &world.members(WORKERS)[0], "SLACK_TOKEN");
        assert_eq!(now, other, "killed after {delay} ms");
        fs::remove_file(&file).expect("the file goes");
    }
    Outcome::Passed
}

pub fn two_who_set_at_once_both_get_in(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[1];
    std::thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || {
                let args = ["tenant", "secrets", "set", "aa", &format!("AT_ONCE_{n}")];
                let output = world.run_with_input(&args, format!("value {n}").as_bytes());
                assert!(output.status.success(), "{}", told(&output));
            });
        }
    });
    for n in 0..4 {
        for instance in world.members(WORKERS) {
            assert_eq!(seen(world, &instance, &format!("AT_ONCE_{n}")), format!("value {n}"));
        }
    }
    world.ok(&["tenant", "secrets", "remove", "aa", "--all", "--force"]);
    assert_eq!(world.guest(worker, "ls -A /run/secrets"), "");
    Outcome::Passed
}
