//! Goes through every place of every command of a cycle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Output;

use mvm_model::failpoint::Effect;

use crate::common::world::told;
use crate::host::{Fake, Host, succeeded};
use crate::left;
use crate::places::{Case, Mode, Trace, cases};

/// So many failures say enough.
const ENOUGH: usize = 12;
/// How often a place is gone for that a command does not come to each time.
const TIMES: u32 = 3;

/// When the guest may have been booted anew, and so its memory lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    /// Never.
    Never,
    /// Only where its guest, awake already, does not answer.
    UnlessItAnswers,
    /// It is what the command does.
    Always,
}

/// What is tried at a command's places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tries {
    /// Errors, panics and kills.
    All,
    /// Kills: its errors and panics are those of another step.
    Kills,
}

/// A command of a cycle.
pub struct Step {
    pub name: &'static str,
    /// Brings the host to where it begins.
    pub begin: fn(&Host),
    pub command: fn(&Host) -> Vec<String>,
    pub tries: Tries,
    /// What comes next when it is not the same.
    pub again: Option<fn(&Host) -> Vec<String>>,
    /// Whether what that is for is so.
    pub is_done: fn(&Host) -> bool,
    /// Words of a refusal that says that it is done already.
    pub already: &'static [&'static str],
    pub boots: Boots,
}

/// Goes through a cycle until every place of each command was tried.
pub fn cycle(fake: &Fake, steps: &[Step]) {
    let mut left: Vec<Option<VecDeque<Case>>> = steps.iter().map(|_| None).collect();
    let mut known = BTreeSet::new();
    let (mut tried, mut missed, mut failures) = (0, Vec::new(), Vec::new());
    let mut again = BTreeMap::new();
    while left.iter().any(|cases| cases.as_ref().is_none_or(|cases| !cases.is_empty())) {
        for (step, left) in steps.iter().zip(&mut left) {
            match left {
                None => *left = Some(explore(fake, step, &known).into()),
                Some(cases) => {
                    let Some(case) = cases.pop_front() else { continue };
                    match attempt(fake, step, &case, &mut known) {
                        Ok(Tried::There) => tried += 1,
                        Ok(Tried::Missed) => {
                            let so_often: &mut u32 =
                                again.entry(format!("{} {case}", step.name)).or_default();
                            *so_often += 1;
                            match *so_often < TIMES {
                                true => cases.push_back(case),
                                false => missed.push(case.to_string()),
                            }
                        }
                        Err(problem) => {
                            eprintln!("{} {case}: {problem}\n", step.name);
                            failures.push(format!("{} {case}", step.name));
                        }
                    }
                }
            }
            assert!(failures.len() < ENOUGH, "{failures:#?}");
        }
    }
    let names: Vec<_> = steps.iter().map(|step| step.name).collect();
    println!("    {}: {tried} cases, not come to: {missed:?}", names.join(", "));
    assert!(failures.is_empty(), "{failures:#?}");
    // On a quick host a VM that was told to end is gone before anybody has to end it. That this
    // too is come to somewhere is looked at apart.
    missed.retain(|case| !case.contains(Effect::EndProcess.word()));
    assert!(missed.len() * 10 <= tried, "not come to: {missed:#?}");
}

/// Runs a command once to see what it comes to, and once more: the second time changes nothing.
fn explore(host: &Host, step: &Step, known: &BTreeSet<String>) -> Vec<Case> {
    (step.begin)(host);
    let args = (step.command)(host);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (output, trace) = host.run_armed(&args, None);
    succeeded(&args, &output).expect("a command that nothing happens to");
    note_passed(&trace);
    let wrong = left::wrong(host, known);
    assert!(wrong.is_empty(), "{}: {wrong:#?}", step.name);
    if step.again.is_none() {
        let once = picture(host);
        ended(step, &args, &host.run(&args)).expect("the same command again");
        assert!((step.is_done)(host), "{} is not done", step.name);
        let twice = picture(host);
        let differs: Vec<_> = once.symmetric_difference(&twice).collect();
        assert!(differs.is_empty(), "{} twice is not the same as once: {differs:#?}", step.name);
    }
    let all = cases(&trace.places).into_iter();
    all.filter(|case| step.tries == Tries::All || case.mode == Mode::Kill).collect()
}

/// Whether a command came to a place.
enum Tried {
    There,
    /// This time it took another way: a process ended before it was looked at.
    Missed,
}

