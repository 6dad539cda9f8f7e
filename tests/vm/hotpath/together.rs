//! Several at once: of one instance, of a sleep and a wake, of two tenants.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::world::{spawn, told};
use crate::common::{Outcome, World};
use crate::fleet::{
    OTHER, POOL, SOON, begin, end, ended_well, falls_asleep, is_held, settings, signal, usual,
    with_fault,
};

/// Longer than a command waits for another one's transition of the same instance.
const LONG: &str = "slow 10500";

pub fn many_wakes_of_one_are_one(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    world.ok(&["instance", "sleep", worker]);
    let began = Instant::now();
    let said: Vec<_> = with_fault("PUT /snapshot/load", LONG, || {
        let wakes: Vec<_> = (0..3).map(|_| begin(world, &["instance", "wake", worker])).collect();
        wakes.into_iter().map(ended_well).collect()
    });
    assert!(began.elapsed() > Duration::from_secs(10), "the wake was not long");
    let count = |word: &str| said.iter().filter(|text| text.contains(word)).count();
    assert_eq!((count("Running"), count("running already")), (1, 2), "{said:?}");
    Outcome::Passed
}

pub fn a_wake_calls_a_sleep_off(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    let before = world.instance(worker)["pid"].clone();
    let sleep = with_fault("PUT /snapshot/create", "slow 3000", || {
        let sleep = begin(world, &["instance", "sleep", worker]);
        falls_asleep(world, worker);
        let text = world.ok(&["instance", "wake", worker]);
        assert!(text.contains("running already"), "{text}");
        sleep
    });
    let sleep = end(sleep);
    assert!(!sleep.status.success(), "{}", told(&sleep));
    let error = String::from_utf8_lossy(&sleep.stderr).into_owned();
    assert!(error.contains("awake meanwhile"), "{error}");
    let view = world.instance(worker);
    assert_eq!((&view["status"], &view["pid"]), (&"running".into(), &before));
    let snapshots = world.instance_dir(worker).join("snapshots");
    assert_eq!(fs::read_dir(snapshots).expect("snapshots").count(), 0, "a snapshot is left");
    // Nobody wants it any more: the next sleep is one.
    world.ok(&["instance", "sleep", worker]);
    world.ok(&["instance", "wake", worker]);
    Outcome::Passed
}

/// Its sleep is called off, and the VMM does not let it go on: the next command does.
pub fn one_that_stays_paused_goes_on_later(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    let before = world.instance(worker)["pid"].clone();
    let mut command = world.command(&["instance", "sleep", worker]);
    command.env("MVM_FAILPOINT", "hold@mvm/after:save-memory#1");
    let sleep = spawn(command);
    let pid = i64::from(sleep.id());
    world.eventually("it is held there", SOON, || is_held(pid));
    with_fault("PATCH /vm", "refuse not now", || {
        signal(pid, Signal::SIGINT);
        signal(pid, Signal::SIGCONT);
        let sleep = end(sleep);
        let error = String::from_utf8_lossy(&sleep.stderr).into_owned();
        assert!(error.contains("its VM stays paused"), "{}", told(&sleep));
        assert!(error.contains(&format!("mvm instance wake {worker}")), "{error}");
        assert_eq!(world.instance(worker)["transition"], "falling asleep");
        // Nobody is told that it runs.
        world.refused(&["instance", "wake", worker], 1);
    });
    assert!(world.ok(&["instance", "wake", worker]).contains("running already"));
    let view = world.instance(worker);
    assert_eq!((&view["status"], &view["pid"]), (&"running".into(), &before));
    let snapshots = world.instance_dir(worker).join("snapshots");
    assert_eq!(fs::read_dir(snapshots).expect("snapshots").count(), 0, "a snapshot is left");
    Outcome::Passed
}

