//! What a program sees: with `--json` stdout is the result alone, stderr one JSON failure or
//! nothing, and every figure of the disk means the same wherever it is shown.

use std::process::Output;

use serde_json::{Value, json};

use super::{json as answer, ok, run};
use crate::common::world::told;
use crate::common::{Outcome, World};

/// Runs a command with `--json` that must succeed and say nothing but its result.
fn result(world: &World, args: &[&str]) -> Value {
    let output = run(world, &[args, &["--json"]].concat());
    assert!(output.status.success(), "mvm {}\n{}", args.join(" "), told(&output));
    assert!(output.stderr.is_empty(), "mvm {}\n{}", args.join(" "), told(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The failure of a command with `--json`, which says nothing else.
fn failure(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", told(output));
    assert!(output.stdout.is_empty(), "{}", told(output));
    let error: Value = serde_json::from_slice(&output.stderr).expect("one JSON failure");
    for field in ["kind", "message", "object", "hint"] {
        assert!(error.get(field).is_some(), "{field} is missing in {error}");
    }
    error
}

pub fn a_program_gets_json_and_nothing_else(world: &World) -> Outcome {
    assert_eq!(result(world, &["tenant", "create", "acme"])["tenant_id"], "acme");
    let pool = ["pool", "create", "acme/workers", "--profile", "minimal", "--mem", "128"];
    assert_eq!(result(world, &pool)["pool_id"], "workers");
    let built = result(world, &["pool", "build", "acme/workers"]);
    assert!(built["current"].is_string(), "{built}");
    let scaled = result(world, &["pool", "scale", "acme/workers", "--running", "1"]);
    assert_eq!(scaled["desired_counts"]["running"], 1);
    let created = scaled["created"].as_array().expect("paths");
    assert!(
        created.len() == 1
            && created[0].as_str().is_some_and(|path| path.starts_with("acme/workers/i-"))
    );
    let alice = result(world, &["instance", "create", "acme/workers/alice"]);
    assert!(alice["instance_id"].as_str().is_some_and(|id| id.starts_with("i-")), "{alice}");
    let images = result(world, &["image", "build", "minimal/worker"]);
    assert_eq!(images[0]["digest"], built["current"]);
    assert_eq!(result(world, &["stop"]), Value::Null);
    assert_eq!(result(world, &["dev", "--rm"]), Value::Null);
    assert_eq!(result(world, &["tenant", "adopt", "acme"])["now"], "local");
    for (noun, path) in
        [("instance", "acme/workers/alice"), ("pool", "acme/workers"), ("tenant", "acme")]
    {
        let without = run(world, &[noun, "destroy", path, "--json"]);
        assert_eq!(failure(&without, 4)["kind"], "refused");
        let gone = result(world, &[noun, "destroy", path, "--force"]);
        assert_eq!(gone, json!({ "destroyed": path }));
    }
    failures_are_json_too(world);
    Outcome::Passed
}

fn failures_are_json_too(world: &World) {
    let missing = failure(&run(world, &["pool", "build", "nope/workers", "--json"]), 3);
    assert_eq!((&missing["kind"], &missing["object"]), (&json!("not_found"), &json!("nope")));
    let template = failure(&run(world, &["new", "foo", "my-app", "--json"]), 3);
    assert!(template["message"].as_str().is_some_and(|text| text.contains("foo")), "{template}");
    for args in [
        &["tenant", "list", "--jsno", "--json"][..],
        &["tenant", "create", "--json"],
        &["instance", "start", "not-a-path", "--json"],
        &["instance", "shell", "a/b/c", "--json"],
        &["agent", "certs", "--json"],
    ] {
        let usage = failure(&run(world, args), 2);
        assert_eq!(usage["kind"], "invalid", "{args:?}: {usage}");
        assert!(!usage.to_string().contains("-- --json"), "{args:?}: {usage}");
    }
    // For a person it stays as it was, and an object is named once.
    let said = told(&run(world, &["tenant", "info", "nope"]));
    assert!(said.contains("error: there is no tenant nope"), "{said}");
    let said = told(&run(world, &["new", "foo", "my-app"]));
    assert!(!said.contains("deploying"), "{said}");
}

pub fn a_quota_is_told_with_its_numbers(world: &World) -> Outcome {
    ok(world, &["tenant", "create", "acme", "--max-running", "1", "--max-instances-per-pool", "3"]);
    for pool in ["acme/workers", "acme/others"] {
        ok(world, &["pool", "create", pool, "--profile", "minimal", "--mem", "128"]);
    }
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let output = run(world, args);
        let said = told(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{word} is missing in\n{said}"));
    };
    let scale = |pool, count| ["pool", "scale", pool, "--running", count];
    let raise = "mvm tenant update acme --max-running N";
    refused(
        &scale("acme/workers", "2"),
        4,
        &["ask for 2", "pools for 0", "max_running of 1", raise],
    );
    ok(world, &scale("acme/others", "1"));
    refused(&scale("acme/workers", "1"), 4, &["ask for 1", "pools for 1", "max_running of 1"]);
    ok(world, &["instance", "create", "acme/workers/alice"]);
    let sleeping = ["pool", "scale", "acme/workers", "--sleeping", "3"];
    refused(&sleeping, 4, &["ask for 3", "1 named", "max_instances_per_pool of 3"]);
    refused(
        &["pool", "update", "acme/others", "--cpus", "99"],
        2,
        &["vCPU count 99 is outside 1 to 32"],
    );
    let cpus = ["pool", "update", "acme/others", "--cpus", "32"];
    refused(&cpus, 4, &["ask for 32 vCPUs, quota max_vcpus is 16 vCPUs", "--max-vcpus N"]);
    super::destroy(world, "acme");
    Outcome::Passed
}

pub fn a_word_about_the_disk_means_one_thing(world: &World) -> Outcome {
    ok(world, &["tenant", "create", "acme"]);
    let pool = ["pool", "create", "acme/workers", "--profile", "minimal", "--mem", "128"];
    ok(world, &[&pool[..], &["--data-disk", "600"]].concat());
    ok(world, &["pool", "build", "acme/workers"]);
    ok(world, &["pool", "scale", "acme/workers", "--running", "1"]);
    let disk = answer(world, &["node", "disk"]);
    let images = disk["areas"].as_array().expect("areas").iter();
    let images: Vec<_> = images.filter(|area| area["what"] == "images").collect();
    assert_eq!(answer(world, &["status"])["image_bytes"], images[0]["bytes"]);
    let ours = &disk["tenants"][0];
    let parts = ["data_bytes", "snapshot_bytes", "other_bytes"];
    let sum: u64 = parts.iter().filter_map(|part| ours[*part].as_u64()).sum();
    let tenant = answer(world, &["tenant", "info", "acme"]);
    assert_eq!(tenant["disk_bytes"], sum, "{disk}");
    assert!(sum < 4 << 20, "images are no tenant's: {disk}");
    assert_eq!(ours["claim"], tenant["disk_claim"]);
    assert_eq!(
        answer(world, &["pool", "info", "acme/workers"])["disk_claim"],
        tenant["disk_claim"]
    );
    for args in [&["tenant", "list"][..], &["tenant", "info", "acme"], &["node", "disk"]] {
        assert!(ok(world, args).contains("600.0 MiB"), "{args:?}");
    }
    super::destroy(world, "acme");
    Outcome::Passed
}
