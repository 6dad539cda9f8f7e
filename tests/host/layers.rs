//! Dependencies between our crates point one way: `guest-proto → guest, agent`;
//! `model → plan, vmm, host, api → agent → cli`. `plan`, `vmm` and `host` know neither each other nor
//! what is left out here.

use std::collections::BTreeMap;
use std::process::Command;

/// Each crate with those of ours it may use.
const MAY_USE: [(&str, &[&str]); 10] = [
    ("mvm-model", &[]),
    ("mvm-guest-proto", &[]),
    ("mvm-guest", &["mvm-guest-proto"]),
    ("mvm-fake", &["mvm-guest-proto"]),
    ("mvm-plan", &["mvm-model"]),
    ("mvm-vmm", &["mvm-model"]),
    ("mvm-host", &["mvm-model"]),
    ("mvm-api", &["mvm-model"]),
    ("mvm-agent", &["mvm-model", "mvm-api", "mvm-plan", "mvm-guest-proto", "mvm-vmm", "mvm-host"]),
    (
        "mvm-cli",
        &[
            "mvm-model",
            "mvm-api",
            "mvm-plan",
            "mvm-guest-proto",
            "mvm-vmm",
            "mvm-host",
            "mvm-agent",
        ],
    ),
];

/// What the small crates may use of others.
const BUDGETS: [(&str, &[&str]); 3] = [
    ("mvm-guest-proto", &["serde", "serde_json"]),
    ("mvm-guest", &["libc", "nix", "serde", "serde_json"]),
    ("mvm-plan", &["serde", "thiserror"]),
];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().expect("dependencies").iter();
            let normal = all.filter(|dependency| dependency["kind"].is_null());
            let names =
                normal.map(|dependency| dependency["name"].as_str().expect("a name").to_owned());
            (package["name"].as_str().expect("a name").to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn crates_use_only_what_is_below_them() {
    let found = dependencies();
    for (name, uses) in &found {
        let allowed = MAY_USE.iter().find(|(crate_name, _)| crate_name == name);
        let (_, allowed) =
            allowed.unwrap_or_else(|| panic!("{name} has no place in the house: add it here"));
        for used in uses.iter().filter(|used| used.starts_with("mvm-")) {
            assert!(allowed.contains(&used.as_str()), "{name} must not use {used}");
        }
    }
    assert_eq!(found.len(), MAY_USE.len(), "a crate of this list is gone");
}

#[test]
fn the_small_crates_stay_small() {
    let found = dependencies();
    for (name, budget) in BUDGETS {
        let strangers: Vec<_> = found[name]
            .iter()
            .filter(|used| !used.starts_with("mvm-") && !budget.contains(&used.as_str()))
            .collect();
        assert!(strangers.is_empty(), "{name} uses {strangers:?}");
    }
}
