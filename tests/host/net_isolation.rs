//! A tenant's guests reach neither other tenants nor the host; the host reaches them.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use mvm_host::net::{Isolation, Port};
use mvm_model::record::Egress;
use serde_json::Value;

use crate::frames::{self, Frame, Ip};
use crate::guest::Guest;
use crate::world::{Neighbour, World, gateway, in_namespace, ip, nft, port};

fn udp(to: u16) -> Ip {
    Ip::Udp { from: 5000, to, data: b"hello".to_vec() }
}

/// Every kind of packet that could cross a border.
fn attempts() -> Vec<(&'static str, Ip)> {
    vec![
        ("UDP", udp(9)),
        ("UDP to the resolver's port", udp(53)),
        ("TCP", Ip::TcpSyn { from: 5000, to: 22 }),
        ("TCP to the resolver's port", Ip::TcpSyn { from: 5000, to: 53 }),
        ("ping", Ip::Ping { id: 1 }),
        ("a fragment", Ip::Fragment { offset: 4 }),
    ]
}

/// How much a rule of `inet mvm` has dropped, over all tenants.
fn dropped(purpose: &str) -> u64 {
    let listing: Value = serde_json::from_str(&nft("-j list table inet mvm")).unwrap();
    let rules = listing["nftables"].as_array().unwrap().iter().map(|object| &object["rule"]);
    rules
        .filter(|rule| rule["comment"].as_str().is_some_and(|c| c.starts_with(purpose)))
        .flat_map(|rule| rule["expr"].as_array().unwrap())
        .filter_map(|expr| expr["counter"]["packets"].as_u64())
        .sum()
}

/// What a guest has received up to now. The guest's own segment has carried everything it sent
/// before: the gateway answers its ARP request after that.
fn received(guest: &Guest) -> Vec<Frame> {
    guest.send(&frames::arp_request(guest.mac, guest.address, guest.gateway));
    guest.until(|f| f.arp_reply_of(guest.gateway).is_some())
}

async fn two_tenants(world: &World, egress: Egress) -> (Guest, Guest) {
    let (a, b) = (world.tenant(7, egress.clone()).await, world.tenant(9, egress).await);
    (world.guest(&a, 3).await, world.guest(&b, 3).await)
}

async fn nothing_crosses(world: World, egress: Egress) {
    let (a, b) = two_tenants(&world, egress).await;
    for (what, packet) in attempts() {
        a.send_routed(b.address, packet.clone());
        // The other tenant's gateway address is an address of the host.
        a.send_routed(b.gateway, packet);
        assert_eq!(received(&a), [], "the host answered {what}");
        assert_eq!(received(&b), [], "{what} reached the other tenant");
    }
    // The lone fragment waits for its others in the host's reassembly.
    assert_eq!(dropped("guest to host"), 5);
}

#[test]
fn nothing_crosses_between_tenants_without_egress() {
    in_namespace("nothing_crosses_between_tenants_without_egress", |world| {
        nothing_crosses(world, Egress::None)
    });
}

#[test]
fn nothing_crosses_between_tenants_with_egress() {
    in_namespace("nothing_crosses_between_tenants_with_egress", |world| async move {
        nothing_crosses(world, Egress::Internet).await;
        assert_eq!(dropped("to another tenant"), 5);
    });
}

#[test]
fn a_listed_network_never_opens_another_tenant() {
    in_namespace("a_listed_network_never_opens_another_tenant", |world| async move {
        let all = Egress::List(vec!["10.0.0.0/8".parse().unwrap()]);
        nothing_crosses(world, all).await;
        assert_eq!(dropped("to another tenant"), 5);
    });
}

#[test]
fn a_host_that_forwards_everything_still_separates_tenants() {
    in_namespace("a_host_that_forwards_everything_still_separates_tenants", |world| async move {
        let (a, b) = two_tenants(&world, Egress::None).await;
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1").unwrap();
        for (what, packet) in attempts() {
            a.send_routed(b.address, packet);
            assert_eq!(received(&a), [], "the host answered {what}");
            assert_eq!(received(&b), [], "{what} reached the other tenant");
        }
        assert_eq!(dropped("to another tenant"), 5);
    });
}

#[test]
fn guests_cannot_reach_the_host() {
    in_namespace("guests_cannot_reach_the_host", |world| async move {
        ip("addr add 192.0.2.1/32 dev lo");
        let tenant = world.tenant(7, Egress::Internet).await;
        let guest = world.guest(&tenant, 3).await;
        let services = [TcpListener::bind("0.0.0.0:8080").unwrap()];
        let datagrams = UdpSocket::bind("0.0.0.0:9000").unwrap();
        datagrams.set_nonblocking(true).unwrap();
        for host in [gateway(&tenant), Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::LOCALHOST] {
            guest.send_routed(host, Ip::TcpSyn { from: 1, to: 8080 });
            guest.send_routed(host, udp(9000));
            guest.send_routed(host, Ip::Ping { id: 1 });
        }
        guest.send(&guest.packet(frames::BROADCAST, Ipv4Addr::BROADCAST, udp(9000)));
        assert_eq!(received(&guest), [], "the host answered");
        assert!(datagrams.recv(&mut [0; 9]).is_err(), "a datagram reached the host");
        drop(services);
    });
}

#[test]
fn the_gateway_answers_arp_for_its_own_address_only() {
    in_namespace("the_gateway_answers_arp_for_its_own_address_only", |world| async move {
        ip("addr add 192.0.2.1/32 dev lo");
        let (a, b) = two_tenants(&world, Egress::None).await;
        for other in [Ipv4Addr::new(192, 0, 2, 1), b.gateway] {
            a.send(&frames::arp_request(a.mac, a.address, other));
        }
        assert_eq!(received(&a), []);
    });
}

