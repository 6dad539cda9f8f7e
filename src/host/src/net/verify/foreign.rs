//! Settings of others that break ours. They are named with a remedy, never changed.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::super::error::NetError;
use super::super::forwarding;
use super::super::nft::Nft;
use super::super::rules::TABLE;
use super::super::{TenantNet, sysctl};
use super::{Finding, Severity, finding};

const BRIDGE_CALLS: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
/// Tables of iptables-legacy, which `nft` cannot show.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";

/// A base chain of somebody else that drops what nobody accepts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Dropper {
    family: String,
    table: String,
    chain: String,
    hook: String,
}

pub(super) async fn check(nft: &Nft, tenants: &[TenantNet]) -> Result<Vec<Finding>, NetError> {
    if tenants.is_empty() {
        return Ok(Vec::new());
    }
    let chains = nft.list(&["chains"]).await?.unwrap_or_default();
    let mut droppers = Vec::new();
    for dropper in find_droppers(&chains) {
        // Nobody but its owner can say that it lets us through; a rule naming our bridges does.
        let table = nft.list(&["table", &dropper.family, &dropper.table]).await?;
        if !mentions_us(&table.unwrap_or_default()) {
            droppers.push(dropper);
        }
    }
    let leaving = tenants.iter().any(|tenant| forwarding::needed(&tenant.egress));
    let bridged = sysctl::read(Path::new(BRIDGE_CALLS)).as_deref() == Some("1");
    let mut findings: Vec<Finding> =
        droppers.iter().filter_map(|d| dropper_finding(d, leaving, bridged)).collect();
    findings.extend(bridged.then(br_netfilter));
    findings.extend(legacy());
    Ok(findings)
}

fn find_droppers(chains: &[Value]) -> BTreeSet<Dropper> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    chains
        .iter()
        .map(|object| &object["chain"])
        .filter(|chain| chain["policy"] == "drop" && chain["table"] != TABLE)
        .filter(|chain| chain["hook"] == "forward" || chain["hook"] == "input")
        .filter(|chain| chain["family"] == "ip" || chain["family"] == "inet")
        .map(|chain| Dropper {
            family: text(&chain["family"]),
            table: text(&chain["table"]),
            chain: text(&chain["name"]),
            hook: text(&chain["hook"]),
        })
        .collect()
}

fn mentions_us(table: &[Value]) -> bool {
    Value::from(table).to_string().contains(mvm_model::network::BRIDGE_PREFIX)
}

fn dropper_finding(dropper: &Dropper, leaving: bool, bridged: bool) -> Option<Finding> {
    let Dropper { family, table, chain, hook } = dropper;
    let place = format!("{family} {table} {chain}");
    let docker = chain == "FORWARD" && table == "filter";
    let (problem, remedy) = match hook.as_str() {
        "input" => (
            "drops the guests' questions to the resolver",
            format!(
                "nft insert rule {place} iifname 'br-tenant-*' meta l4proto {{ tcp, udp }} th dport 53 accept"
            ),
        ),
        _ if bridged => (
            "drops frames between guests of one tenant and what leaves the host (br_netfilter is on)",
            forward_remedy(&place, docker),
        ),
        _ if leaving => ("drops what tenants send to the outside", forward_remedy(&place, docker)),
        _ => return None,
    };
    Some(finding(&format!("chain {place}"), problem, remedy, Severity::Error))
}

fn forward_remedy(place: &str, docker: bool) -> String {
    if docker {
        return "iptables -I DOCKER-USER -i br-tenant-+ -j ACCEPT; iptables -I DOCKER-USER -o br-tenant-+ -j ACCEPT (without Docker: the same in FORWARD)".to_owned();
    }
    format!(
        "nft insert rule {place} iifname 'br-tenant-*' accept; nft insert rule {place} oifname 'br-tenant-*' accept"
    )
}

fn br_netfilter() -> Finding {
    finding(
        "net.bridge.bridge-nf-call-iptables",
        "is 1: frames within a tenant pass every IP firewall rule of this host, and lone fragments are held back",
        "sysctl -w net.bridge.bridge-nf-call-iptables=0, unless something here needs it (Kubernetes does)",
        Severity::Warning,
    )
}

fn legacy() -> Option<Finding> {
    let tables = sysctl::read(Path::new(LEGACY_TABLES))?;
    tables.lines().any(|table| table == "filter").then(|| {
        finding(
            "iptables-legacy",
            "has a filter table that cannot be seen from here",
            "look with iptables-legacy -S FORWARD and -S INPUT; move its rules to iptables-nft",
            Severity::Warning,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chain(table: &str, hook: &str, policy: &str) -> Value {
        json!({ "chain": { "family": "ip", "table": table, "name": "FORWARD", "type": "filter",
            "hook": hook, "prio": 0, "policy": policy } })
    }

    #[test]
    fn only_strangers_dropping_base_chains_are_named() {
        let chains = [
            chain("filter", "forward", "drop"),
            chain("filter", "forward", "accept"),
            chain("filter", "output", "drop"),
            chain(TABLE, "forward", "drop"),
        ];
        let found = find_droppers(&chains);
        assert_eq!(found.len(), 1);
        let dropper = found.first().unwrap();
        assert!(dropper_finding(dropper, true, false).unwrap().remedy.contains("DOCKER-USER"));
        assert_eq!(dropper_finding(dropper, false, false), None);
    }
}
