//! Sections 1 to 4.

use std::time::Duration;

use super::shell::{Pass, Shell, says};
use crate::common::{Outcome, World};

/// How long a guest may take to come up and be typed at.
const BOOT: Duration = Duration::from_secs(120);
/// How long a gateway may take to listen under emulation.
const READY: Duration = Duration::from_secs(300);

pub fn section_1_dev_mode(shell: &mut Shell) {
    let mut terminal = shell.terminal("mvm dev");
    terminal.expect("# ", BOOT);
    terminal.kind("uname -a\n");
    terminal.expect("GNU/Linux", BOOT);
    terminal.kind("exit\n");
    assert_eq!(terminal.end(BOOT), Some(0));
    let status = shell.ok("mvm status");
    let dev = status.lines().find(|line| line.starts_with("Dev VM:")).expect("the dev VM");
    says(&dev.to_lowercase(), &["running"]);
    shell.ok("mvm stop");
    let status = shell.ok("mvm status");
    let dev = status.lines().find(|line| line.starts_with("Dev VM:")).expect("the dev VM");
    says(&dev.to_lowercase(), &["stopped"]);
}

/// The first command; certificates come with the fleet, and the output says so.
pub fn section_2_add_host(shell: &mut Shell) {
    says(&shell.both("mvm add host"), &["no certificates yet", "mvm agent serve"]);
    says(&shell.ok("mvm status"), &["Firecracker", "Agent:"]);
    let info = shell.ok("mvm node info");
    says(&info.to_lowercase(), &["node", "x86_64", "vcpus", "memory"]);
}

pub fn section_3_new_deployment(shell: &mut Shell) {
    let summary = shell.both("mvm new openclaw smoke-app");
    says(&summary, &["smoke-app", "gateways", "workers", "mvm connect smoke-app"]);
    let before = state(shell);
    // The other two lines are alternatives to the first: on what it made they change nothing.
    let refused =
        shell.refused("mvm new openclaw smoke-app --net-id 99 --subnet 10.240.99.0/24", 4);
    says(&refused, &["10.240.", "hint:"]);
    let refused = shell.refused("mvm new openclaw smoke-app --flake github:myorg/myflake", 5);
    says(&refused, &["github:myorg/myflake", "hint:"]);
    let json = shell.refused("mvm new openclaw smoke-app --flake github:myorg/myflake --json", 5);
    says(&json, &["image_builder_unavailable"]);
    assert_eq!(state(shell), before, "a refused line changed something");
    verify_deployment(shell);
    gateway_listens(shell);
}

/// Everything that is recorded of `smoke-app`, without what time alone changes.
fn state(shell: &Shell) -> String {
    let instances = shell.instances("smoke-app");
    let rows: Vec<_> = instances
        .iter()
        .map(|row| format!("{} {} {}", row["instance_id"], row["status"], row["guest_ip"]))
        .collect();
    let pools = shell.world.json(&["pool", "list", "smoke-app"]);
    let wanted: Vec<_> = pools
        .as_array()
        .into_iter()
        .flatten()
        .map(|pool| format!("{} {} {}", pool["pool_id"], pool["desired_counts"], pool["current"]))
        .collect();
    let tenant = shell.world.json(&["tenant", "info", "smoke-app"]);
    format!("{rows:?} {wanted:?} {} {}", tenant["network"], tenant["quotas"])
}

fn verify_deployment(shell: &Shell) {
    says(&shell.ok("mvm tenant list                          # smoke-app appears"), &["smoke-app"]);
    let info = shell.ok("mvm tenant info smoke-app                # shows quotas and network");
    says(&info, &["Subnet:", "Bridge:", "vCPUs:", "Memory:"]);
    let pools = shell.ok("mvm pool list smoke-app                  # gateways + workers");
    says(&pools, &["gateways", "workers"]);
    let pool = shell.ok("mvm pool info smoke-app/gateways         # role: gateway");
    says(&pool, &["gateway", "embedded"]);
    let pool = shell.ok("mvm pool info smoke-app/workers          # role: worker");
    says(&pool, &["worker", "2 running, 1 warm, 0 sleeping"]);
    shell.ok("mvm instance list --tenant smoke-app     # instances across both pools");
    let instances = shell.instances("smoke-app");
    let count = |pool: &str, status: &str| {
        instances.iter().filter(|row| row["pool_id"] == pool && row["status"] == status).count()
    };
    assert_eq!(count("gateways", "running"), 1, "{instances:?}");
    assert_eq!((count("workers", "running"), count("workers", "warm")), (2, 1), "{instances:?}");
    assert_eq!(instances.len(), 4);
    if shell.pass == Pass::OpenClaw {
        let pools = shell.world.json(&["pool", "list", "smoke-app"]);
        for pool in pools.as_array().expect("an array") {
            let given = &pool["instance_resources"];
            assert_eq!((given["vcpus"].as_u64(), given["mem_mib"].as_u64()), (Some(2), Some(1024)));
            let data = if pool["pool_id"] == "workers" { 2048 } else { 0 };
            assert_eq!(given["data_disk_mib"], data);
        }
    }
}

/// The gateway is one: something listens in the guest, seen from a worker of the tenant.
fn gateway_listens(shell: &Shell) {
    let instances = shell.instances("smoke-app");
    let of = |pool: &str| {
        let found =
            instances.iter().find(|row| row["pool_id"] == pool && row["status"] == "running");
        found.expect("a running one").clone()
    };
    let (gateway, worker) = (of("gateways"), of("workers"));
    let port = if shell.pass == Pass::OpenClaw { 18789 } else { 8080 };
    let worker = format!("smoke-app/workers/{}", worker["instance_id"].as_str().expect("an id"));
    let address = gateway["guest_ip"].as_str().expect("an address");
    let ask = r"printf 'GET / HTTP/1.0\r\n\r\n' | timeout 10 nc";
    let probe = format!("{ask} {address} {port} | grep -q ^HTTP");
    shell.world.eventually("the gateway listens", READY, || shell.world.guest_can(&worker, &probe));
}

pub fn section_4_connect(shell: &mut Shell) {
    let dashboard = shell.both("mvm connect smoke-app");
    says(&dashboard, &["10.240.", ".1", "br-tenant-", "gateways", "workers", "Running", "Warm"]);
    says(&dashboard, &["mvm tenant secrets", "mvm pool scale", "mvm instance list"]);
    let json = shell.ok("mvm connect smoke-app --json    # machine-readable output");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["instances"].as_array().map(Vec::len), Some(4), "{json}");
}

/// Section 3's second line where nothing was before it.
pub fn new_with_explicit_network(world: &World) -> Outcome {
    if let Some(skipped) = crate::lacks(world, Pass::OpenClaw) {
        return skipped;
    }
    let shell = Shell::new(world, Pass::OpenClaw);
    shell.ok("mvm new openclaw smoke-app --net-id 99 --subnet 10.240.99.0/24");
    let tenant = world.json(&["tenant", "info", "smoke-app"]);
    assert_eq!(tenant["network"]["tenant_net_id"], 99);
    assert_eq!(tenant["network"]["ipv4_subnet"], "10.240.99.0/24");
    assert_eq!(tenant["bridge"], "br-tenant-99");
    let running = |row: &&serde_json::Value| row["status"] == "running";
    assert_eq!(shell.instances("smoke-app").iter().filter(running).count(), 3);
    Outcome::Passed
}
