//! An agent that is killed with its VMs running, and started again: how long until it has all of
//! them, none of them another one.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mvm_agent::Service;
use mvm_agent::error::{Error, Kind, Result};
use serde_json::Value;

use super::fleet::millis;

/// Longer than any start of an agent takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between questions.
const LOOK: Duration = Duration::from_millis(5);

/// From the start of an agent until it answered that every instance runs in the process it ran in,
/// and its loop looked at all of them: milliseconds, round by round. It is killed after each.
///
/// # Errors
/// When one is another process, or the agent does not come.
pub(super) fn measure(service: &Service, rounds: u32) -> Result<Vec<f64>> {
    let before = running(&service.records);
    let mut times = Vec::new();
    for round in 0..=rounds {
        let started = Instant::now();
        let mut agent = Agent::start(service)?;
        agent.wait_for_its_round(service, started)?;
        let rows = ask(service, &["instance", "list"])?;
        let took = millis(started.elapsed());
        let seen: BTreeMap<_, _> = rows.as_array().into_iter().flatten().filter_map(row).collect();
        if seen != before {
            let text =
                format!("{} of {} instances run as before", same(&seen, &before), before.len());
            return Err(failed(text));
        }
        // The first one fills caches.
        if round > 0 {
            times.push(took);
        }
    }
    Ok(times)
}

fn running(records: &mvm_agent::records::Records) -> BTreeMap<String, u64> {
    let all = records.all_instances().records.into_iter();
    let pid = |record: mvm_model::record::InstanceRecord| {
        let pid = u64::from(record.state.vm()?.process.pid);
        Some((record.instance_id.to_string(), pid))
    };
    all.filter_map(pid).collect()
}

fn row(row: &Value) -> Option<(String, u64)> {
    let runs = row["status"] == "running";
    runs.then(|| Some((row["instance_id"].as_str()?.to_owned(), row["pid"].as_u64()?)))?
}

fn same(seen: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> usize {
    before.iter().filter(|(id, pid)| seen.get(*id) == Some(pid)).count()
}

fn failed(text: impl Into<String>) -> Error {
    Error::new(Kind::Failed, "mvm bench", text)
}

fn command(service: &Service, args: &[&str]) -> Command {
    let mut command = Command::new(&service.exe);
    command.args(args).stdin(Stdio::null()).stderr(Stdio::null());
    let dirs = &service.dirs;
    command.env("MVM_STATE_DIR", &dirs.state).env("MVM_RUN_DIR", &dirs.run);
    command.env("MVM_CONFIG_DIR", &dirs.config).env("MVM_CACHE_DIR", &dirs.cache);
    command
}

fn ask(service: &Service, args: &[&str]) -> Result<Value> {
    let output = command(service, args).arg("--json").output();
    let output = output.map_err(|error| failed("cannot ask the agent").because(error))?;
    serde_json::from_slice(&output.stdout).map_err(|error| failed("no answer").because(error))
}

/// An agent, killed when this is dropped.
struct Agent(Child);

impl Agent {
    fn start(service: &Service) -> Result<Self> {
        let child = command(service, &["agent", "serve"]).stdout(Stdio::null()).spawn();
        child.map(Self).map_err(|error| failed("cannot start the agent").because(error))
    }

    /// Until this very agent's loop has looked at everything.
    fn wait_for_its_round(&mut self, service: &Service, started: Instant) -> Result<()> {
        loop {
            let status = ask(service, &["agent", "status"]).unwrap_or_default();
            if status["pid"] == self.0.id() && status["last_round"].is_u64() {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(failed("the agent did not finish a round"));
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
