//! Fleets written in Nix: the flake's `lib.fleet`, evaluated by a real `nix` without network and
//! without nixpkgs, in a store of its own.
//!
//! `tests/nixos/fleets/good/NAME.nix` evaluates to the Intent in `NAME.json` beside it;
//! `bad/NAME.nix` fails with a problem for every line of `NAME.txt`, and no other. `mvm check-config`
//! gives the same verdict on each. The flake is evaluated from a copy of the files it needs, so a
//! clean clone and a checkout with uncommitted files are the same to it.

#[path = "nix/evaluator.rs"]
mod evaluator;
#[path = "../common/skip.rs"]
mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use evaluator::{Nix, repository};
use mvm_host::image::Target;
use mvm_host::packages::Arch;
use mvm_model::image::{Profile, Role};
use skip::skip;

/// Runs a test's body, or says why it cannot run here.
fn with_nix(test: &str, body: impl FnOnce(&Nix)) {
    match Nix::find() {
        Ok(nix) => body(&nix),
        Err(reason) => skip(test, &reason),
    }
}

/// The fleets of one verdict, each a `.nix` file.
fn fleets(verdict: &str) -> Vec<PathBuf> {
    let folder = repository().join("tests/nixos/fleets").join(verdict);
    let entries = fs::read_dir(&folder).expect("fleets are there");
    let mut fleets: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "nix"))
        .collect();
    fleets.sort();
    assert!(!fleets.is_empty(), "no fleets in {}", folder.display());
    fleets
}

fn beside(fleet: &Path, extension: &str) -> String {
    let path = fleet.with_extension(extension);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_good_fleet_is_its_golden_intent() {
    with_nix("every_good_fleet_is_its_golden_intent", |nix| {
        for fleet in fleets("good") {
            let golden: serde_json::Value =
                serde_json::from_str(&beside(&fleet, "json")).expect("golden Intent is JSON");
            let intent = nix.fleet(&fleet).unwrap_or_else(|error| panic!("{fleet:?}: {error}"));
            assert_eq!(intent, golden, "{fleet:?} gives {intent:#}");
        }
    });
}

#[test]
fn every_bad_fleet_names_the_object_and_the_fix() {
    with_nix("every_bad_fleet_names_the_object_and_the_fix", |nix| {
        for fleet in fleets("bad") {
            let error = nix.fleet(&fleet).expect_err(&format!("{fleet:?} was accepted"));
            let text = beside(&fleet, "txt");
            let unsaid: Vec<&str> = text.lines().filter(|line| !error.contains(line)).collect();
            assert!(unsaid.is_empty(), "{fleet:?} does not say {unsaid:#?}:\n{error}");
            let told = error.lines().filter(|line| line.trim_start().starts_with("- ")).count();
            assert_eq!(told, text.lines().count(), "{fleet:?} says something else too:\n{error}");
        }
    });
}

/// What `mvm check-config` says of a document: nothing, or its complaints.
fn check(document: &str) -> Result<(), String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), document).expect("a document is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvm"));
    command.arg("check-config").arg(file.path()).stdin(Stdio::null());
    let output = command.output().expect("mvm runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(2) => Err(told),
        other => panic!("mvm check-config ended with {other:?}: {told}"),
    }
}

#[test]
fn mvm_accepts_the_intent_of_every_good_fleet() {
    for fleet in fleets("good") {
        assert_eq!(check(&beside(&fleet, "json")), Ok(()), "{fleet:?}");
    }
}

#[test]
fn mvm_refuses_the_document_of_every_bad_fleet_too() {
    with_nix("mvm_refuses_the_document_of_every_bad_fleet_too", |nix| {
        for fleet in fleets("bad") {
            let document = nix.unchecked(&fleet).unwrap_or_else(|e| panic!("{fleet:?}: {e}"));
            let told = check(&document.to_string()).expect_err(&format!("{fleet:?} is good"));
            assert!(told.contains("error: "), "{fleet:?}: {told}");
        }
    });
}

/// A profile or role added to mvm and not to Nix would be refused there.
#[test]
fn nix_offers_the_profiles_and_roles_mvm_has() {
    let offers = |fleet: &str, error: String| {
        let offered = beside(&repository().join("tests/nixos/fleets/bad").join(fleet), "txt");
        let known = error.split_once("(one of: ").expect("a list of known words").1;
        assert!(offered.contains(known.trim_end_matches(')')), "{fleet} lacks some of {known}");
    };
    let profile = "nodejs".parse::<Profile>().expect_err("no profile");
    offers("profile-unknown.nix", profile.to_string());
    let role = "wroker".parse::<Role>().expect_err("no role");
    offers("role-unknown.nix", role.to_string());
}

#[test]
fn the_flake_gives_its_outputs_without_nixpkgs() {
    with_nix("the_flake_gives_its_outputs_without_nixpkgs", |nix| {
        let packages = nix.flake("packages.x86_64-linux", "builtins.attrNames");
        let packages = packages.expect("the flake's packages have names");
        let names: Vec<&str> =
            packages.as_array().expect("a list").iter().filter_map(|name| name.as_str()).collect();
        for name in ["default", "mvm", "mvm-guest"] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        every_image_has_its_attribute(&names);
        let example = nix.flake("lib.exampleFleet", "fleet: fleet");
        let golden = beside(&repository().join("tests/nixos/fleets/good/example.nix"), "json");
        assert_eq!(example, Ok(serde_json::from_str(&golden).expect("golden Intent is JSON")));
    });
}

/// What mvm would ask the flake for is what the flake has; OpenClaw is the embedded builder's.
fn every_image_has_its_attribute(names: &[&str]) {
    let roles = [Role::Gateway, Role::Builder, Role::Worker, Role::Capability("pg".into())];
    for profile in Profile::ALL.into_iter().filter(|profile| *profile != Profile::OpenClaw) {
        for role in roles.clone() {
            let flake = ".".parse().expect("a reference");
            let target = Target { flake, profile: profile.into(), role, arch: Arch::X86_64 };
            let wanted = target.attributes().map(|name| name.replace("packages.x86_64-linux.", ""));
            let has = wanted.iter().any(|name| names.contains(&name.as_str()));
            assert!(has, "none of {wanted:?} is in {names:?}");
        }
    }
}

#[test]
fn another_flake_declares_its_fleet_with_ours_as_input() {
    with_nix("another_flake_declares_its_fleet_with_ours_as_input", |nix| {
        let intent = nix.as_input("tests/nixos/fleets/good/example.nix");
        let golden = beside(&repository().join("tests/nixos/fleets/good/example.nix"), "json");
        assert_eq!(intent, Ok(serde_json::from_str(&golden).expect("golden Intent is JSON")));
    });
}
