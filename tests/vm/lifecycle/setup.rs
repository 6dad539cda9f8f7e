//! The two tenants, and what is refused on the way to them.

use crate::common::{Outcome, World};

/// A worker with a data drive.
pub const WORKERS: &str = "aa/workers";
/// The other tenant's.
pub const STRANGERS: &str = "bb/workers";
/// The gateway, which has a workload.
pub const GATEWAYS: &str = "aa/gateways";

pub fn boot_two_tenants(world: &World) -> Outcome {
    world.ok(&["bootstrap", "--yes"]);
    world.ok(&["tenant", "create", "aa", "--net-id", "11", "--subnet", "10.240.11.0/24"]);
    world.ok(&["tenant", "create", "bb"]);
    for (pool, role, data, count) in [
        (GATEWAYS, "gateway", "0", "1"),
        (WORKERS, "worker", "64", "2"),
        (STRANGERS, "worker", "0", "1"),
    ] {
        world.ok(&["pool", "create", pool, "--role", role, "--mem", "128", "--data-disk", data]);
        world.ok(&["pool", "build", pool]);
        world.ok(&["pool", "scale", pool, "--running", count]);
    }
    let everyone: Vec<_> =
        [GATEWAYS, WORKERS, STRANGERS].iter().flat_map(|pool| world.members(pool)).collect();
    assert_eq!(everyone.len(), 4);
    assert!(
        everyone.iter().all(|instance| world.status(instance) == "created"),
        "scale started something"
    );
    std::thread::scope(|scope| {
        for half in everyone.chunks(2) {
            scope.spawn(move || {
                for instance in half {
                    world.ok(&["instance", "start", instance]);
                }
            });
        }
    });
    for instance in &everyone {
        let row = world.instance(instance);
        assert_eq!(row["status"], "running");
        assert!(row["pid"].as_u64().is_some() && row["vmm"].as_str().is_some(), "{row}");
    }
    assert_eq!(world.instance(&world.members(GATEWAYS)[0])["guest_ip"], "10.240.11.2");
    assert_eq!(world.instance(&world.members(WORKERS)[0])["guest_ip"], "10.240.11.3");
    let answer = world.guest(&world.members(WORKERS)[0], "uname -a");
    assert!(answer.starts_with("Linux "), "{answer}");
    Outcome::Passed
}

pub fn bad_input_is_refused_by_name(world: &World) -> Outcome {
    let long = "x".repeat(300);
    for name in ["../up", "a/b", "a b", "", "Big", &long] {
        world.refused(&["tenant", "create", name], 2);
    }
    for (args, code, said) in [
        (&["tenant", "create", "aa"][..], 4, "exists already"),
        (&["tenant", "create", "cc", "--net-id", "11"], 4, "belongs to tenant aa"),
        (&["tenant", "create", "cc", "--subnet", "10.240.11.128/25"], 4, "of tenant aa"),
        (&["tenant", "create", "cc", "--net-id", "4096"], 2, "4095"),
        (&["tenant", "create", "cc", "--subnet", "10.240.1.1/24"], 2, "CIDR"),
        (&["tenant", "info", "nobody"], 3, "no tenant nobody"),
        (&["pool", "create", "aa/more", "--cpus", "0"], 2, "outside 1 to 32"),
        (&["pool", "create", "aa/more", "--mem", "99999999999"], 2, "MiB"),
        (&["pool", "create", "aa/more", "--profile", "windows"], 2, "minimal, hello, node"),
        (&["pool", "create", "nobody/more"], 3, "no tenant"),
        (&["pool", "scale", "aa/workers", "--running", "999"], 4, "max_instances_per_pool"),
        (&["pool", "destroy", "aa/workers"], 4, "--force"),
        (&["instance", "start", "aa/workers/i-00000000"], 3, "no instance"),
        (&["tenant", "destroy", "aa"], 4, "--force"),
    ] {
        let error = world.refused(args, code);
        assert!(error.contains(said), "mvm {} said: {error}", args.join(" "));
    }
    // Somebody else's interface and address are not touched.
    world.tool("ip", &["link", "add", "br-tenant-77", "type", "bridge"]);
    world.tool("ip", &["addr", "add", "10.240.78.9/24", "dev", "br-tenant-77"]);
    assert!(
        world.refused(&["tenant", "create", "cc", "--net-id", "77"], 4).contains("br-tenant-77")
    );
    assert!(world.refused(&["tenant", "create", "cc", "--net-id", "78"], 4).contains("10.240.78"));
    assert!(world.tool("ip", &["-o", "addr"]).contains("10.240.78.9"));
    world.tool("ip", &["link", "del", "br-tenant-77"]);
    assert_eq!(world.json(&["tenant", "list"]).as_array().map(Vec::len), Some(2));
    Outcome::Passed
}
