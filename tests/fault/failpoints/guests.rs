//! Twenty places at which a command is killed while real guests run under QEMU.

use std::collections::BTreeSet;

use crate::common::Outcome;
use crate::common::world::told;
use crate::host::{Guests, POOL};
use crate::left;

/// Commands, and where they are killed.
const PLACES: [(&str, &str); 20] = [
    ("sleep", "after:rename-file#1"),
    ("sleep", "after:prepare-guest#1"),
    ("sleep", "after:pause-vm#1"),
    ("sleep", "after:save-memory#1"),
    ("sleep", "after:write-file#2"),
    ("sleep", "after:rename-file#3"),
    ("sleep", "after:end-process#1"),
    ("sleep", "before:write-audit#1"),
    ("wake", "after:rename-file#1"),
    ("wake", "before:start-supervisor#1"),
    ("wake", "after:load-memory#1"),
    ("wake", "before:mark-snapshot#1"),
    ("wake", "after:mark-snapshot#1"),
    ("wake", "after:resume-vm#1"),
    ("wake", "before:remove-dir#1"),
    ("warm", "after:pause-vm#1"),
    ("resume", "after:resume-vm#1"),
    ("stop", "after:power-off#1"),
    ("stop", "before:write-file#2"),
    ("start", "after:start-supervisor#1"),
];

/// Memory may be lost only where its snapshot was marked as used, and by a stop.
fn keeps_memory(verb: &str, place: &str) -> bool {
    match verb {
        "stop" | "start" => false,
        "wake" => !matches!(place, "after:mark-snapshot#1"),
        _ => true,
    }
}

pub fn killed_at_twenty_places(guests: &Guests) -> Outcome {
    guests.set_up();
    guests.bring(POOL, "running");
    let instance = guests.only(POOL);
    guests.guest(&instance, "echo kept > /data/word; sync");
    for (verb, place) in PLACES {
        let (before, command) = match verb {
            "wake" => ("sleeping", "wake"),
            "resume" => ("warm", "wake"),
            "start" => ("stopped", "start"),
            other => ("running", other),
        };
        guests.bring(POOL, "running");
        let boot = guests.guest(&instance, "cat /proc/sys/kernel/random/boot_id");
        guests.bring(POOL, before);
        let args = ["instance", command, &instance];
        let (killed, trace) = guests.run_armed(&args, Some(&format!("kill@mvm/{place}")));
        assert!(trace.was_hit, "{verb} does not come to {place}\n{}", told(&killed));
        let again = guests.run(&args);
        assert!(again.status.success(), "{verb} {place}\n{}", told(&again));
        let wrong = left::wrong(guests, &BTreeSet::new());
        assert!(wrong.is_empty(), "{verb} {place}: {wrong:#?}");
        guests.bring(POOL, "running");
        assert_eq!(guests.guest(&instance, "cat /data/word"), "kept", "{verb} {place}");
        let now = guests.guest(&instance, "cat /proc/sys/kernel/random/boot_id");
        assert!(now == boot || !keeps_memory(verb, place), "{verb} {place}: it was booted anew");
    }
    Outcome::Passed
}
