use ipnet::Ipv4Net;
use mvm_model::network::CLUSTER_CIDR;
use mvm_model::record::Egress;
use mvm_model::{NetId, Offset};
use proptest::prelude::*;

use super::*;
use crate::net::{Isolation, Port};

fn tenant(id: u16, egress: Egress) -> TenantNet {
    let tenant_net_id = NetId::new(id).unwrap();
    let ipv4_subnet = tenant_net_id.default_subnet();
    let network = TenantNetwork { tenant_net_id, ipv4_subnet };
    TenantNet { tenant: "demo".parse().unwrap(), network, egress }
}

fn port(offset: u16) -> Port {
    let net_id = NetId::new(7).unwrap();
    let subnet = net_id.default_subnet();
    Port { net_id, subnet, offset: Offset(offset), owner_uid: None, isolation: Isolation::Shared }
}

fn verdict(rule: &Rule) -> &str {
    rule.expr.last().and_then(|last| last.as_object()?.keys().next()).unwrap()
}

/// Rules without a condition: what happens to everything that comes this far.
fn is_unconditional(rule: &Rule) -> bool {
    !rule.expr.iter().any(|statement| statement.get("match").is_some())
}

/// As `nft` would list these chains.
fn listing(chains: &[Chain]) -> Vec<Value> {
    let commands = chains.iter().flat_map(Chain::commands);
    commands.filter_map(|mut command| command.get_mut("add").map(Value::take)).collect()
}

#[test]
fn every_chain_of_a_tenant_and_a_port_ends_in_a_verdict() {
    let list = Egress::List(vec!["192.0.2.0/24".parse().unwrap()]);
    for egress in [Egress::None, Egress::Internet, list, Egress::List(Vec::new())] {
        let chains = tenant_chains(&tenant(7, egress), FlowLimits::default());
        for chain in chains.iter().chain([&PortRules::of(&port(3)).unwrap().chain()]) {
            let last = chain.rules.last().unwrap();
            assert!(is_unconditional(last), "{}: {last:?}", chain.name);
            assert!(["accept", "drop"].contains(&verdict(last)), "{}: {last:?}", chain.name);
        }
    }
}

#[test]
fn only_the_internet_and_everything_listed_are_accepted_without_a_condition() {
    let open = |egress| {
        let chains = tenant_chains(&tenant(7, egress), FlowLimits::default());
        let from = chains.into_iter().find(|chain| chain.name == "t7_from").unwrap();
        from.rules.iter().any(|rule| is_unconditional(rule) && verdict(rule) == "accept")
    };
    assert!(!open(Egress::None));
    assert!(open(Egress::Internet));
    assert!(!open(Egress::List(vec!["0.0.0.0/1".parse().unwrap()])));
    assert!(open(Egress::List(
        vec!["0.0.0.0/1", "128.0.0.0/1"].into_iter().map(|net| net.parse().unwrap()).collect()
    )));
}

#[test]
fn the_internet_has_no_private_address() {
    let denied = tenant::not_internet();
    let covers = |net: &Ipv4Net| denied.iter().any(|closed| closed.contains(net));
    for net in [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "0.0.0.0/8",
    ] {
        assert!(covers(&net.parse().unwrap()), "{net}");
    }
    assert!(covers(&CLUSTER_CIDR));
    assert!(!covers(&"8.8.8.0/24".parse().unwrap()));
}

#[test]
fn a_listing_shows_what_was_removed_added_moved_or_changed() {
    let chains = tenant_chains(&tenant(7, Egress::Internet), FlowLimits::default());
    let from = &chains[2];
    let right = listing(&chains);
    let difference = |objects: Vec<Value>| from.difference(&Listing::of(objects));
    assert_eq!(difference(right.clone()), None);
    let of_chain = |object: &Value| object["rule"]["chain"] == "t7_from";
    let first = right.iter().position(of_chain).unwrap();
    let altered = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut objects = right.clone();
        change(&mut objects);
        difference(objects).unwrap()
    };
    assert!(altered(&|o| drop(o.remove(first))).contains("missing"));
    assert!(altered(&|o| o.swap(first, first + 1)).contains("order"));
    assert!(altered(&|o| o.push(o[first].clone())).contains("order"));
    let foreign = json!({ "rule": { "family": "inet", "table": TABLE, "chain": "t7_from",
        "expr": [{ "accept": null }] } });
    assert!(altered(&|o| o.insert(first, foreign.clone())).contains("foreign rule"));
    assert!(
        altered(&|o| o[first]["rule"]["expr"] = json!([{ "accept": null }])).contains("missing")
    );
    assert!(altered(&|o| o.clear()).contains("chain t7_from is missing"));
}

#[test]
fn nft_1_0_6_and_linux_6_1_know_every_command() {
    let text = document(&[tenant(7, Egress::Internet)], &[port(3)]);
    assert!(!text.contains("\"destroy\"") && !text.contains("\"reset\""));
    // Tracking connections of bridged frames takes a module of its own, which not every kernel has.
    assert!(!text.contains("\"family\":\"bridge\""));
    // One chain per device: the kernel binds several only from 5.5 on, and all go with the first.
    assert_eq!(text.matches("\"dev\":\"tn7i3\"").count(), 1);
}

proptest! {
    #[test]
    fn any_list_makes_sets_that_nft_takes(nets: Vec<(u32, u8)>) {
        let nets: Vec<Ipv4Net> = nets
            .into_iter()
            .map(|(ip, prefix)| Ipv4Net::new(ip.into(), prefix % 33).unwrap())
            .collect();
        let chains = tenant_chains(&tenant(7, Egress::List(nets)), FlowLimits::default());
        let sets = chains.iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.expr);
        for set in sets.filter_map(|statement| statement["match"]["right"]["set"].as_array()) {
            prop_assert!(!set.is_empty());
            let parsed: Vec<Ipv4Net> = set.iter().map(network).collect();
            for (at, net) in parsed.iter().enumerate() {
                let overlaps = |other: &Ipv4Net| net.contains(other) || other.contains(net);
                prop_assert!(!parsed[..at].iter().any(overlaps), "{parsed:?}");
            }
        }
    }
}

fn network(element: &Value) -> Ipv4Net {
    match element.as_str() {
        Some(address) => Ipv4Net::new(address.parse().unwrap(), 32).unwrap(),
        None => {
            let prefix = &element["prefix"];
            let address = prefix["addr"].as_str().unwrap().parse().unwrap();
            Ipv4Net::new(address, prefix["len"].as_u64().unwrap() as u8).unwrap()
        }
    }
}
