//! Fleets written in Nix: the flake's `lib.fleet`, evaluated by a real `nix` without network and
//! without nixpkgs, in a store of its own.
//!
//! `tests/nixos/fleets/good/NAME.nix` evaluates to the Intent in `NAME.json` beside it;
//! `bad/NAME.nix` fails with every line of `NAME.txt`. The flake is evaluated from a copy of the
//! files it needs, so a clean clone and a checkout with uncommitted files give the same verdict.

#[path = "nix/evaluator.rs"]
mod evaluator;

use std::fs;
use std::path::{Path, PathBuf};

use evaluator::{Nix, repository};

/// Runs a test's body, or says why it cannot run here.
fn with_nix(test: &str, body: impl FnOnce(&Nix)) {
    match Nix::find() {
        Ok(nix) => body(&nix),
        Err(reason) => skip(test, &reason),
    }
}

fn skip(test: &str, reason: &str) {
    use std::io::Write as _;
    println!("SKIP: {reason}");
    let Some(path) = std::env::var_os("MVM_TEST_SKIPS") else { return };
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| writeln!(file, "{test}: {reason}")).expect("skips are recorded");
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
            for line in beside(&fleet, "txt").lines() {
                assert!(error.contains(line), "{fleet:?} does not say {line:?}:\n{error}");
            }
        }
    });
}

#[test]
fn the_flake_gives_its_outputs_without_nixpkgs() {
    with_nix("the_flake_gives_its_outputs_without_nixpkgs", |nix| {
        let packages = nix.flake("packages.x86_64-linux", "builtins.attrNames");
        assert_eq!(packages, Ok(serde_json::json!(["default", "mvm", "mvm-guest"])));
        let example = nix.flake("lib.exampleFleet", "fleet: fleet");
        let golden = beside(&repository().join("tests/nixos/fleets/good/example.nix"), "json");
        assert_eq!(example, Ok(serde_json::from_str(&golden).expect("golden Intent is JSON")));
    });
}

#[test]
fn another_flake_declares_its_fleet_with_ours_as_input() {
    with_nix("another_flake_declares_its_fleet_with_ours_as_input", |nix| {
        let intent = nix.as_input("tests/nixos/fleets/good/example.nix");
        let golden = beside(&repository().join("tests/nixos/fleets/good/example.nix"), "json");
        assert_eq!(intent, Ok(serde_json::from_str(&golden).expect("golden Intent is JSON")));
    });
}
