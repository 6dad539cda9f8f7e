//! Sections 9 and 11 to 13: reconcile, bridges, operations, teardown.

use super::shell::{Shell, says};

pub fn section_9_reconcile(shell: &mut Shell) {
    // The document's own path is outside a test's world; its name stays.
    let file = shell.world.path("desired.json");
    let line = |line: &str| line.replace("/tmp/desired.json", &file.display().to_string());
    shell.ok(&line("mvm agent desired --file /tmp/desired.json"));
    let text = shell.ok(&line("cat /tmp/desired.json"));
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["schema_version"], 1);
    assert!(document.get("generation").is_none() && document.get("epoch").is_none(), "{text}");
    shell.ok(&line("mvm agent reconcile --desired /tmp/desired.json"));
    let list = shell.ok("mvm instance list --tenant smoke-test --pool workers");
    assert_eq!(list.matches("Running").count(), 2, "{list}");
    assert_eq!((list.matches("Warm").count(), list.matches("Sleeping").count()), (1, 1), "{list}");
    let again = shell.ok(&line("mvm agent reconcile --desired /tmp/desired.json"));
    says(&again, &["nothing to do"]);
}

pub fn section_11_bridges(shell: &mut Shell) {
    says(&shell.ok("mvm net verify"), &["clean"]);
    let report: serde_json::Value =
        serde_json::from_str(&shell.ok("mvm net verify --json")).expect("JSON");
    assert!(report["tenants"].as_u64() >= Some(2), "{report}");
    let errors = report["findings"].as_array().into_iter().flatten();
    assert_eq!(errors.filter(|finding| finding["severity"] == "error").count(), 0, "{report}");
}

pub fn section_12_operational(shell: &mut Shell) {
    says(&shell.ok("mvm node disk"), &["smoke-test"]);
    shell.ok("mvm pool gc smoke-test/workers");
    shell.ok("mvm node gc");
    // What runs and sleeps needed what gc looked at.
    shell.ok("mvm instance list --tenant smoke-test --pool workers");
    let events = shell.ok("mvm events smoke-test");
    says(&events, &["tenant.create", "pool.create", "instance.start", "instance.sleep"]);
    let last = shell.ok("mvm events smoke-test --last 5 --json");
    assert_eq!(last.lines().count(), 5, "{last}");
    for line in last.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON lines");
    }
    let bash = shell.ok("mvm completions bash > /dev/null && echo \"bash completions OK\"");
    assert_eq!(bash.trim(), "bash completions OK");
    let zsh = shell.ok("mvm completions zsh > /dev/null && echo \"zsh completions OK\"");
    assert_eq!(zsh.trim(), "zsh completions OK");
}

pub fn section_13_teardown(shell: &mut Shell) {
    let used = |shell: &Shell| shell.world.json(&["node", "disk"]).to_string();
    let before = used(shell);
    shell.refused("mvm tenant destroy smoke-app", 4);
    shell.ok("mvm tenant destroy smoke-app --force");
    shell.ok("mvm tenant destroy smoke-test --force");
    let list = shell.ok("mvm tenant list                # should be empty");
    assert!(!list.contains("smoke-"), "{list}");
    says(&shell.ok("mvm net verify                 # no bridges remaining"), &["clean"]);
    let links = shell.world.tool("ip", &["-o", "link"]);
    assert!(!links.contains("br-tenant-"), "{links}");
    shell.ok("mvm node disk                  # storage freed");
    assert_ne!(used(shell), before);
    assert!(!used(shell).contains("smoke-test"));
}
