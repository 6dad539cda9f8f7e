//! What a guest may put on the wire: its own ARP and its own IPv4, nothing else.

use std::net::Ipv4Addr;

use mvm_model::Mac;
use mvm_model::record::Egress;

use crate::frames::{self, BROADCAST, Frame, Ip};
use crate::guest::Guest;
use crate::world::{World, bridges_call_iptables, in_namespace, nft};

fn udp(from: u16, to: u16) -> Ip {
    Ip::Udp { from, to, data: b"hello".to_vec() }
}

/// Two guests of one tenant: the attacker and its neighbour.
async fn neighbours(world: &World) -> (Guest, Guest) {
    let tenant = world.tenant(7, Egress::None).await;
    (world.guest(&tenant, 3).await, world.guest(&tenant, 4).await)
}

/// Sends a forged frame, then an honest one to the neighbour, and shows that the neighbour saw
/// only the honest one.
fn refused(attacker: &Guest, neighbour: &Guest, what: &str, forged: &Frame) {
    let marker = attacker.packet(neighbour.mac, neighbour.address, udp(4000, 4001));
    attacker.send(forged);
    attacker.send(&marker);
    let leaked = neighbour.until(|frame| frame.udp().is_some_and(|(_, to, _)| to == 4001));
    assert!(leaked.is_empty(), "{what} arrived: {leaked:x?}");
}

/// The counter of a rule of the attacker's chain.
fn dropped(purpose: &str) -> u64 {
    let listing: serde_json::Value =
        serde_json::from_str(&nft("-j list chain netdev mvm tn7i3")).unwrap();
    let rules = listing["nftables"].as_array().unwrap().iter().map(|object| &object["rule"]);
    rules
        .filter(|rule| rule["comment"].as_str().is_some_and(|c| c.starts_with(purpose)))
        .flat_map(|rule| rule["expr"].as_array().unwrap())
        .filter_map(|expr| expr["counter"]["packets"].as_u64())
        .sum()
}

#[test]
fn guests_of_a_tenant_reach_each_other() {
    in_namespace("guests_of_a_tenant_reach_each_other", |world| async move {
        let (one, two) = neighbours(&world).await;
        everything_arrives(&one, &two);
        one.send(&one.packet(two.mac, two.address, Ip::Fragment { offset: 4 }));
        two.expect("fragment", |f| f.ipv4().is_some_and(|(_, _, protocol)| protocol == 17));
    });
}

#[test]
fn br_netfilter_does_not_part_a_tenants_guests() {
    in_namespace("br_netfilter_does_not_part_a_tenants_guests", |world| async move {
        bridges_call_iptables("1");
        let (one, two) = neighbours(&world).await;
        everything_arrives(&one, &two);
    });
}

fn everything_arrives(one: &Guest, two: &Guest) {
    one.send(&frames::arp_request(one.mac, one.address, two.address));
    let asked = two.expect_arp();
    two.send(&frames::arp_reply(two.mac, two.address, asked.0, asked.1));
    let reply = one.expect("ARP reply", |f| f.arp_reply_of(two.address).is_some());
    assert_eq!(reply.arp_reply_of(two.address), Some(two.mac));
    one.send(&one.packet(two.mac, two.address, udp(1, 2)));
    two.expect("UDP", |f| f.udp() == Some((1, 2, b"hello")));
    one.send(&one.packet(two.mac, two.address, Ip::TcpSyn { from: 3, to: 22 }));
    two.expect("TCP", |f| f.tcp().is_some());
    one.send(&one.packet(two.mac, two.address, Ip::Ping { id: 9 }));
    two.expect("ping", |f| f.ipv4().is_some_and(|(_, _, protocol)| protocol == 1));
}

