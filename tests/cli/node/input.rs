//! Bad input: every refusal names the object, the cause and what to do, with a code that says
//! what sort it is, and nothing is lost by it.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::{json as answer, ok, run};
use crate::common::world::{spawn, told, wait};
use crate::common::{Outcome, World};

/// A command that must be refused with this code, naming the object, the cause and, in a hint,
/// what to do.
fn refused(output: &Output, code: i32, object: &str, cause: &str, hint: &str) {
    let said = told(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let (error, advice) = stderr.split_once("hint:").unwrap_or((&stderr, ""));
    assert!(error.contains(object), "{object:?} is not named\n{said}");
    assert!(error.contains(cause), "{cause:?} is not said\n{said}");
    assert!(advice.contains(hint), "{hint:?} is not advised\n{said}");
}

fn refuse(world: &World, args: &[&str], code: i32, object: &str, cause: &str, hint: &str) {
    refused(&run(world, args), code, object, cause, hint);
}

/// Tenant `acme` on the smallest subnet with one instance that was never started; its path.
fn prepare(world: &World) -> String {
    ok(world, &["tenant", "create", "acme", "--net-id", "7", "--subnet", "10.240.7.0/28"]);
    ok(world, &["pool", "create", "acme/workers", "--profile", "minimal", "--mem", "128"]);
    ok(world, &["pool", "scale", "acme/workers", "--running", "1"]);
    world.members("acme/workers").remove(0)
}

/// Everything that is recorded of tenants, pools and instances.
fn recorded(world: &World) -> String {
    ok(world, &["agent", "desired"]) + &answer(world, &["instance", "list"]).to_string()
}

pub fn bad_documents_change_nothing(world: &World) -> Outcome {
    prepare(world);
    let (file, before) = (world.path("desired.json"), recorded(world));
    let name = file.to_str().expect("a path");
    let whole = ok(world, &["agent", "desired"]);
    let colour = whole.replacen("\"quotas\"", "\"colour\": \"red\", \"quotas\"", 1);
    let newer = whole.replacen("\"schema_version\": 1", "\"schema_version\": 9", 1);
    let empty = r#"{"schema_version": 1, "tenants": [], "prune_unknown_tenants": true}"#;
    let stranger = whole.replacen("\"tenants\"", "\"node_id\": \"0123\", \"tenants\"", 1);
    for (text, code, object, cause, hint) in [
        (colour.as_str(), 2, "tenants[0] (acme)", "colour: is not a known field", "known here"),
        (&newer, 2, name, "schema version 9", "same version"),
        ("", 2, name, "is empty", "write the file again"),
        (&whole[..whole.len() / 2], 2, name, "ends in the middle", "write the file again"),
        ("schema_version: 1", 2, name, "is not JSON", "docs/agent.md"),
        (empty, 2, name, "everything", "destroy"),
        (&stranger, 4, "node_id", "for node 0123", "take node_id away"),
    ] {
        fs::write(&file, text).expect("written");
        refuse(world, &["agent", "reconcile", "--desired", name], code, object, cause, hint);
    }
    fs::remove_file(&file).expect("removed");
    let missing = ["agent", "reconcile", "--desired", name];
    refuse(world, &missing, 3, name, "No such file", "mvm agent desired --file");
    assert_eq!(recorded(world), before);
    super::destroy(world, "acme");
    Outcome::Passed
}

pub fn what_cannot_be_is_refused(world: &World) -> Outcome {
    let instance = prepare(world);
    let before = recorded(world);
    let (one, pool) = (instance.as_str(), "acme/workers");
    let cases: [(&[&str], i32, &str, &str, &str); 12] = [
        (&["pool", "scale", pool, "--running", "99"], 4, pool, "max_instances", "tenant update"),
        (&["pool", "scale", pool, "--running", "9"], 4, pool, "max_running of 8", "tenant update"),
        (
            &["pool", "scale", pool, "--sleeping", "12"],
            4,
            "acme",
            "13 instances, 10.240.7.0/28 has room for 12",
            "lower the counts",
        ),
        (&["instance", "destroy", one], 4, one, "data drive", "--force"),
        (&["pool", "destroy", pool], 4, pool, "all its instances", "--force"),
        (&["tenant", "destroy", "acme"], 4, "acme", "all its pools", "--force"),
        (&["instance", "sleep", one], 4, one, "is created", "start it first"),
        (&["instance", "warm", one], 4, one, "is created", "start or wake it first"),
        (&["instance", "wake", one], 4, one, "is created", "start it instead"),
        (&["instance", "exec", one, "--", "true"], 4, one, "not running", "mvm instance start"),
        (&["instance", "start", "acme/workers/nobody"], 3, "nobody", "no instance", "list"),
        (&["tenant", "info", "nobody"], 3, "nobody", "no tenant", "mvm tenant list"),
    ];
    for (args, code, object, cause, hint) in cases {
        refuse(world, args, code, object, cause, hint);
    }
    for dir in [".", "./nowhere"] {
        let mut command = world.command(&["pool", "create", "acme/own", "--flake", dir]);
        fs::create_dir_all(world.path("no-flake")).expect("a directory");
        let output = wait(spawn_in(&mut command, &world.path("no-flake")), &["pool", "create"]);
        refused(&output, 2, "acme/own", "no flake", "directory with the flake.nix");
    }
    assert_eq!(recorded(world), before);
    super::destroy(world, "acme");
    Outcome::Passed
}

fn spawn_in(command: &mut std::process::Command, dir: &Path) -> std::process::Child {
    command.current_dir(dir);
    let mut moved = std::process::Command::new(command.get_program());
    moved.args(command.get_args()).env_clear().current_dir(dir);
    moved.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    spawn(moved)
}

/// What Nix declares is refused to a person, with the way to take it over.
pub fn another_owners_objects_are_left_alone(world: &World) -> Outcome {
    let file = world.path("fleet.json");
    let name = file.to_str().expect("a path");
    let pool = json!({ "pool_id": "web", "image": { "kind": "embedded", "profile": "minimal" },
        "instance_resources": { "vcpus": 1, "mem_mib": 128 } });
    let network = json!({ "tenant_net_id": 8, "ipv4_subnet": "10.240.8.0/24" });
    let tenant = json!({ "tenant_id": "nixed", "network": network, "pools": [pool] });
    let fleet = json!({ "schema_version": 1, "tenants": [tenant] });
    fs::write(&file, fleet.to_string()).expect("written");
    ok(world, &["agent", "reconcile", "--intent", name]);
    let before = recorded(world);
    for (args, object) in [
        (&["pool", "scale", "nixed/web", "--running", "1"][..], "nixed/web"),
        (&["pool", "update", "nixed/web", "--cpus", "2"], "nixed/web"),
        (&["pool", "destroy", "nixed/web", "--force"], "nixed/web"),
        (&["tenant", "update", "nixed", "--max-running", "2"], "nixed"),
        (&["tenant", "destroy", "nixed", "--force"], "nixed"),
    ] {
        refuse(world, args, 4, object, "nix", "adopt");
    }
    assert_eq!(recorded(world), before);
    ok(world, &["tenant", "adopt", "nixed"]);
    super::destroy(world, "nixed");
    Outcome::Passed
}

fn edit(file: &Path, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let before = fs::read(file).expect("a record");
    let mut record: Value = serde_json::from_slice(&before).expect("JSON");
    change(&mut record);
    fs::write(file, record.to_string()).expect("written");
    before
}

pub fn a_newer_versions_state_is_left_alone(world: &World) -> Outcome {
    let instance = prepare(world);
    let dir = world.instance_dir(&instance);
    let file = world.path("state/tenants/acme/pools/workers/pool.json");
    let good = edit(&file, |record| record["schema_version"] = 7.into());
    let newer = fs::read(&file).expect("the record");
    for args in [
        &["pool", "info", "acme/workers"][..],
        &["pool", "scale", "acme/workers", "--running", "2"],
        &["pool", "update", "acme/workers", "--cpus", "2"],
        &["pool", "destroy", "acme/workers", "--force"],
        &["instance", "start", &instance],
    ] {
        refuse(world, args, 4, "acme/workers", "newer mvm (version 7", "use that version");
    }
    let destroyed = run(world, &["tenant", "destroy", "acme", "--force"]);
    assert!(!destroyed.status.success(), "{}", told(&destroyed));
    assert_eq!(fs::read(&file).expect("the record"), newer, "it was written");
    assert!(dir.exists());
    fs::write(&file, good).expect("restored");
    super::destroy(world, "acme");
    Outcome::Passed
}

/// Records from the future: times say nothing then, and everything else holds.
pub fn a_clock_set_back_loses_nothing(world: &World) -> Outcome {
    let instance = prepare(world);
    let file = world.instance_dir(&instance).join("instance.json");
    let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    let tomorrow = tomorrow.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    edit(&file, |record| {
        for field in ["since", "created_at", "manual"] {
            record[field] = (tomorrow as u64).into();
        }
        record["failure"] = json!({ "count": 3, "at": tomorrow as u64 });
    });
    assert!(ok(world, &["instance", "list"]).contains("Created"));
    ok(world, &["instance", "stats", &instance]);
    // Neither what a person did nor what failed holds anybody up for a day.
    let explained = ok(world, &["pool", "explain", "acme/workers"]);
    assert!(explained.contains("is started"), "{explained}");
    ok(world, &["pool", "scale", "acme/workers", "--running", "2"]);
    assert!(ok(world, &["events", "acme", "--verify"]).contains("none changed"));
    super::destroy(world, "acme");
    Outcome::Passed
}
