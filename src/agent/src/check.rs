//! Checking a declaration without applying it: `mvm check-config`, and the agent before it starts.
//!
//! The same readers and rules as everywhere else, and nothing but the file: no agent, no records,
//! no root.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use mvm_model::desired::{self, MAX_DOCUMENT, Problem, Reader, TenantSpec, Unreadable};
use mvm_model::intent;
use serde::Serialize;

use crate::error::{Error, Kind, Result};

/// What a file declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Declares {
    /// A whole fleet: what Nix's `lib.fleet` gives.
    Intent,
    /// One node.
    DesiredState,
}

/// What was found in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What it declares.
    pub declares: Declares,
    /// Its good tenants.
    pub tenants: usize,
    /// Their good pools.
    pub pools: usize,
    /// Everything wrong with it; it is good when there is nothing.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether it can be applied.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// The same as a failure, for what cannot go on with a bad file.
    ///
    /// # Errors
    /// [`Kind::Invalid`] with every problem, on one line.
    pub fn verdict(&self, path: &Path) -> Result<()> {
        let told = |problem: &Problem| format!("{problem} ({})", problem.hint);
        let Some(first) = self.problems.first() else { return Ok(()) };
        let all: Vec<String> = self.problems.iter().map(told).collect();
        Err(Error::new(Kind::Invalid, path.display(), all.join("; ")).hint(first.hint.clone()))
    }
}

/// Reads an Intent or a DesiredState as a person's command would, and tells what is wrong.
///
/// # Errors
/// When the file cannot be read, or says nothing usable.
pub fn check_config(path: &Path) -> Result<Report> {
    let text = read(path)?;
    check_text(&text).map_err(|error| {
        Error::new(Kind::Invalid, path.display(), error.to_string()).hint(error.hint())
    })
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let most = MAX_DOCUMENT as u64 + 1;
    let file = File::open(path);
    file.and_then(|file| file.take(most).read_to_string(&mut text)).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Failed,
        };
        Error::new(kind, path.display(), "cannot read the file").because(error)
    })?;
    Ok(text)
}

fn check_text(text: &str) -> Result<Report, Unreadable> {
    let report = |declares, tenants: &[TenantSpec], problems| Report {
        declares,
        tenants: tenants.len(),
        pools: tenants.iter().map(|tenant| tenant.pools.len()).sum(),
        problems,
    };
    if !is_of_a_fleet(text) {
        let document = desired::read(text, Reader::Strict)?;
        let mut problems = document.problems;
        problems.extend(desired::check(&document.state));
        return Ok(report(Declares::DesiredState, &document.state.tenants, problems));
    }
    let document = intent::read(text, Reader::Strict)?;
    let mut problems = document.problems;
    problems.extend(document.intent.check());
    Ok(report(Declares::Intent, &document.intent.tenants, problems))
}

/// Whether it has what only an Intent has: its hosts, as Nix writes them.
fn is_of_a_fleet(text: &str) -> bool {
    let value = serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    value.get("hosts").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: &str = r#"{"schema_version":1,"hosts":[{"host_id":"atlas"}],"tenants":[
        {"tenant_id":"acme","network":{"tenant_net_id":7,"ipv4_subnet":"10.240.7.0/24"},
         "pools":[{"pool_id":"workers","image":{"kind":"embedded","profile":"minimal"},
                   "instance_resources":{"vcpus":1,"mem_mib":512}}]}]}"#;

    #[test]
    fn a_good_fleet_is_counted() {
        let report = check_text(FLEET).unwrap();
        assert_eq!((report.declares, report.tenants, report.pools), (Declares::Intent, 1, 1));
        assert!(report.is_good() && report.verdict(Path::new("f")).is_ok());
    }

    #[test]
    fn every_problem_is_told_with_its_object() {
        let bad = FLEET.replace("\"vcpus\":1", "\"vcpus\":99,\"gpus\":1");
        let report = check_text(&bad).unwrap();
        assert!(!report.is_good());
        let error = report.verdict(Path::new("fleet.json")).unwrap_err();
        assert_eq!((error.kind, error.object.as_str()), (Kind::Invalid, "fleet.json"));
        assert!(error.message.contains("gpus"), "{error}");
    }

    #[test]
    fn a_desired_state_is_told_from_a_fleet() {
        let short = FLEET.replace(r#""hosts":[{"host_id":"atlas"}],"#, "");
        let prunes = r#"{"schema_version":1,"prune_unknown_pools":true,"tenants":[]}"#.to_owned();
        for state in [short, prunes] {
            assert_eq!(check_text(&state).unwrap().declares, Declares::DesiredState);
        }
        assert!(matches!(check_text(""), Err(Unreadable::Empty)));
        let error = check_config(Path::new("/nonexistent/x")).unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
    }
}
