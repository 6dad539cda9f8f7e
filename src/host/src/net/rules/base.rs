//! The shared part of `inet mvm`: base chains, maps and sets. Its text never depends on tenants.

use std::collections::BTreeSet;

use mvm_model::network::BRIDGE_PREFIX;
use serde_json::{Value, json};

use super::expr::{by_interface, drop_if, from, is, not_from, not_to, to};
use super::{Chain, Family, Hook, Listing, Rule, TABLE};

/// bridge → chain for whatever comes in by it, wherever it goes.
pub(super) const ENTER: &str = "enter_tenant";
/// bridge → chain for what it sends beyond the host.
pub(super) const FROM: &str = "from_tenant";
/// bridge → chain for what goes to it.
pub(super) const TO: &str = "to_tenant";
/// bridge → chain for what it sends to the host itself.
pub(super) const INPUT: &str = "input_tenant";
/// Our addresses on the bridges.
pub(super) const GATEWAYS: &str = "gateways";
/// Uplinks on which *we* turned forwarding on.
pub(super) const ROUTED: &str = "routed";

/// Interfaces we made forward.
pub(in super::super) type Uplinks = BTreeSet<String>;

fn any_bridge() -> String {
    format!("{BRIDGE_PREFIX}*")
}

fn base(name: &str, kind: &'static str, priority: i32, rules: Vec<Rule>) -> Chain {
    let hook = match name {
        "prerouting" => "prerouting",
        "input" => "input",
        "forward" => "forward",
        _ => "postrouting",
    };
    Chain {
        family: Family::Inet,
        name: name.to_owned(),
        hook: Some(Hook { kind, hook, priority, policy: "accept", device: None }),
        rules,
    }
}

/// The base chains.
pub(in super::super) fn base_chains() -> [Chain; 4] {
    let any = any_bridge();
    // Before connection tracking and routing: a packet without a route is answered by the host
    // (ICMP) to its claimed source, which must not be another tenant's.
    let prerouting = vec![
        Rule::new("enters from tenant", vec![by_interface("iifname", ENTER)]),
        Rule::new("enters from unknown tenant", drop_if([from(&any)])),
    ];
    let input = vec![
        Rule::new("tenant to host", vec![by_interface("iifname", INPUT)]),
        Rule::new("unknown tenant to host", drop_if([from(&any)])),
        // The host answers for its addresses on any interface; the tenants' resolver is not for
        // the LAN.
        Rule::new(
            "outside to a tenant's gateway address",
            drop_if([not_from("lo"), is("ip", "daddr", format!("@{GATEWAYS}"))]),
        ),
    ];
    let forward = vec![
        Rule::new("from tenant", vec![by_interface("iifname", FROM)]),
        Rule::new("from unknown tenant", drop_if([from(&any)])),
        Rule::new("to tenant", vec![by_interface("oifname", TO)]),
        Rule::new("to unknown tenant", drop_if([to(&any)])),
        // We made these uplinks forward for tenants only; the host stays no router for others.
        Rule::new("routing for others", drop_if([from(&format!("@{ROUTED}"))])),
    ];
    let leaving = vec![from(&any), not_to(&any), json!({ "masquerade": null })];
    let postrouting = vec![Rule::new("tenant to world", leaving)];
    [
        base("prerouting", "filter", -300, prerouting),
        base("input", "filter", 0, input),
        base("forward", "filter", 0, forward),
        base("postrouting", "nat", 100, postrouting),
    ]
}

/// Declarations of maps and sets; existing elements stay.
pub(in super::super) fn base_sets() -> Vec<Value> {
    let map = |name: &str| {
        json!({ "add": { "map": { "family": "inet", "table": TABLE, "name": name,
            "type": "ifname", "map": "verdict" } } })
    };
    let set = |name: &str, kind: &str| json!({ "add": { "set": { "family": "inet", "table": TABLE, "name": name, "type": kind } } });
    vec![
        map(ENTER),
        map(FROM),
        map(TO),
        map(INPUT),
        set(GATEWAYS, "ipv4_addr"),
        set(ROUTED, "ifname"),
    ]
}

/// Commands that add to and take from the set of guarded uplinks.
pub(in super::super) fn uplink_commands(add: &Uplinks, delete: &Uplinks) -> Vec<Value> {
    let command = |verb: &str, uplinks: &Uplinks| {
        json!({ verb: { "element": { "family": "inet", "table": TABLE, "name": ROUTED,
            "elem": uplinks } } })
    };
    [("add", add), ("delete", delete)]
        .into_iter()
        .filter(|(_, uplinks)| !uplinks.is_empty())
        .map(|(verb, uplinks)| command(verb, uplinks))
        .collect()
}

/// The guarded uplinks of a listing.
pub(in super::super) fn guarded_uplinks(listing: &Listing) -> Uplinks {
    listing.elements(ROUTED).iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}
