//! Tenants' secrets in real guests: who has which when, and that they are in clear nowhere else.
//!
//! One world: tenant `aa` with a pool that sees all its secrets and one that sees a part, and
//! tenant `bb`, which has none.

#[path = "secrets/canary.rs"]
mod canary;
#[path = "../common/mod.rs"]
mod common;
#[path = "secrets/delivery.rs"]
mod delivery;
#[path = "secrets/faults.rs"]
mod faults;
#[path = "secrets/nowhere.rs"]
mod nowhere;

use std::process::ExitCode;

use common::world::told;
use common::{Outcome, World};
use serde_json::Value;

/// Sees every secret of its tenant.
pub const WORKERS: &str = "aa/workers";
/// Sees those of one integration.
pub const SCOPED: &str = "aa/scoped";
/// Of another tenant.
pub const STRANGERS: &str = "bb/workers";

fn main() -> ExitCode {
    common::main(
        "secrets",
        &[
            ("boot_a_tenant_with_secrets", boot_a_tenant_with_secrets),
            (
                "secrets_are_in_their_guests_and_in_no_other",
                delivery::secrets_are_in_their_guests_and_in_no_other,
            ),
            ("a_change_reaches_every_instance", delivery::a_change_reaches_every_instance),
            ("another_scope_is_delivered_at_once", delivery::another_scope_is_delivered_at_once),
            (
                "who_holds_old_secrets_keeps_them_and_is_named",
                delivery::who_holds_old_secrets_keeps_them_and_is_named,
            ),
            ("a_removed_secret_leaves_its_guests", delivery::a_removed_secret_leaves_its_guests),
            ("a_value_is_never_an_argument", delivery::a_value_is_never_an_argument),
            ("a_secret_is_written_nowhere", nowhere::a_secret_is_written_nowhere),
            ("a_crash_leaves_no_secret", nowhere::a_crash_leaves_no_secret),
            (
                "a_wake_that_finds_nothing_ready_says_so",
                faults::a_wake_that_finds_nothing_ready_says_so,
            ),
            ("a_lost_key_keeps_a_guest_asleep", faults::a_lost_key_keeps_a_guest_asleep),
            ("an_older_envelope_is_not_delivered", faults::an_older_envelope_is_not_delivered),
            ("a_killed_command_is_made_up_for", faults::a_killed_command_is_made_up_for),
            ("two_who_set_at_once_both_get_in", faults::two_who_set_at_once_both_get_in),
        ],
    )
}

/// Sets secrets from lines `NAME=VALUE`.
pub fn set(world: &World, tenant: &str, lines: &str) -> Value {
    let args = ["tenant", "secrets", "set", tenant, "--json"];
    let output = world.run_with_input(&args, lines.as_bytes());
    assert!(output.status.success(), "{}", told(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// When an instance has what was set, of what `set` printed.
pub fn when<'a>(changed: &'a Value, instance: &str) -> &'a str {
    let instances = changed["instances"].as_array().expect("instances");
    let row = instances.iter().find(|row| row["instance"] == instance).expect("its row");
    row["when"].as_str().expect("a word")
}

/// A secret as its guest sees it.
pub fn seen(world: &World, instance: &str, name: &str) -> String {
    world.guest(instance, &format!("cat /run/secrets/{name}"))
}

fn boot_a_tenant_with_secrets(world: &World) -> Outcome {
    world.ok(&["bootstrap", "--yes"]);
    for tenant in ["aa", "bb"] {
        world.ok(&["tenant", "create", tenant]);
    }
    for (pool, count) in [(WORKERS, "2"), (SCOPED, "1"), (STRANGERS, "1")] {
        world.ok(&["pool", "create", pool, "--mem", "128"]);
        world.ok(&["pool", "build", pool]);
        world.ok(&["pool", "scale", pool, "--running", count]);
    }
    // What `pool update` and DesiredState write.
    let record = world.path("state/tenants/aa/pools/scoped/pool.json");
    let mut pool: Value = serde_json::from_slice(&std::fs::read(&record).expect("a record"))
        .expect("a record in JSON");
    pool["secret_scopes"] = serde_json::json!(["slack"]);
    std::fs::write(&record, pool.to_string()).expect("a record");
    let changed = set(world, "aa", "SLACK_TOKEN=first\nDB_PASSWORD=second\n");
    assert_eq!(changed["epoch"], 1);
    for pool in [WORKERS, SCOPED, STRANGERS] {
        for instance in world.members(pool) {
            if pool != STRANGERS {
                assert_eq!(when(&changed, &instance), "at_start");
            }
            world.ok(&["instance", "start", &instance]);
        }
    }
    Outcome::Passed
}
