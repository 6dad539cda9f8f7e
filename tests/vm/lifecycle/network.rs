//! What a guest reaches and what it does not.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Outcome, World};
use crate::setup::{GATEWAYS, STRANGERS, WORKERS};

fn ip(world: &World, instance: &str) -> String {
    world.instance(instance)["guest_ip"].as_str().expect("an address").to_owned()
}

fn pings(world: &World, from: &str, to: &str) -> bool {
    world.guest_can(from, &format!("ping -c 1 -W 2 {to}"))
}

pub fn neighbours_reach_each_other(world: &World) -> Outcome {
    let workers = world.members(WORKERS);
    let gateway = &world.members(GATEWAYS)[0];
    assert!(pings(world, &workers[0], &ip(world, &workers[1])));
    assert!(pings(world, &workers[1], &ip(world, gateway)));
    let page = format!("timeout 5 wget -q -O- http://{}:8080/", ip(world, gateway));
    assert!(world.guest_can(&workers[0], &page), "the gateway's port is out of reach");
    Outcome::Passed
}

pub fn tenants_and_host_are_out_of_reach(world: &World) -> Outcome {
    let (worker, stranger) = (&world.members(WORKERS)[0], &world.members(STRANGERS)[0]);
    assert!(!pings(world, worker, &ip(world, stranger)), "tenant aa reaches tenant bb");
    assert!(!pings(world, stranger, &ip(world, worker)), "tenant bb reaches tenant aa");
    assert!(!pings(world, worker, "10.240.11.1"), "a guest reaches the host");
    // A port the host listens on, tried from a guest: refused by the rules, not by its absence.
    let listener = std::net::TcpListener::bind("10.240.11.1:9999").expect("a port on the bridge");
    assert!(
        !world.guest_can(worker, "echo | nc -w 2 10.240.11.1 9999"),
        "a guest reaches a host's port"
    );
    drop(listener);
    assert!(
        !world.guest_can(worker, "ip -6 addr show dev eth0 | grep -q inet6"),
        "the guest has IPv6"
    );
    assert!(!pings(world, worker, "169.254.169.254"), "the metadata address answers");
    Outcome::Passed
}

/// Something that looks like a network beyond the host: a namespace at the end of a veth pair.
struct Beyond {
    holder: Child,
}

impl Beyond {
    fn new(world: &World) -> Self {
        let holder =
            Command::new("unshare").args(["-n", "sleep", "300"]).stdin(Stdio::null()).spawn();
        let holder = holder.expect("unshare starts");
        let pid = holder.id().to_string();
        let mine = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
        world.eventually("the namespace exists", Duration::from_secs(20), || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns != mine)
        });
        world.tool(
            "ip",
            &["link", "add", "uplink0", "type", "veth", "peer", "name", "far0", "netns", &pid],
        );
        for address in ["192.168.77.1/24", "203.0.113.1/24"] {
            world.tool("ip", &["addr", "add", address, "dev", "uplink0"]);
        }
        world.tool("ip", &["link", "set", "uplink0", "up"]);
        let far = |args: &[&str]| {
            world.tool("nsenter", &[&["-t", &pid, "-n", "ip"], args].concat());
        };
        far(&["link", "set", "far0", "up"]);
        far(&["addr", "add", "192.168.77.2/24", "dev", "far0"]);
        far(&["addr", "add", "203.0.113.2/24", "dev", "far0"]);
        world.tool("ip", &["route", "add", "default", "via", "203.0.113.2"]);
        Self { holder }
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = Command::new("ip").args(["link", "del", "uplink0"]).status();
    }
}

pub fn names_and_egress_are_the_tenants_own(world: &World) -> Outcome {
    let workers = world.members(WORKERS);
    let neighbour = workers[1].rsplit('/').next().expect("an id");
    let found = world.guest(&workers[0], &format!("nslookup {neighbour}.workers.aa.mvm"));
    assert!(found.contains(&ip(world, &workers[1])), "{found}");
    let stranger = world.members(STRANGERS)[0].clone();
    let id = stranger.rsplit('/').next().expect("an id");
    let lookup = format!("nslookup {id}.workers.bb.mvm 2>&1 | grep -q {}", ip(world, &stranger));
    assert!(!world.guest_can(&workers[0], &lookup), "the other tenant's names are known");
    let _beyond = Beyond::new(world);
    // The host's uplink appeared after the tenants: their next start finds it.
    world.ok(&["instance", "stop", &workers[1]]);
    world.ok(&["instance", "start", &workers[1]]);
    assert!(pings(world, &workers[1], "203.0.113.2"), "a public address is out of reach");
    assert!(!pings(world, &workers[1], "192.168.77.2"), "a guest reaches the host's LAN");
    assert!(!pings(world, &workers[1], "192.168.77.1"), "a guest reaches the host's LAN address");
    Outcome::Passed
}

pub fn net_verify_sees_what_was_changed(world: &World) -> Outcome {
    world.ok(&["net", "verify"]);
    let tap =
        world.instance(&world.members(WORKERS)[0])["tap_dev"].as_str().expect("a tap").to_owned();
    world.tool("ip", &["link", "set", &tap, "nomaster"]);
    let report = world.run(&["net", "verify"]);
    assert_eq!(report.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&report.stdout).contains(&tap));
    world.tool("ip", &["link", "set", &tap, "master", "br-tenant-11"]);
    world.ok(&["net", "verify", "--json"]);
    Outcome::Passed
}
