//! What one guest may take of the host's connection tracker, which all tenants share.
//!
//! A packet whose entry is not confirmed yet would make a new one. It is judged twice, by its
//! source address, which is the guest's own by then (its tap and `t<n>_enter` have seen to that):
//! whether the guest opens too many at once, and whether it has too many open. An entry is as good
//! as open for five days once both ends have spoken, so the second bound is the one that holds.
//!
//! Each tenant has two sets of its own, as large as its subnet: nobody fills another's, and no
//! address is without a place, which would let it through uncounted.

use mvm_model::record::TenantNetwork;
use serde_json::{Value, json};

use super::expr::{drop_if, new_connection};
use super::{Listing, Rule, TABLE};

/// What one guest may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowLimits {
    /// Connections at a time, of any protocol.
    pub open: u32,
    /// New ones in a second.
    pub new_per_second: u32,
    /// New ones at once, after a time of rest.
    pub burst: u32,
}

impl Default for FlowLimits {
    /// Enough for a build that fetches hundreds of packages at once and for a crawler; small
    /// beside the 65,536 entries (262,144 above 4 GiB of memory) a kernel has by itself.
    fn default() -> Self {
        Self { open: 4096, new_per_second: 500, burst: 1000 }
    }
}

const OPEN: &str = "open";
const NEW: &str = "new";

fn name(network: &TenantNetwork, which: &str) -> String {
    format!("t{}_{which}", network.tenant_net_id)
}

/// The names of a tenant's sets.
pub(super) fn set_names(network: &TenantNetwork) -> [String; 2] {
    [OPEN, NEW].map(|which| name(network, which))
}

/// Declares a tenant's sets where a listing lacks them. That packets may add to them is not said:
/// `nft` 1.0.6 has no word for it in JSON, sees it by the rules, and then takes a second
/// declaration for another set's.
pub(super) fn declarations(network: &TenantNetwork, listing: &Listing) -> Vec<Value> {
    let size = 1_u32 << (32 - u32::from(network.ipv4_subnet.prefix_len())).min(16);
    let declare = |name: &String| {
        json!({ "add": { "set": { "family": "inet", "table": TABLE, "name": name,
            "type": "ipv4_addr", "size": size } } })
    };
    set_names(network).iter().filter(|name| !listing.has_set(name)).map(declare).collect()
}

/// Removes those of a tenant's sets that a listing has. No rule may use them any more.
pub(super) fn removals(network: &TenantNetwork, listing: &Listing) -> Vec<Value> {
    let remove = |name: &String| json!({ "delete": { "set": { "family": "inet", "table": TABLE, "name": name } } });
    set_names(network).iter().filter(|name| listing.has_set(name)).map(remove).collect()
}

/// Bounds how fast a guest opens connections.
pub(super) fn rate(network: &TenantNetwork, limits: FlowLimits) -> Rule {
    let limit = json!({ "limit": { "rate": limits.new_per_second, "per": "second",
        "burst": limits.burst, "inv": true } });
    let condition = [new_connection(), by_source(&name(network, NEW), limit)];
    Rule::new("too many new connections", drop_if(condition))
}

/// Bounds how many connections a guest has open; `of` says which packets are held against it.
pub(super) fn count<const N: usize>(
    network: &TenantNetwork,
    limits: FlowLimits,
    of: [Value; N],
) -> Rule {
    let over = json!({ "ct count": { "val": limits.open, "inv": true } });
    let mut expr = of.to_vec();
    expr.extend(drop_if([new_connection(), by_source(&name(network, OPEN), over)]));
    Rule::new("too many connections", expr)
}

/// Applies a statement with a memory of its own for each source address.
fn by_source(set: &str, statement: Value) -> Value {
    json!({ "set": { "op": "add", "set": format!("@{set}"), "stmt": [statement],
        "elem": { "payload": { "protocol": "ip", "field": "saddr" } } } })
}
