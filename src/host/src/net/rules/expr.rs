//! nft JSON expressions, by the few shapes the rules need.

use ipnet::Ipv4Net;
use serde_json::{Value, json};

fn compare(op: &str, left: Value, right: Value) -> Value {
    json!({ "match": { "op": op, "left": left, "right": right } })
}

fn field(protocol: &str, name: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": name } })
}

fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

/// A packet field equals a value.
pub(super) fn is(protocol: &str, name: &str, value: impl Into<Value>) -> Value {
    compare("==", field(protocol, name), value.into())
}

/// A packet field differs from a value.
pub(super) fn is_not(protocol: &str, name: &str, value: impl Into<Value>) -> Value {
    compare("!=", field(protocol, name), value.into())
}

/// The packet came in by an interface (`*` at the end matches any rest).
pub(super) fn from(interface: &str) -> Value {
    compare("==", meta("iifname"), json!(interface))
}

/// The packet did not come in by an interface.
pub(super) fn not_from(interface: &str) -> Value {
    compare("!=", meta("iifname"), json!(interface))
}

/// The packet leaves by an interface.
pub(super) fn to(interface: &str) -> Value {
    compare("==", meta("oifname"), json!(interface))
}

/// The packet does not leave by an interface.
pub(super) fn not_to(interface: &str) -> Value {
    compare("!=", meta("oifname"), json!(interface))
}

/// The packet is IPv6.
pub(super) fn ipv6() -> Value {
    compare("==", meta("nfproto"), json!("ipv6"))
}

/// It belongs to a connection that was allowed before.
pub(super) fn known_connection() -> Value {
    compare("in", json!({ "ct": { "key": "state" } }), json!(["established", "related"]))
}

/// It would be a new entry of the connection tracker.
pub(super) fn new_connection() -> Value {
    let status = json!({ "&": [{ "ct": { "key": "status" } }, "confirmed"] });
    compare("==", status, json!(0))
}

/// Jumps by what a map says about the interface.
pub(super) fn by_interface(key: &str, map: &str) -> Value {
    json!({ "vmap": { "key": meta(key), "data": format!("@{map}") } })
}

/// A network as a value; a single address as such.
pub(super) fn network(net: Ipv4Net) -> Value {
    if net.prefix_len() == 32 {
        return json!(net.addr().to_string());
    }
    json!({ "prefix": { "addr": net.network().to_string(), "len": net.prefix_len() } })
}

/// A set of networks, which must not overlap.
pub(super) fn networks(nets: &[Ipv4Net]) -> Value {
    json!({ "set": nets.iter().copied().map(network).collect::<Vec<_>>() })
}

/// Let it pass (this table's part of the decision).
pub(super) fn accept() -> Value {
    json!({ "accept": null })
}

/// Count it and drop it.
pub(super) fn counted_drop() -> [Value; 2] {
    [json!({ "counter": { "packets": 0, "bytes": 0 } }), json!({ "drop": null })]
}

/// A condition list that ends in a counted drop.
pub(super) fn drop_if<const N: usize>(conditions: [Value; N]) -> Vec<Value> {
    conditions.into_iter().chain(counted_drop()).collect()
}

/// A condition list that ends in accept.
pub(super) fn accept_if<const N: usize>(conditions: [Value; N]) -> Vec<Value> {
    conditions.into_iter().chain([accept()]).collect()
}
