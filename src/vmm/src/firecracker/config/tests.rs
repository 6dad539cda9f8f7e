use super::*;
use crate::spec::example;

fn body(calls: &[Call], path: &str) -> serde_json::Value {
    calls.iter().find(|call| call.path == path).unwrap().body.clone()
}

#[test]
fn the_machine_is_what_the_specification_says_in_order() {
    let calls = machine(&example());
    let paths: Vec<_> = calls.iter().map(|call| call.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/machine-config",
            "/boot-source",
            "/drives/root",
            "/drives/data",
            "/drives/secrets",
            "/drives/config",
            "/network-interfaces/eth0",
            "/vsock",
            "/entropy",
        ]
    );
    let machine = body(&calls, "/machine-config");
    assert_eq!((&machine["vcpu_count"], &machine["mem_size_mib"]), (&2.into(), &256.into()));
    assert_eq!(machine["track_dirty_pages"], false);
}

#[test]
fn a_guest_ends_in_order_and_its_flushes_reach_the_disk() {
    let calls = machine(&example());
    let boot = body(&calls, "/boot-source");
    let arguments = boot["boot_args"].as_str().unwrap();
    assert!(arguments.starts_with("console=ttyS0 quiet reboot=k panic=-1 init_on_free=1 "));
    assert!(arguments.ends_with(" rootfstype=erofs"));
    let (root, data) = (body(&calls, "/drives/root"), body(&calls, "/drives/data"));
    assert_eq!((&root["is_read_only"], &root["is_root_device"]), (&true.into(), &false.into()));
    assert_eq!((&data["is_read_only"], &data["cache_type"]), (&false.into(), &"Writeback".into()));
    assert_eq!(data["path_on_host"], "/drives/data");
}

#[test]
fn everything_a_guest_can_flood_has_a_limit() {
    let calls = machine(&example());
    for name in DRIVES {
        let limiter = &body(&calls, &format!("/drives/{name}"))["rate_limiter"];
        assert!(limiter["bandwidth"]["size"].as_u64().unwrap() > 0);
        assert!(limiter["ops"]["size"].as_u64().unwrap() > 0);
    }
    let net = body(&calls, "/network-interfaces/eth0");
    for way in ["rx_rate_limiter", "tx_rate_limiter"] {
        assert!(net[way]["bandwidth"]["size"].as_u64().unwrap() > 0);
        assert!(net[way]["ops"]["size"].as_u64().unwrap() > 0);
    }
    assert!(body(&calls, "/entropy")["rate_limiter"]["bandwidth"]["size"].as_u64().unwrap() > 0);
}

#[test]
fn a_snapshot_is_loaded_without_resuming() {
    let load = load_snapshot(None);
    assert_eq!(load.body["resume_vm"], false);
    assert_eq!(load.body["mem_backend"]["backend_type"], "File");
    assert_eq!(load.body["snapshot_path"], create_snapshot().body["snapshot_path"]);
    assert!(load.body.get("network_overrides").is_none());
}

#[test]
fn a_snapshot_gets_the_tap_its_vm_has_now() {
    let load = load_snapshot(Some("tn9i4"));
    let device = serde_json::json!([{ "iface_id": "eth0", "host_dev_name": "tn9i4" }]);
    assert_eq!(load.body["network_overrides"], device);
    assert!(machine(&example()).iter().any(|call| call.path == "/network-interfaces/eth0"));
}

#[test]
fn nothing_asked_for_needs_more_than_firecracker_takes() {
    let mut spec = example();
    spec.cmdline = "x".repeat(crate::spec::MAX_CMDLINE);
    for call in machine(&spec) {
        assert!(serde_json::to_vec(&call.body).unwrap().len() < 4096);
    }
    assert!(kernel_command_line(&spec.cmdline).len() < 2048);
}