fn attempt(
    fake: &Fake,
    step: &Step,
    case: &Case,
    known: &mut BTreeSet<String>,
) -> Result<Tried, String> {
    (step.begin)(fake);
    let boots = fake.witness.boots();
    let args = (step.command)(fake);
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (first, trace) = fake.run_armed(&words, Some(&case.to_string()));
    note_passed(&trace);
    let then = || told(&first);
    if !trace.was_hit {
        return match first.status.success() {
            true => Ok(Tried::Missed),
            false => Err(format!("it fails and does not come there\n{}", then())),
        };
    }
    ended_so(case, &first).map_err(|problem| format!("{problem}\n{}", then()))?;
    if case.mode == Mode::Error && !removes(case) && !is_on_its_way(fake) {
        // It said what became of it, so that must be true.
        let mut wrong = left::wrong(fake, known);
        wrong.retain(|it| !left::may_stay(it));
        none(wrong, known).map_err(|it| format!("at once: {it}\n{}", then()))?;
    }
    let args = step.again.map_or(args, |again| again(fake));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let second = fake.run(&args);
    let then = || format!("first {}\nthen {}", told(&first), told(&second));
    ended(step, &args, &second).map_err(|problem| format!("{problem}\nfirst {}", told(&first)))?;
    if !(step.is_done)(fake) {
        return Err(format!("it is not done\n{}", then()));
    }
    none(left::wrong(fake, known), known).map_err(|it| format!("{it}\n{}", then()))?;
    none(fake.witness.wrong(), known).map_err(|it| format!("{it}\n{}", then()))?;
    match may_boot(step, case) || fake.witness.boots() == boots {
        true => Ok(Tried::There),
        false => Err(format!("its memory was given up\n{}", then())),
    }
}

/// What an earlier failure left is said once.
fn none(wrong: Vec<String>, known: &mut BTreeSet<String>) -> Result<(), String> {
    let new: Vec<_> = wrong.into_iter().filter(|it| known.insert(it.clone())).collect();
    if new.is_empty() { Ok(()) } else { Err(new.join("\n")) }
}

/// A process that is killed or panics ends so; an error may be one that the command can bear.
fn ended_so(case: &Case, output: &Output) -> Result<(), String> {
    use std::os::unix::process::ExitStatusExt;
    let status = output.status;
    let is_so = match (case.place.process.as_str(), case.mode) {
        ("mvm", Mode::Kill) => status.signal() == Some(9),
        // One of a task is for whoever waits for the task.
        ("mvm", Mode::Panic) => {
            status.code() == Some(101) || told(output).contains("tokio-rt-worker")
        }
        _ => status.signal().is_none() && status.code() != Some(101),
    };
    if is_so { Ok(()) } else { Err("it ended otherwise".into()) }
}

fn ended(step: &Step, args: &[&str], output: &Output) -> Result<(), String> {
    let words = String::from_utf8_lossy(&output.stderr);
    match step.already.iter().any(|already| words.contains(already)) {
        true => Ok(()),
        false => succeeded(args, output),
    }
}

fn may_boot(step: &Step, case: &Case) -> bool {
    match step.boots {
        Boots::Never => false,
        // Whoever is killed there leaves a VM that goes on.
        Boots::UnlessItAnswers => {
            case.mode == Mode::Error && case.place.failpoint.effect == Effect::WakeGuest
        }
        Boots::Always => true,
    }
}

/// What could not be removed is still there.
fn removes(case: &Case) -> bool {
    use Effect::{RemoveDir, RemoveFile, RemoveJail};
    matches!(case.place.failpoint.effect, RemoveDir | RemoveFile | RemoveJail)
}

/// Whether something says that it is not at its end.
fn is_on_its_way(host: &Host) -> bool {
    let mut all = Vec::new();
    left::walk(&host.path("state/tenants"), &mut all);
    let records = all.iter().filter(|path| path.extension().is_some_and(|it| it == "json"));
    records.filter_map(|path| fs::read_to_string(path).ok()).any(|text| {
        let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        !record["transition"].is_null() || record["destroying"] == true
    })
}

/// What the host keeps, without times: names of files, and records.
fn picture(host: &Host) -> BTreeSet<String> {
    let mut all = Vec::new();
    left::walk(&host.path("state/tenants"), &mut all);
    left::walk(&host.path("run/vm"), &mut all);
    all.iter().map(|path| line(path)).collect()
}

fn line(path: &Path) -> String {
    let is_record = path.extension().is_some_and(|it| it == "json");
    let text = match is_record {
        true => fs::read_to_string(path).unwrap_or_default(),
        false => String::new(),
    };
    let mut record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    if let Some(fields) = record.as_object_mut() {
        for when in ["since", "manual", "failure", "history"] {
            fields.remove(when);
        }
    }
    format!("{} {record}", path.display())
}

/// For the whole run: which failpoints were passed.
pub fn note_passed(trace: &Trace) {
    let Some(path) = std::env::var_os(crate::PASSED) else { return };
    let passed: BTreeSet<String> = trace.failpoints().map(|it| it.to_string()).collect();
    let text: String = passed.iter().map(|it| format!("{it}\n")).collect();
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("what was passed is noted");
}
