//! The anti-spoof chain of one tap: what a guest may put on the wire.
//!
//! ARP and IPv4 from its own MAC and address, nothing else: no VLAN tags (the kernel has already
//! moved an 802.1Q tag aside here, but `ether type` still shows it), no IPv6, no STP or LLDP, no
//! DHCP in either direction (addresses come with the config drive), no link-local.

use std::net::Ipv4Addr;

use mvm_model::Mac;
use mvm_model::network::BadNetwork;
use serde_json::{Value, json};

use super::expr::{accept_if, drop_if, is, is_not};
use super::{Chain, Family, Hook, Rule};
use crate::net::Port;

/// Before anything else that could look at the tap.
const PRIORITY: i32 = -500;

/// What a port's rules are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct PortRules {
    tap: String,
    mac: Mac,
    address: Ipv4Addr,
}

impl PortRules {
    /// The rules of a port.
    ///
    /// # Errors
    /// [`BadNetwork::Offset`] when the port has no address in its subnet.
    pub(in super::super) fn of(port: &Port) -> Result<Self, BadNetwork> {
        Ok(Self { tap: port.tap(), mac: port.mac(), address: port.address()? })
    }

    pub(in super::super) fn chain(&self) -> Chain {
        let hook = Hook {
            kind: "filter",
            hook: "ingress",
            priority: PRIORITY,
            policy: "drop",
            device: Some(self.tap.clone()),
        };
        Chain {
            family: Family::Netdev,
            name: self.tap.clone(),
            hook: Some(hook),
            rules: self.rules(),
        }
    }

    /// Without sets: each would cost `nft` a round trip whenever it lists anything.
    fn rules(&self) -> Vec<Rule> {
        let (mac, address) = (self.mac.to_string(), self.address.to_string());
        let dhcp = |direction: &str| drop_if([is("udp", direction, range(67, 68))]);
        let link_local = json!({ "prefix": { "addr": "169.254.0.0", "len": 16 } });
        vec![
            Rule::new("forged MAC", drop_if([is_not("ether", "saddr", mac.clone())])),
            Rule::new("ARP", own_arp(mac, address.clone())),
            Rule::new("forged ARP", drop_if([is("ether", "type", "arp")])),
            // From here on `ether type` has shown that there is no VLAN tag.
            Rule::new("neither ARP nor IPv4", drop_if([is_not("ether", "type", "ip")])),
            Rule::new("forged IPv4 source", drop_if([is_not("ip", "saddr", address)])),
            Rule::new("link-local", drop_if([is("ip", "daddr", link_local)])),
            Rule::new("DHCP server", dhcp("sport")),
            Rule::new("DHCP", dhcp("dport")),
            Rule::new("IPv4", accept_if([is("ether", "type", "ip")])),
            Rule::new("anything else", drop_if([])),
        ]
    }
}

fn range(first: u16, last: u16) -> Value {
    json!({ "range": [first, last] })
}

/// Questions and answers about this guest. `ether type` comes first and by itself: the `meta
/// protocol` that nft would put before ARP fields does not see a VLAN tag the kernel has moved
/// aside.
fn own_arp(mac: String, address: String) -> Vec<Value> {
    accept_if([
        is("ether", "type", "arp"),
        is("arp", "htype", 1),
        is("arp", "ptype", "ip"),
        is("arp", "hlen", 6),
        is("arp", "plen", 4),
        is("arp", "operation", range(1, 2)),
        is("arp", "saddr ether", mac),
        is("arp", "saddr ip", address),
    ])
}
