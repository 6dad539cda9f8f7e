//! What the firewall should be, as values: pure functions from tenants and ports to chains.
//!
//! ```text
//!  inet mvm  prerouting ─┐                  ┌─ t<n>_enter   IPv4 from the own subnet, else drop
//!            input ──────┤  maps by bridge  ├─ t<n>_input   DNS on .1, replies, else drop
//!            forward ────┴─────────────────►├─ t<n>_from    own egress policy, else drop
//!                                           └─ t<n>_to      replies, else drop
//!            postrouting                       masquerade what leaves a tenant
//!                                           sets t<n>_open, t<n>_new: connections of each guest
//!  netdev mvm   tn<n>i<o>  ingress of one tap: anti-spoof, default drop
//! ```
//!
//! The base chains are policy *accept* and drop only what matches `br-tenant-*` (or our own
//! gateway addresses, or what an uplink we made forward would forward for others), so foreign
//! traffic is never touched. A tenant's bridge that no map knows is closed.
//!
//! Every rule carries a comment: what it is for and a digest of its expression. Comparing comment
//! and verdict of a listing with what we would write finds missing, extra, reordered and changed
//! rules without depending on how a version of `nft` prints an expression.
//! Written for nft 1.0.6 and Linux 6.1: no `destroy`, no device that was not just seen.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

mod base;
mod expr;
mod flows;
mod listing;
mod port;
mod tenant;

pub(super) use base::{Uplinks, guarded_uplinks, uplink_commands};
use base::{base_chains, base_sets};
pub use flows::FlowLimits;
pub(super) use listing::Listing;
pub(super) use port::PortRules;
use tenant::{elements, tenant_chains};

use mvm_model::record::TenantNetwork;

use super::TenantNet;

/// The name of both our tables.
pub const TABLE: &str = "mvm";

/// The address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Inet,
    Netdev,
}

impl Family {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Netdev => "netdev",
        }
    }
}

/// How a base chain hangs in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hook {
    pub kind: &'static str,
    pub hook: &'static str,
    pub priority: i32,
    pub policy: &'static str,
    pub device: Option<String>,
}

/// One rule: a purpose and nft JSON statements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    comment: String,
    expr: Vec<Value>,
}

impl Rule {
    pub(super) fn new(purpose: &str, expr: Vec<Value>) -> Self {
        let digest = Sha256::digest(Value::Array(expr.clone()).to_string());
        let mut comment = format!("{purpose} ");
        for byte in &digest[..4] {
            let _ = write!(comment, "{byte:02x}");
        }
        Self { comment, expr }
    }

    /// Comment and verdict: what is compared.
    fn essence(&self) -> String {
        essence(&self.comment, &self.expr)
    }

    /// The same of a rule as listed.
    fn essence_of(listed: &Value) -> String {
        let expr = listed["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        essence(listed["comment"].as_str().unwrap_or("foreign rule"), expr)
    }
}

fn essence(comment: &str, expr: &[Value]) -> String {
    let verdict = expr.last().and_then(Value::as_object).and_then(|last| last.keys().next());
    format!("{comment}: {}", verdict.map_or("nothing", String::as_str))
}

/// A chain with all its rules.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chain {
    pub family: Family,
    pub name: String,
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

impl Chain {
    /// Commands that make the chain hold exactly these rules, whatever it held before.
    pub(super) fn commands(&self) -> Vec<Value> {
        let mut commands = vec![self.add(), json!({ "flush": { "chain": self.place() } })];
        commands.extend(self.rules.iter().map(|rule| {
            let mut body = self.place_in("chain");
            body["comment"] = json!(rule.comment);
            body["expr"] = json!(rule.expr);
            json!({ "add": { "rule": body } })
        }));
        commands
    }

    /// The command that declares the chain.
    pub(super) fn add(&self) -> Value {
        let mut body = self.place();
        if let Some(hook) = &self.hook {
            body["type"] = json!(hook.kind);
            body["hook"] = json!(hook.hook);
            body["prio"] = json!(hook.priority);
            body["policy"] = json!(hook.policy);
            if let Some(device) = &hook.device {
                body["dev"] = json!(device);
            }
        }
        json!({ "add": { "chain": body } })
    }

    fn place(&self) -> Value {
        self.place_in("name")
    }

    fn place_in(&self, key: &str) -> Value {
        json!({ "family": self.family.as_str(), "table": TABLE, key: self.name })
    }

