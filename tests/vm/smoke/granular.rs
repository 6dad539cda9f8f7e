//! Sections 5 to 8: tenant, pools, an instance, its sleep.

use std::time::Duration;

use super::shell::{Shell, says};

const SOON: Duration = Duration::from_secs(60);

pub fn section_5_tenant(shell: &mut Shell) {
    shell.ok("mvm tenant create smoke-test \\
    --net-id 99 --subnet 10.240.99.0/24 \\
    --max-vcpus 8 --max-mem 8192 --max-running 4");
    says(&shell.ok("mvm tenant list"), &["smoke-test"]);
    says(&shell.ok("mvm tenant info smoke-test"), &["of 8", "8192 MiB", "of 4", "10.240.99.0/24"]);
    let json = shell.ok("mvm tenant info smoke-test --json    # confirm JSON output works");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["quotas"]["max_vcpus"], 8);
    says(&shell.ok("mvm net verify"), &["clean"]);
    shell.world.tool("ip", &["link", "show", "br-tenant-99"]);
}

pub fn section_6_pool(shell: &mut Shell) {
    shell.ok("mvm pool create smoke-test/gateways \\
    --flake . --profile minimal \\
    --cpus 2 --mem 1024 --role gateway");
    shell.ok("mvm pool create smoke-test/workers \\
    --flake . --profile minimal \\
    --cpus 2 --mem 1024");
    says(&shell.ok("mvm pool list smoke-test"), &["gateways", "workers"]);
    says(&shell.ok("mvm pool info smoke-test/workers"), &["worker", "1024 MiB", "minimal"]);
    shell.ok("mvm pool build smoke-test/workers");
    shell.ok("mvm pool scale smoke-test/workers --running 2 --warm 1 --sleeping 1");
    let info = shell.ok("mvm pool info smoke-test/workers");
    says(&info, &["2 running, 1 warm, 1 sleeping", "embedded", "(typed: .)"]);
    let pool = shell.world.path("state/tenants/smoke-test/pools/workers");
    let revisions = std::fs::read_dir(pool.join("artifacts/revisions")).expect("revisions");
    let revision = revisions.flatten().next().expect("one").path();
    for file in ["vmlinux", "rootfs", "manifest.json"] {
        assert!(revision.join(file).exists(), "{file} is missing in {}", revision.display());
    }
}

pub fn section_7_instance(shell: &mut Shell) {
    shell.ok("mvm instance list --tenant smoke-test --pool workers");
    assert!(shell.instances("smoke-test").iter().all(|row| row["status"] == "created"));
    let id = shell.set(
        "INSTANCE_ID=$(mvm instance list --tenant smoke-test --pool workers --json | jq -r '.[0].instance_id')",
    );
    assert!(id.starts_with("i-"), "{id}");
    let started = shell.ok("mvm instance start smoke-test/workers/$INSTANCE_ID");
    says(&started, &["Running"]);
    let stats = shell.ok("mvm instance stats smoke-test/workers/$INSTANCE_ID");
    says(&stats, &["Running", "PID:", "10.240.99.3", "tn99i3"]);
    let mut terminal = shell.terminal("mvm instance ssh smoke-test/workers/$INSTANCE_ID");
    terminal.expect("# ", SOON);
    terminal.kind("uname -a; ls /run/secrets && echo secrets-$((40 + 2))\n");
    terminal.expect("GNU/Linux", SOON);
    terminal.expect("secrets-42", SOON);
    terminal.kind("exit\n");
    assert_eq!(terminal.end(SOON), Some(0));
    says(&shell.ok("mvm instance stop smoke-test/workers/$INSTANCE_ID"), &["Stopped"]);
    let list =
        shell.ok("mvm instance list --tenant smoke-test --pool workers   # should show Stopped");
    let row = list.lines().find(|line| line.contains(&id)).expect("its row");
    says(row, &["Stopped"]);
}

pub fn section_8_sleep_and_wake(shell: &mut Shell) {
    shell.ok("mvm instance start smoke-test/workers/$INSTANCE_ID");
    let path = shell.ok("printf %s smoke-test/workers/$INSTANCE_ID");
    let before = shell.world.instance(&path);
    shell.world.guest(&path, "echo kept > /tmp/memory");
    shell.ok("mvm instance sleep smoke-test/workers/$INSTANCE_ID");
    let asleep = shell
        .ok("mvm instance stats smoke-test/workers/$INSTANCE_ID   # should show Sleeping status");
    says(&asleep, &["Sleeping"]);
    assert!(shell.world.instance(&path)["snapshot_bytes"].as_u64() > Some(0));
    says(&shell.ok("mvm instance wake smoke-test/workers/$INSTANCE_ID"), &["Running"]);
    shell.ok("mvm instance stats smoke-test/workers/$INSTANCE_ID");
    let after = shell.world.instance(&path);
    for identity in ["guest_ip", "tap_dev", "mac"] {
        assert_eq!(before[identity], after[identity]);
    }
    assert_eq!(shell.world.guest(&path, "cat /tmp/memory"), "kept");
    // Waking a running one says so and is no failure.
    says(&shell.ok("mvm instance wake smoke-test/workers/$INSTANCE_ID"), &["running already"]);
}