#[test]
fn forged_senders_are_dropped_and_counted() {
    in_namespace("forged_senders_are_dropped_and_counted", |world| async move {
        let (one, two) = neighbours(&world).await;
        let stranger = Mac([2, 0, 0, 0, 0, 9]);
        let own = |payload| one.packet(two.mac, two.address, payload);
        let from_ip =
            |ip: &str| frames::ipv4(one.mac, two.mac, ip.parse().unwrap(), two.address, udp(1, 2));
        let mut other_mac = own(udp(1, 2));
        other_mac.0[6..12].copy_from_slice(&stranger.0);
        let mut neighbours_mac = own(udp(1, 2));
        neighbours_mac.0[6..12].copy_from_slice(&two.mac.0);

        refused(&one, &two, "a forged MAC", &other_mac);
        refused(&one, &two, "the neighbour's MAC", &neighbours_mac);
        assert_eq!(dropped("forged MAC"), 2);

        for ip in ["10.240.7.4", "10.240.7.1", "10.240.9.3", "0.0.0.0", "8.8.8.8"] {
            refused(&one, &two, ip, &from_ip(ip));
        }
        assert_eq!(dropped("forged IPv4 source"), 5);

        let gateway = one.gateway;
        refused(
            &one,
            &two,
            "ARP as the gateway",
            &frames::arp_reply(one.mac, gateway, two.mac, two.address),
        );
        refused(
            &one,
            &two,
            "ARP as the neighbour",
            &frames::arp_request(one.mac, two.address, one.gateway),
        );
        refused(
            &one,
            &two,
            "ARP with another sender MAC",
            &frames::arp_with_other_sender(one.mac, stranger, one.address, two.address),
        );
        refused(
            &one,
            &two,
            "an ARP probe from nobody",
            &frames::arp_request(one.mac, Ipv4Addr::UNSPECIFIED, two.address),
        );
        assert_eq!(dropped("forged ARP"), 4);
    });
}

#[test]
fn other_protocols_and_tags_are_dropped_and_counted() {
    in_namespace("other_protocols_and_tags_are_dropped_and_counted", |world| async move {
        let (one, two) = neighbours(&world).await;
        let honest = one.packet(two.mac, two.address, udp(1, 2));
        let arp = frames::arp_request(one.mac, one.address, two.address);
        refused(&one, &two, "a router advertisement", &frames::router_advertisement(one.mac));
        let six = frames::ethernet(one.mac, two.mac, frames::IPV6, &[0x60; 48]);
        refused(&one, &two, "IPv6 to one guest", &six);
        for tags in [
            &[(0x8100, 5)][..],
            &[(0x8100, 0)],
            &[(0x88a8, 5)],
            &[(0x88a8, 5), (0x8100, 6)],
            &[(0x8100, 5), (0x8100, 6)],
        ] {
            refused(&one, &two, &format!("IPv4 tagged {tags:x?}"), &honest.tagged(tags));
            refused(&one, &two, &format!("ARP tagged {tags:x?}"), &arp.tagged(tags));
        }
        let stp = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
        refused(&one, &two, "STP", &frames::ethernet(one.mac, stp, 38, &[0x42, 0x42, 3]));
        refused(&one, &two, "LLDP", &frames::ethernet(one.mac, stp, 0x88cc, &[2, 7, 4]));
        refused(
            &one,
            &two,
            "an unknown protocol",
            &frames::ethernet(one.mac, BROADCAST, 0x88b5, &[1]),
        );
        assert_eq!(dropped("neither ARP nor IPv4"), 15);
    });
}

#[test]
fn dhcp_and_link_local_are_dropped_and_counted() {
    in_namespace("dhcp_and_link_local_are_dropped_and_counted", |world| async move {
        let (one, two) = neighbours(&world).await;
        let server = one.packet(BROADCAST, Ipv4Addr::BROADCAST, udp(67, 68));
        refused(&one, &two, "a DHCP server's answer", &server);
        refused(&one, &two, "the same to one guest", &one.packet(two.mac, two.address, udp(67, 9)));
        assert_eq!(dropped("DHCP server"), 2);
        refused(&one, &two, "DHCP to a client", &one.packet(two.mac, two.address, udp(9, 68)));
        let link_local = Ipv4Addr::new(169, 254, 169, 254);
        refused(&one, &two, "link-local", &one.packet(two.mac, link_local, udp(1, 80)));
        assert_eq!(dropped("link-local"), 1);
    });
}