#[test]
fn the_host_reaches_its_guests() {
    in_namespace("the_host_reaches_its_guests", |world| async move {
        let tenant = world.tenant(7, Egress::None).await;
        let guest = world.guest(&tenant, 3).await;
        let socket = UdpSocket::bind((gateway(&tenant), 0)).unwrap();
        socket.set_read_timeout(Some(crate::guest::PATIENCE)).unwrap();
        socket.send_to(b"question", (guest.address, 700)).unwrap();
        let asked = guest.expect("the host's datagram", |f| f.udp().is_some());
        let (port, 700, b"question") = asked.udp().unwrap() else { panic!("{asked:x?}") };
        let answer = Ip::Udp { from: 700, to: port, data: b"answer".to_vec() };
        guest.send_routed(gateway(&tenant), answer);
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 6);
    });
}

#[test]
fn only_the_resolvers_port_is_open_on_the_gateway() {
    in_namespace("only_the_resolvers_port_is_open_on_the_gateway", |world| async move {
        let tenant = world.tenant(7, Egress::None).await;
        let guest = world.guest(&tenant, 3).await;
        let resolver = UdpSocket::bind((gateway(&tenant), 53)).unwrap();
        let stream = TcpListener::bind((gateway(&tenant), 53)).unwrap();
        let closed = TcpListener::bind((gateway(&tenant), 54)).unwrap();
        resolver.set_read_timeout(Some(crate::guest::PATIENCE)).unwrap();
        guest.send_routed(gateway(&tenant), udp(53));
        assert_eq!(resolver.recv(&mut [0; 16]).unwrap(), 5);
        guest.send_routed(gateway(&tenant), Ip::TcpSyn { from: 6, to: 54 });
        guest.send_routed(gateway(&tenant), Ip::TcpSyn { from: 7, to: 53 });
        let answer = guest.expect("SYN and ACK", |f| f.tcp().is_some());
        assert_eq!(answer.tcp(), Some((53, 7, 0x12)), "and none from port 54");
        drop((stream, closed));
    });
}

#[test]
fn isolated_ports_reach_the_gateway_but_not_each_other() {
    in_namespace("isolated_ports_reach_the_gateway_but_not_each_other", |world| async move {
        let tenant = world.tenant(7, Egress::Internet).await;
        let shared = world.guest(&tenant, 3).await;
        let mut isolated = Vec::new();
        for offset in [4, 5] {
            let port = Port { isolation: Isolation::Isolated, ..port(&tenant, offset) };
            world.net.ensure_port(&port).await.unwrap();
            isolated.push(Guest::open(&port));
        }
        let [one, two] = &isolated[..] else { unreachable!() };
        one.send(&one.packet(two.mac, two.address, udp(9)));
        // Nor by way of the router, which would send it back into the bridge.
        one.send_routed(two.address, udp(9));
        one.send(&one.packet(shared.mac, shared.address, udp(10)));
        shared.expect("an isolated guest's datagram to a shared one", |f| f.udp().is_some());
        assert_eq!(received(one), []);
        assert_eq!(received(two), []);
        assert_eq!(dropped("hairpin"), 1);
    });
}

#[test]
fn without_a_taps_guard_the_tenants_rules_still_hold() {
    in_namespace("without_a_taps_guard_the_tenants_rules_still_hold", |world| async move {
        let a = world.tenant(7, Egress::Internet).await;
        let b = world.tenant(9, Egress::Internet).await;
        let (one, two) = (world.guest(&a, 3).await, world.guest(&b, 3).await);
        nft("delete chain netdev mvm tn7i3");
        for source in [two.address, Ipv4Addr::new(8, 8, 8, 8)] {
            for target in [two.address, one.gateway, Ipv4Addr::new(203, 0, 113, 9)] {
                one.send(&frames::ipv4(one.mac, one.gateway_mac, source, target, udp(53)));
            }
        }
        assert_eq!(received(&one), []);
        assert_eq!(received(&two), []);
        assert_eq!(dropped("source outside the subnet"), 6);
        // Somebody gives the bridge IPv6 back.
        std::fs::write("/proc/sys/net/ipv6/conf/br-tenant-7/disable_ipv6", "0").unwrap();
        one.send(&frames::router_advertisement(one.mac));
        received(&one);
        assert!(dropped("IPv6 from guest") > 0);
    });
}

#[test]
fn a_bridge_no_rule_knows_is_closed() {
    in_namespace("a_bridge_no_rule_knows_is_closed", |world| async move {
        let (a, b) = two_tenants(&world, Egress::Internet).await;
        let lan = Neighbour::join("lan0", Some("192.168.50.1/24"), "192.168.50.9/24");
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1").unwrap();
        for map in ["from_tenant", "to_tenant", "input_tenant"] {
            nft(&format!("delete element inet mvm {map} {{ br-tenant-7 }}"));
        }
        let to = a.address;
        lan.run(move || {
            ip("route add default via 192.168.50.1");
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"intruder", (to, 1)).unwrap();
        });
        for (what, packet) in attempts() {
            a.send_routed(b.address, packet.clone());
            a.send_routed(a.gateway, packet);
            assert_eq!(received(&a), [], "{what} passed");
            assert_eq!(received(&b), [], "{what} passed");
        }
        for rule in ["from unknown tenant", "unknown tenant to host", "to unknown tenant"] {
            assert!(dropped(rule) > 0, "{rule}");
        }
    });
}
