//! Whoever settles what a killed command left is killed too, wherever that makes a difference: the
//! next one must still end it, and nothing is lost on the way.
//!
//! ```text
//! begin ─ a command, killed ─ (its VM dies) ─ the next, killed at one place after the other
//!       ─ a third, to which nothing happens ─ the invariants of left.rs, no memory twice or lost
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use mvm_model::failpoint::{Effect, Failpoint, Moment};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::Outcome;
use crate::common::world::told;
use crate::cycles;
use crate::host::{Fake, Host, POOL, succeeded};
use crate::left;
use crate::places::{Mode, Place, Trace, cases};
use crate::tries::note_passed;

/// What is interrupted, and by what it is settled.
struct Chain {
    name: &'static str,
    /// The status it begins with.
    begins: &'static str,
    /// The first command, and where something happens to it.
    first: &'static str,
    armed: String,
    /// Whether its VM dies too, with whoever watches it.
    vm_dies: bool,
    /// What is killed next. It does nothing but to settle.
    second: &'static str,
    /// What ends it, and the status it has then.
    third: &'static str,
    ends: &'static str,
}

pub fn settled_at_last(fake: &Fake) -> Outcome {
    cycles::begin(fake, true);
    let woken = "kill@mvm/after:mark-snapshot#1".to_owned();
    go_through(
        fake,
        &Chain {
            name: "a wake is adopted",
            begins: "sleeping",
            first: "wake",
            armed: woken.clone(),
            vm_dies: false,
            second: "wake",
            third: "wake",
            ends: "running",
        },
    );
    go_through(
        fake,
        &Chain {
            name: "a wake failed",
            begins: "sleeping",
            first: "wake",
            armed: woken,
            vm_dies: true,
            second: "warm",
            third: "wake",
            ends: "running",
        },
    );
    go_through(
        fake,
        &Chain {
            name: "a stop is carried through",
            begins: "sleeping",
            first: "stop",
            armed: "kill@mvm/before:end-process#1".into(),
            vm_dies: false,
            second: "stop",
            third: "stop",
            ends: "stopped",
        },
    );
    called_off(fake);
    Outcome::Passed
}

/// A sleep that breaks off when its snapshot is complete, and is killed on its way back.
fn called_off(fake: &Fake) {
    fake.bring(POOL, "running");
    let (_, trace) = fake.run_armed(&["instance", "sleep", &fake.only(POOL)], None);
    let named = Failpoint { effect: Effect::RenameFile, moment: Moment::After };
    let saved = trace.places.iter().skip_while(|it| it.failpoint.effect != Effect::SaveMemory);
    // First its manifest gets its name, then the snapshot.
    let exists = saved.filter(|it| it.failpoint == named).nth(1).expect("it gets its name");
    let breaks = format!("error@{exists}");
    let explored = explore(fake, "running", "sleep", &breaks);
    let after = explored.places.iter().skip_while(|it| *it != exists).skip(1).cloned();
    let places = kills(&after.collect::<Vec<_>>());
    assert!(places.len() > 3, "a sleep called off: {places:?}");
    for place in &places {
        fake.bring(POOL, "running");
        let boots = fake.witness.boots();
        let (first, trace) = armed(fake, "sleep", &format!("{breaks},{place}"));
        assert!(trace.was_hit, "{place}\n{first}");
        ends(fake, "wake", "running", &format!("a sleep called off, {place}\nfirst {first}"));
        assert_eq!(fake.witness.boots(), boots, "{place}: its memory was given up\n{first}");
    }
    println!("    a sleep called off: {} cases", places.len());
}

fn go_through(fake: &Fake, chain: &Chain) {
    let first = interrupt(fake, chain);
    let explored = armed(fake, chain.second, "").1;
    note_passed(&explored);
    let places = kills(&explored.places);
    assert!(places.len() > 3, "{}: {places:?}\nfirst {first}", chain.name);
    for place in &places {
        let first = interrupt(fake, chain);
        let boots = fake.witness.boots();
        let (second, trace) = armed(fake, chain.second, place);
        let what = format!("{}, {place}\nfirst {first}\nthen {second}", chain.name);
        assert!(trace.was_hit, "{what}");
        ends(fake, chain.third, chain.ends, &what);
        let may_boot = chain.vm_dies || chain.ends != "running";
        assert!(may_boot || fake.witness.boots() == boots, "its memory was given up: {what}");
    }
    println!("    {}: {} cases", chain.name, places.len());
}

/// Begins, and lets the first command be interrupted; what it said.
fn interrupt(fake: &Fake, chain: &Chain) -> String {
    fake.bring(POOL, chain.begins);
    let (first, trace) = armed(fake, chain.first, &chain.armed);
    assert!(trace.was_hit, "{} does not come to {}\n{first}", chain.first, chain.armed);
    if chain.vm_dies {
        kill_vm(fake);
    }
    first
}

/// Runs a command once more from where it began, to see where it comes to.
fn explore(fake: &Fake, begins: &str, verb: &str, point: &str) -> Trace {
    fake.bring(POOL, begins);
    let (_, trace) = armed(fake, verb, point);
    note_passed(&trace);
    trace
}

fn armed(fake: &Fake, verb: &str, point: &str) -> (String, Trace) {
    let armed = (!point.is_empty()).then_some(point);
    let (output, trace) = fake.run_armed(&["instance", verb, &fake.only(POOL)], armed);
    (told(&output), trace)
}

/// The last command: it succeeds, and afterwards everything is as it must be.
fn ends(fake: &Fake, verb: &str, status: &str, what: &str) {
    let args = ["instance", verb, &fake.only(POOL)];
    succeeded(&args, &fake.run(&args)).unwrap_or_else(|error| panic!("{what}\nat last {error}"));
    assert_eq!(fake.only_status(POOL), status, "{what}");
    let mut wrong = left::wrong(fake, &BTreeSet::new());
    wrong.extend(fake.witness.wrong());
    assert!(wrong.is_empty(), "{what}: {wrong:#?}");
}

/// The places of a command at which it makes a difference to be killed, but those it comes to only
/// if it is sooner than a supervisor that ends.
fn kills(places: &[Place]) -> Vec<String> {
    use Effect::{EndProcess, RemoveFile, RemoveJail};
    let all = cases(places).into_iter().filter(|case| case.mode == Mode::Kill);
    let is_sure = |place: &Place| {
        let effect = place.failpoint.effect;
        place.process == "mvm" && !matches!(effect, EndProcess | RemoveFile | RemoveJail)
    };
    all.filter(|case| is_sure(&case.place)).map(|case| case.to_string()).collect()
}

/// Kills the instance's VMM. First the process beside it, which would write that down.
fn kill_vm(host: &Host) {
    let id = host.only(POOL).rsplit('/').next().expect("an id").to_owned();
    let record = fs::read(host.path("run/vm").join(id).join("vmm.json")).expect("a VM's record");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    for of in [&record["supervisor"], &record["process"]] {
        let pid = of["pid"].as_i64().expect("a pid");
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("it takes a signal");
        host.eventually("it is gone", Duration::from_secs(20), || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
        });
    }
}