    /// The first thing in a listing of its table that differs from this chain.
    pub(super) fn difference(&self, listing: &Listing) -> Option<String> {
        let Some(chain) = listing.chain(&self.name) else {
            return Some(format!("chain {} is missing", self.name));
        };
        let hook = self.hook.as_ref().and_then(|hook| hook_difference(hook, &chain.declaration));
        if let Some(problem) = hook {
            return Some(format!("chain {}: {problem}", self.name));
        }
        let wanted: Vec<String> = self.rules.iter().map(Rule::essence).collect();
        rules_difference(&self.name, &wanted, &chain.rules)
    }
}

fn hook_difference(hook: &Hook, listed: &Value) -> Option<String> {
    let wanted = json!([hook.kind, hook.hook, hook.priority, hook.policy]);
    let there = json!([listed["type"], listed["hook"], listed["prio"], listed["policy"]]);
    (wanted != there).then(|| format!("is {there}, should be {wanted}"))
}

fn rules_difference(chain: &str, wanted: &[String], there: &[String]) -> Option<String> {
    if wanted == there {
        return None;
    }
    if let Some(missing) = wanted.iter().find(|rule| !there.contains(rule)) {
        return Some(format!("chain {chain}: rule missing: {missing}"));
    }
    if let Some(extra) = there.iter().find(|rule| !wanted.contains(rule)) {
        return Some(format!("chain {chain}: unknown rule: {extra}"));
    }
    Some(format!("chain {chain}: rules are in another order or doubled"))
}

/// Commands that remove a chain, whether or not it is there.
pub(super) fn removal(family: Family, name: &str) -> [Value; 3] {
    let place = json!({ "family": family.as_str(), "table": TABLE, "name": name });
    // Without a hook `add` accepts an existing base chain and names no device.
    [
        json!({ "add": { "chain": place } }),
        json!({ "flush": { "chain": place } }),
        json!({ "delete": { "chain": place } }),
    ]
}

/// The command that declares one of our tables.
pub(super) fn add_table(family: Family) -> Value {
    json!({ "add": { "table": { "family": family.as_str(), "name": TABLE } } })
}

/// Everything `inet mvm` needs for one tenant, as the commands of one transaction. The shared
/// part is declared each time: it is the same for all, so tenants need not know each other. What
/// cannot be declared twice is where `listing` lacks it.
pub(super) fn tenant_commands(
    tenant: &TenantNet,
    limits: FlowLimits,
    listing: &Listing,
) -> Vec<Value> {
    let mut commands = shared_commands();
    commands.extend(flows::declarations(&tenant.network, listing));
    commands.extend(tenant_chains(tenant, limits).iter().flat_map(Chain::commands));
    commands.extend(elements(&tenant.network).into_iter().map(|e| e.command("add")));
    commands
}

/// Commands that remove a tenant's chains and entries, whichever of them are there.
pub(super) fn tenant_removal(network: &TenantNetwork, listing: &Listing) -> Vec<Value> {
    let names = tenant::chain_names(network);
    let mut commands: Vec<Value> = vec![add_table(Family::Inet)];
    commands.extend(base_sets());
    // Deleting what is not there is an error, adding what is there is not: add, then delete.
    commands.extend(names.iter().map(|name| removal(Family::Inet, name)[0].clone()));
    for element in elements(network) {
        commands.extend([element.command("add"), element.command("delete")]);
    }
    commands.extend(names.iter().flat_map(|name| removal(Family::Inet, name)));
    commands.extend(flows::removals(network, listing));
    commands
}

/// Commands that remove both our tables.
pub(super) fn table_removal() -> Vec<Value> {
    let table = |family: Family| json!({ "family": family.as_str(), "name": TABLE });
    [Family::Inet, Family::Netdev]
        .into_iter()
        .flat_map(|family| [add_table(family), json!({ "delete": { "table": table(family) } })])
        .collect()
}

/// The first thing in a listing of `inet mvm` that differs from what a tenant needs.
pub(super) fn tenant_difference(
    tenant: &TenantNet,
    limits: FlowLimits,
    listing: &Listing,
) -> Option<String> {
    let chains = base_chains().into_iter().chain(tenant_chains(tenant, limits));
    chains.into_iter().find_map(|chain| chain.difference(listing)).or_else(|| {
        let elements = elements(&tenant.network);
        let missing = elements.iter().find(|element| !element.is_in(listing))?;
        Some(format!("its entry in {} is missing", missing.set()))
    })
}

/// Table, sets and base chains.
fn shared_commands() -> Vec<Value> {
    let mut commands = vec![add_table(Family::Inet)];
    commands.extend(base_sets());
    commands.extend(base_chains().iter().flat_map(Chain::commands));
    commands
}

/// The complete ruleset of these tenants and ports as one `nft -j -f` document, for loading it
/// elsewhere (another kernel, another namespace), where nothing of ours is yet. The ports' taps
/// must exist there.
pub fn document(tenants: &[TenantNet], ports: &[super::Port]) -> String {
    let (limits, nothing) = (FlowLimits::default(), Listing::default());
    let of_tenant = |tenant| tenant_commands(tenant, limits, &nothing);
    let mut commands: Vec<Value> = tenants.iter().flat_map(of_tenant).collect();
    commands.push(add_table(Family::Netdev));
    for port in ports {
        if let Ok(rules) = PortRules::of(port) {
            commands.extend(rules.chain().commands());
        }
    }
    json!({ "nftables": commands }).to_string()
}

#[cfg(test)]
mod tests;
