//! Nix as a source: a whole Intent in a file, watched by the agent or applied once.

use std::fs;

use serde_json::{Value, json};

use super::daemon::{Agent, SOON};
use crate::common::world::told;
use crate::common::{Outcome, World};

/// An Intent with these pools of one tenant.
fn intent(pools: &[&str]) -> String {
    let pool = |name: &&str| {
        json!({ "pool_id": name, "image": { "kind": "embedded", "profile": "minimal" },
            "instance_resources": { "vcpus": 1, "mem_mib": 128 } })
    };
    let pools: Vec<Value> = pools.iter().map(pool).collect();
    let network = json!({ "tenant_net_id": 91, "ipv4_subnet": "10.240.91.0/24" });
    let tenants = json!([{ "tenant_id": "nixed", "network": network, "pools": pools }]);
    json!({ "schema_version": 1, "hosts": [{ "host_id": "atlas" }], "tenants": tenants })
        .to_string()
}

/// What `agent desired` says of the pool, `null` without it.
fn pool(world: &World, name: &str) -> Value {
    let text = world.ok(&["agent", "desired"]);
    let state: Value = serde_json::from_str(&text).expect("JSON");
    let named = |of: &Value, field: &str, name: &str| {
        let mut all = of.as_array().into_iter().flatten();
        all.find(|one| one[field] == name).cloned().unwrap_or_default()
    };
    named(&named(&state["tenants"], "tenant_id", "nixed")["pools"], "pool_id", name)
}

pub fn an_intent_of_nix_is_applied(world: &World) -> Outcome {
    let file = world.path("fleet.json");
    let name = file.to_str().expect("a path");
    fs::write(&file, intent(&["web"])).expect("written");
    let agent = Agent::start(world, &["--interval-secs", "3600", "--intent", name]);
    world.eventually("Nix owns the pool", SOON, || pool(world, "web")["managed_by"] == "nix");
    let refused = world.refused(&["pool", "scale", "nixed/web", "--running", "1"], 4);
    assert!(refused.contains("nix") && refused.contains("mvm pool adopt nixed/web"), "{refused}");
    fs::write(&file, intent(&["api"])).expect("written");
    world.eventually("the other one is there", SOON, || pool(world, "api")["managed_by"] == "nix");
    assert_eq!(pool(world, "web")["orphaned"], true);
    // Half a file means nothing.
    fs::write(&file, &intent(&["api"])[..80]).expect("written");
    let problem = || world.json(&["agent", "status"])["problem"].to_string();
    world.eventually("it says what is wrong", SOON, || problem().contains("ends in the middle"));
    drop(agent);
    // And without an agent, once.
    fs::write(&file, intent(&["api", "web"])).expect("written");
    let said = world.ok(&["agent", "reconcile", "--intent", name]);
    assert!(said.contains("update pool nixed/web"), "{said}");
    assert!(pool(world, "web")["orphaned"].is_null());
    world.ok(&["tenant", "adopt", "nixed"]);
    world.ok(&["tenant", "destroy", "nixed", "--force"]);
    Outcome::Passed
}

pub fn a_file_is_checked_without_serving(world: &World) -> Outcome {
    let file = world.path("checked.json");
    let name = file.to_str().expect("a path");
    let verdicts = || {
        let check = ["check-config", name];
        let serve = ["agent", "serve", "--check-config", name];
        [world.run(&check), world.run(&serve)]
    };
    let bad = intent(&["web"]).replace("\"vcpus\":1", "\"vcpus\":99");
    for (text, code, says) in [
        (intent(&["web"]), 0, "is a good fleet"),
        (bad, 2, "nixed/web"),
        (String::new(), 2, "is empty"),
    ] {
        fs::write(&file, text).expect("written");
        for output in verdicts() {
            assert_eq!(output.status.code(), Some(code), "{}", told(&output));
            assert!(told(&output).contains(says), "{}", told(&output));
        }
    }
    fs::remove_file(&file).expect("removed");
    for output in verdicts() {
        assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    }
    Outcome::Passed
}
