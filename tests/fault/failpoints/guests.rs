//! Twenty places at which a command or a supervisor is killed while real guests run under QEMU.

use std::collections::BTreeSet;

use crate::common::Outcome;
use crate::common::world::told;
use crate::host::{Guests, POOL};
use crate::left;

/// Commands, and where they or the supervisor they start are killed.
const PLACES: [(&str, &str); 20] = [
    ("sleep", "mvm/after:rename-file#1"),
    ("sleep", "mvm/after:prepare-guest#1"),
    ("sleep", "mvm/after:pause-vm#1"),
    ("sleep", "mvm/after:save-memory#1"),
    ("sleep", "mvm/after:write-file#2"),
    ("sleep", "mvm/after:end-process#1"),
    ("sleep", "mvm/before:write-audit#1"),
    ("wake", "mvm/after:rename-file#1"),
    ("wake", "mvm/before:start-supervisor#1"),
    ("wake", "mvm/after:load-memory#1"),
    ("wake", "mvm/before:mark-snapshot#1"),
    ("wake", "mvm/after:mark-snapshot#1"),
    ("wake", "mvm/after:resume-vm#1"),
    ("wake", "mvm/before:remove-dir#1"),
    ("warm", "mvm/after:pause-vm#1"),
    ("resume", "mvm/after:resume-vm#1"),
    ("stop", "mvm/after:power-off#1"),
    ("stop", "mvm/before:write-file#2"),
    ("start", "mvm/after:start-supervisor#1"),
    // Nobody has written down yet which process the VMM is.
    ("start", "supervisor/before:record-vmm#1"),
];

/// Memory is lost by a stop alone: a VM that was loaded goes on without who loaded it.
fn keeps_memory(verb: &str) -> bool {
    !matches!(verb, "stop" | "start")
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
        let (killed, trace) = guests.run_armed(&args, Some(&format!("kill@{place}")));
        assert!(trace.was_hit, "{verb} does not come to {place}\n{}", told(&killed));
        let again = guests.run(&args);
        assert!(again.status.success(), "{verb} {place}\n{}", told(&again));
        let wrong = left::wrong(guests, &BTreeSet::new());
        assert!(wrong.is_empty(), "{verb} {place}: {wrong:#?}");
        guests.bring(POOL, "running");
        assert_eq!(guests.guest(&instance, "cat /data/word"), "kept", "{verb} {place}");
        let now = guests.guest(&instance, "cat /proc/sys/kernel/random/boot_id");
        assert!(now == boot || !keeps_memory(verb), "{verb} {place}: it was booted anew");
    }
    Outcome::Passed
}
