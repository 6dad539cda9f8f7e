//! A secret is in clear in its guest and on the tmpfs, and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;

use crate::canary::Canary;
use crate::common::{Outcome, World};
use crate::{WORKERS, seen, set, when};

/// The memory file of a sleeping instance.
fn memory(world: &World, instance: &str) -> PathBuf {
    let snapshots = world.instance_dir(instance).join("snapshots");
    let one = fs::read_dir(snapshots).expect("snapshots").flatten().next().expect("one");
    one.path().join("memory")
}

fn is_nowhere(world: &World, canaries: &[&Canary], when: &str) {
    for canary in canaries {
        let strays = canary.strays(world);
        assert_eq!(strays, Vec::<String>::new(), "a secret is in clear {when}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

pub fn a_secret_is_written_nowhere(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    let (unread, read, held) = (Canary::new(), Canary::new(), Canary::new());
    let all = [&unread, &read, &held];
    // Large enough for blocks of its own, so that it is not read along with a neighbour.
    let long = unread.value.repeat(200);
    let (one, two) = (&read.value, &held.value);
    let changed = set(world, "aa", &format!("UNREAD={long}\nREAD={one}\nHELD={two}\n"));
    assert_eq!(when(&changed, worker), "now");
    assert!(all.iter().all(|canary| !canary.is_in(changed.to_string().as_bytes())));
    assert_eq!(seen(world, worker, "READ"), read.value, "the guest does not have it");
    let hold = "V=$(cat /run/secrets/HELD); touch /tmp/holds; while :; do sleep 1; done";
    world.guest(worker, &format!("(export V; {hold}) >/dev/null 2>&1 </dev/null &"));
    assert!(world.guest_can(worker, "until [ -e /tmp/holds ]; do usleep 20000; done"));
    let images = world.path("run/secrets");
    let kind = statfs(&images).expect("a file system").filesystem_type();
    assert_eq!((kind, mode(&images)), (TMPFS_MAGIC, 0o700));
    let found = unread.files(&images, Path::new(""));
    assert!(!found.is_empty() && found.iter().all(|image| mode(image) == 0o600), "{found:?}");
    is_nowhere(world, &all, "while it runs");
    for round in 1..=2 {
        world.ok(&["instance", "sleep", worker]);
        is_nowhere(world, &[&unread, &read], &format!("asleep, round {round}"));
        // The one exception, in its one place.
        let memory = memory(world, worker);
        assert_eq!(held.strays(world), [memory.display().to_string()]);
        assert_eq!(mode(&memory), 0o600);
        world.ok(&["instance", "wake", worker]);
        assert_eq!(seen(world, worker, "READ"), read.value);
        is_nowhere(world, &all, &format!("awake, round {round}"));
    }
    world.ok(&["instance", "sleep", worker]);
    world.ok(&["instance", "stop", worker]);
    is_nowhere(world, &all, "after the stop");
    let id = worker.rsplit('/').next().expect("an id").to_owned();
    assert!(!images.join(format!("{id}.img")).exists(), "its image is still there");
    world.ok(&["instance", "start", worker]);
    assert_eq!(seen(world, worker, "READ"), read.value);
    world.ok(&["tenant", "secrets", "list", "aa"]);
    let told = world.ok(&["events", "aa", "--last", "100", "--json"]);
    assert!(told.contains("UNREAD") && all.iter().all(|it| !it.is_in(told.as_bytes())), "{told}");
    is_nowhere(world, &all, "in the end");
    Outcome::Passed
}

pub fn a_crash_leaves_no_secret(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    let canary = Canary::new();
    set(world, "aa", &format!("READ={}\nHELD=x\nUNREAD=x\n", canary.value));
    assert_eq!(seen(world, worker, "READ"), canary.value);
    let pid = world.instance(worker)["pid"].as_i64().expect("a pid");
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("the VMM takes a signal");
    world.eventually("the end is noticed", Duration::from_secs(20), || {
        world.status(worker) == "failed"
    });
    let id = worker.rsplit('/').next().expect("an id").to_owned();
    let image = world.path("run/secrets").join(format!("{id}.img"));
    world.eventually("the image goes", Duration::from_secs(20), || !image.exists());
    is_nowhere(world, &[&canary], "after a crash");
    world.ok(&["instance", "start", worker]);
    assert_eq!(seen(world, worker, "READ"), canary.value);
    is_nowhere(world, &[&canary], "after the start");
    Outcome::Passed
}