/// Its VM ends by itself while it is put to sleep: that is said, and it is over.
pub fn one_that_ends_on_its_way_has_ended(world: &World) -> Outcome {
    crate::fakes!();
    let worker = &world.members(POOL)[0];
    let vmm = world.instance(worker)["pid"].as_i64().expect("a pid");
    let mut command = world.command(&["instance", "sleep", worker]);
    command.env("MVM_FAILPOINT", "hold@mvm/after:pause-vm#1");
    let sleep = spawn(command);
    let pid = i64::from(sleep.id());
    world.eventually("it is held there", SOON, || is_held(pid));
    signal(vmm, Signal::SIGKILL);
    world.eventually("its VMM is gone", SOON, || !Path::new(&format!("/proc/{vmm}/exe")).exists());
    signal(pid, Signal::SIGCONT);
    let sleep = end(sleep);
    assert_eq!(sleep.status.code(), Some(1), "{}", told(&sleep));
    let error = String::from_utf8_lossy(&sleep.stderr).into_owned();
    let said = "ended while it was put to sleep: the VM ended by itself (SIGKILL)";
    assert!(error.contains(said), "{error}");
    assert!(error.contains(&format!("mvm instance start {worker}")), "{error}");
    let view = world.instance(worker);
    assert_eq!((&view["status"], &view["transition"]), (&"failed".into(), &Value::Null));
    world.ok(&["instance", "start", worker]);
    Outcome::Passed
}

/// Two places; one tenant asks for three wakes, then another for one, which is not the last.
pub fn a_burst_of_one_delays_the_other_once(world: &World) -> Outcome {
    crate::fakes!();
    settings(world, r#"{"vmm": "firecracker", "limits": "none", "bring_up_at_once": 1}"#);
    let mut all = world.members(POOL);
    all.extend(world.members(OTHER));
    assert_eq!(all.len(), 4);
    for instance in &all {
        world.ok(&["instance", "sleep", instance]);
    }
    let queue = world.path("run/admission");
    let stop = AtomicBool::new(false);
    let (most, order) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&queue, &stop));
        with_fault("PUT /snapshot/load", "slow 300", || {
            let mut first = world.command(&["instance", "wake", &all[0]]);
            first.env("MVM_FAILPOINT", "hold@mvm/before:load-memory#1");
            let mut wakes = vec![spawn(first)];
            let pid = i64::from(wakes[0].id());
            world.eventually("it has its turn", SOON, || is_held(pid));
            for (waiting, instance) in (1..).zip(&all[1..]) {
                wakes.push(begin(world, &["instance", "wake", instance]));
                world.eventually("it waits for its turn", SOON, || in_line(&queue) == waiting);
            }
            signal(pid, Signal::SIGCONT);
            wakes.into_iter().for_each(|wake| drop(ended_well(wake)));
        });
        stop.store(true, Ordering::SeqCst);
        watch.join().expect("no panic")
    });
    usual(world);
    assert_eq!(most, 1, "more at once than there are places: {order:?}");
    let place = order.iter().position(|tenant| tenant == "fb");
    assert_eq!((order.len(), place), (4, Some(1)), "{order:?}");
    let left: Vec<_> = fs::read_dir(&queue).expect("the queue").flatten().collect();
    assert!(left.len() <= 2, "{left:?}");
    Outcome::Passed
}

/// How many wait for their turn.
fn in_line(queue: &Path) -> usize {
    let names = fs::read_dir(queue).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with("w.")).count()
}

/// The most that came up at once, and whose turn it was, in order.
fn watch(queue: &std::path::Path, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut most, mut seen) = (0, BTreeMap::new());
    let mut order = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let names = fs::read_dir(queue).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let running: Vec<_> = names.filter(|name| name.starts_with("r.")).collect();
        most = most.max(running.len());
        for name in running {
            let tenant = name.split('.').nth(2).unwrap_or_default().to_owned();
            if seen.insert(name, ()).is_none() {
                order.push(tenant);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    (most, order)
}
