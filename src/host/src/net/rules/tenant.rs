//! One tenant's chains and its entries in the shared maps.

use ipnet::Ipv4Net;
use mvm_model::network::BRIDGE_PREFIX;
use mvm_model::record::{Egress, TenantNetwork};
use serde_json::{Value, json};

use super::base::{ENTER, FROM, GATEWAYS, INPUT, TO};
use super::expr::{
    accept, accept_if, drop_if, ipv6, is, is_not, known_connection, network, networks, to,
};
use super::flows::{self, FlowLimits};
use super::{Chain, Family, Listing, Rule, TABLE, TenantNet};

/// Never reachable from a guest as "the internet": not globally routable, or the fleet's own
/// (the cluster's 10.240.0.0/12 is within the first). The documentation networks 192.0.2.0/24,
/// 198.51.100.0/24 and 203.0.113.0/24 are left out: nobody routes them, tests stand on them.
const NOT_INTERNET: [&str; 12] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "127.0.0.0/8",
    "0.0.0.0/8",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// Closed whatever the egress policy lists: link-local with its metadata services, loopback,
/// multicast and broadcast.
const NEVER: [&str; 5] =
    ["169.254.0.0/16", "127.0.0.0/8", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4"];

fn parsed(list: &[&str]) -> Vec<Ipv4Net> {
    let nets: Vec<Ipv4Net> = list.iter().filter_map(|text| text.parse().ok()).collect();
    debug_assert_eq!(nets.len(), list.len(), "a constant network does not parse");
    Ipv4Net::aggregate(&nets)
}

/// [`NOT_INTERNET`] as networks.
#[cfg(test)]
pub(super) fn not_internet() -> Vec<Ipv4Net> {
    parsed(&NOT_INTERNET)
}

/// An entry in one of the shared maps and sets.
pub(in super::super) struct Element {
    set: &'static str,
    value: Value,
}

impl Element {
    /// `add` or `delete` as a command.
    pub(in super::super) fn command(&self, verb: &str) -> Value {
        json!({ verb: { "element": { "family": "inet", "table": TABLE, "name": self.set,
            "elem": [self.value] } } })
    }

    /// Whether a listing has it.
    pub(in super::super) fn is_in(&self, listing: &Listing) -> bool {
        listing.elements(self.set).contains(&self.value)
    }

    /// Which set it belongs to.
    pub(in super::super) fn set(&self) -> &'static str {
        self.set
    }
}

/// A tenant's entries.
pub(in super::super) fn elements(network: &TenantNetwork) -> Vec<Element> {
    let bridge = network.tenant_net_id.bridge();
    let jump = |set, chain: &str| Element {
        set,
        value: json!([bridge, { "jump": { "target": name(network, chain) } }]),
    };
    let gateway = json!(network.ipv4_subnet.gateway().to_string());
    vec![
        jump(ENTER, "enter"),
        jump(FROM, "from"),
        jump(TO, "to"),
        jump(INPUT, "input"),
        Element { set: GATEWAYS, value: gateway },
    ]
}

fn name(network: &TenantNetwork, chain: &str) -> String {
    format!("t{}_{chain}", network.tenant_net_id)
}

/// The names of a tenant's chains.
pub(in super::super) fn chain_names(network: &TenantNetwork) -> [String; 4] {
    ["enter", "input", "from", "to"].map(|chain| name(network, chain))
}

/// A tenant's chains. Each ends in a verdict, so nothing falls back into the base chains.
pub(in super::super) fn tenant_chains(tenant: &TenantNet, limits: FlowLimits) -> [Chain; 4] {
    let chain = |which: &str, rules| Chain {
        family: Family::Inet,
        name: name(&tenant.network, which),
        hook: None,
        rules,
    };
    [
        chain("enter", enter(&tenant.network)),
        chain("input", input(&tenant.network, limits)),
        chain("from", from_tenant(tenant, limits)),
        chain("to", to_tenant(&tenant.egress)),
    ]
}

/// What the taps' guards let through, once more where all of a tenant's packets come in.
fn enter(net: &TenantNetwork) -> Vec<Rule> {
    let outside = is_not("ip", "saddr", network(net.ipv4_subnet.net()));
    vec![
        Rule::new("IPv6 from guest", drop_if([ipv6()])),
        Rule::new("source outside the subnet", drop_if([outside])),
        Rule::new("of the tenant", vec![accept()]),
    ]
}

/// A question to the resolver by UDP is an entry for half a minute, and one the kernel gives up
/// first when it runs out of them: how many there are is bounded by how fast they come.
fn input(net: &TenantNetwork, limits: FlowLimits) -> Vec<Rule> {
    let gateway = net.ipv4_subnet.gateway().to_string();
    let dns =
        |protocol: &str| accept_if([is("ip", "daddr", gateway.clone()), is(protocol, "dport", 53)]);
    vec![
        flows::rate(net, limits),
        Rule::new("DNS", dns("udp")),
        flows::count(net, limits, [is("tcp", "dport", 53)]),
        Rule::new("DNS over TCP", dns("tcp")),
        Rule::new("answers to the host", accept_if([known_connection()])),
        Rule::new("guest to host", drop_if([])),
    ]
}

/// Guests never answer connections from outside, so everything they send outward is the first
/// direction of a flow: judged by its destination alone, also when the policy changed meanwhile.
fn from_tenant(tenant: &TenantNet, limits: FlowLimits) -> Vec<Rule> {
    let net = &tenant.network;
    let own = net.tenant_net_id.bridge();
    let own_mac = net.tenant_net_id.bridge_mac().to_string();
    let mut rules = vec![
        // Before anything is accepted: under br_netfilter what stays within a tenant is tracked
        // too. The cheap question first.
        flows::rate(net, limits),
        flows::count(net, limits, []),
        // Routed back into its own LAN: a detour around port isolation.
        Rule::new("hairpin", drop_if([to(&own), is("ether", "daddr", own_mac)])),
        // Bridged frames pass here only under br_netfilter; within a tenant is allowed.
        Rule::new("within the tenant", accept_if([to(&own)])),
        Rule::new("to another tenant", drop_if([to(&format!("{BRIDGE_PREFIX}*"))])),
    ];
    rules.extend(egress(&tenant.egress));
    rules
}

fn egress(egress: &Egress) -> Vec<Rule> {
    let closed = || Rule::new("no egress", drop_if([]));
    let denied = |purpose, list: &[&str]| {
        Rule::new(purpose, drop_if([is("ip", "daddr", networks(&parsed(list)))]))
    };
    match egress {
        Egress::None => vec![closed()],
        Egress::Internet => vec![
            denied("not the internet", &NOT_INTERNET),
            Rule::new("to the internet", vec![accept()]),
        ],
        Egress::List(nets) => {
            let mut rules = vec![denied("link-local and metadata", &NEVER)];
            rules.extend(listed(nets));
            rules.push(closed());
            rules
        }
    }
}

fn listed(nets: &[Ipv4Net]) -> Option<Rule> {
    let nets: Vec<Ipv4Net> = nets.iter().map(Ipv4Net::trunc).collect();
    match &Ipv4Net::aggregate(&nets)[..] {
        [] => None,
        // nft has no set element for everything.
        [all] if all.prefix_len() == 0 => Some(Rule::new("to anywhere", vec![accept()])),
        nets => {
            let allowed = is("ip", "daddr", networks(nets));
            Some(Rule::new("to a listed network", accept_if([allowed])))
        }
    }
}

fn to_tenant(egress: &Egress) -> Vec<Rule> {
    let closed = Rule::new("outside to guest", drop_if([]));
    match egress {
        Egress::None => vec![closed],
        Egress::Internet | Egress::List(_) => {
            let answers = accept_if([known_connection()]);
            vec![
                Rule::new("IPv6 to guest", drop_if([ipv6()])),
                Rule::new("answers to the tenant", answers),
                closed,
            ]
        }
    }
}
