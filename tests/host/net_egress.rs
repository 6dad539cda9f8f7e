//! What leaves the host, and by whom it is entered.

use std::net::{Ipv4Addr, UdpSocket};

use mvm_model::record::Egress;

use crate::frames::Ip;
use crate::guest::{Guest, PATIENCE};
use crate::world::{Neighbour, World, in_namespace, ip, nft, port, tenant};

const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 9);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The host has an uplink to "the internet", by which a metadata service is reachable too, and a
/// private network.
struct Surroundings {
    internet: Neighbour,
    lan: Neighbour,
}

fn surroundings() -> Surroundings {
    let internet = Neighbour::join("up0", Some("203.0.113.1/24"), "203.0.113.9/24");
    let lan = Neighbour::join("lan0", Some("192.168.50.1/24"), "192.168.50.9/24");
    ip("route add default via 203.0.113.9");
    internet.run(|| ip("addr add 169.254.169.254/32 dev eth0"));
    Surroundings { internet, lan }
}

/// Sends a datagram to a service on a neighbour and reports who it came from, if it came.
fn reaches(guest: &Guest, neighbour: &Neighbour, to: Ipv4Addr) -> Option<Ipv4Addr> {
    let service = neighbour.run(move || UdpSocket::bind((to, 4242)).unwrap());
    let marker = UdpSocket::bind("0.0.0.0:0").unwrap();
    guest.send_routed(to, Ip::Udp { from: 77, to: 4242, data: b"guest".to_vec() });
    // The host's own datagram takes the same way afterwards: what comes first tells.
    marker.send_to(b"host", (to, 4242)).unwrap();
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = service.recv_from(&mut buffer).unwrap();
    let std::net::SocketAddr::V4(from) = from else { panic!("{from}") };
    if &buffer[..length] != b"guest" {
        return None;
    }
    service.send_to(b"back", from).unwrap();
    guest.expect("the answer", |f| f.udp() == Some((4242, 77, b"back")));
    Some(*from.ip())
}

async fn guest(world: &World, egress: Egress) -> Guest {
    let tenant = world.tenant(7, egress).await;
    world.guest(&tenant, 3).await
}

#[test]
fn internet_egress_reaches_public_addresses_only() {
    in_namespace("internet_egress_reaches_public_addresses_only", |world| async move {
        let around = surroundings();
        let guest = guest(&world, Egress::Internet).await;
        let host = Ipv4Addr::new(203, 0, 113, 1);
        assert_eq!(reaches(&guest, &around.internet, INTERNET), Some(host), "masqueraded");
        assert_eq!(reaches(&guest, &around.lan, LAN), None);
        ip("route add 169.254.169.254 dev up0");
        assert_eq!(reaches(&guest, &around.internet, METADATA), None);
    });
}

#[test]
fn no_egress_reaches_nothing() {
    in_namespace("no_egress_reaches_nothing", |world| async move {
        let around = surroundings();
        let guest = guest(&world, Egress::None).await;
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1").unwrap();
        assert_eq!(reaches(&guest, &around.internet, INTERNET), None);
        assert_eq!(reaches(&guest, &around.lan, LAN), None);
    });
}

#[test]
fn a_list_reaches_what_it_names_even_if_private_and_never_metadata() {
    in_namespace(
        "a_list_reaches_what_it_names_even_if_private_and_never_metadata",
        |world| async move {
            let around = surroundings();
            let list = ["192.168.50.8/29", "192.168.50.9/32"];
            let list = list.iter().map(|net| net.parse().unwrap()).collect();
            let guest = guest(&world, Egress::List(list)).await;
            assert_eq!(reaches(&guest, &around.lan, LAN), Some(Ipv4Addr::new(192, 168, 50, 1)));
            assert_eq!(reaches(&guest, &around.internet, INTERNET), None);
            let everything = Egress::List(vec!["0.0.0.0/0".parse().unwrap()]);
            world.tenant(7, everything).await;
            assert!(reaches(&guest, &around.internet, INTERNET).is_some());
            ip("route add 169.254.169.254 dev up0");
            assert_eq!(reaches(&guest, &around.internet, METADATA), None);
            nft("delete chain netdev mvm tn7i3");
            assert_eq!(
                reaches(&guest, &around.internet, METADATA),
                None,
                "without the tap's guard"
            );
        },
    );
}

#[test]
fn withdrawn_egress_ends_flows_that_are_open() {
    in_namespace("withdrawn_egress_ends_flows_that_are_open", |world| async move {
        let around = surroundings();
        let guest = guest(&world, Egress::Internet).await;
        assert!(reaches(&guest, &around.internet, INTERNET).is_some());
        world.tenant(7, Egress::None).await;
        assert_eq!(reaches(&guest, &around.internet, INTERNET), None);
    });
}

#[test]
fn nobody_outside_enters_a_tenant() {
    in_namespace("nobody_outside_enters_a_tenant", |world| async move {
        let around = surroundings();
        let guest = guest(&world, Egress::Internet).await;
        let resolver = UdpSocket::bind((guest.gateway, 53)).unwrap();
        resolver.set_nonblocking(true).unwrap();
        let (to, gateway) = (guest.address, guest.gateway);
        for outside in [&around.internet, &around.lan] {
            outside.run(move || {
                let host = if ip("-4 addr show eth0").contains("203.0") {
                    "203.0.113.1"
                } else {
                    "192.168.50.1"
                };
                ip(&format!("route add 10.240.7.0/24 via {host}"));
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(b"intruder", (to, 1)).unwrap();
                socket.send_to(b"intruder", (gateway, 53)).unwrap();
            });
        }
        // Forwarded and delivered packets of a veth are handled in order: the round trip of an
        // allowed exchange shows that the intruders were judged before.
        assert!(reaches(&guest, &around.internet, INTERNET).is_some());
        assert!(resolver.recv(&mut [0; 9]).is_err(), "the resolver is open to the outside");
        let seen = guest.pending();
        assert!(!seen.iter().any(|f| f.udp().is_some_and(|(_, _, data)| data == b"intruder")));
        assert!(nft("list chain inet mvm t7_to").contains("packets 1"), "{}", nft("list ruleset"));
    });
}

#[test]
fn the_host_becomes_no_router_for_others() {
    in_namespace("the_host_becomes_no_router_for_others", |world| async move {
        let around = surroundings();
        let forwarding = |interface: &str| {
            let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
            std::fs::read_to_string(path).unwrap().trim() == "1"
        };
        let guest = guest(&world, Egress::Internet).await;
        assert!(forwarding("up0") && forwarding("br-tenant-7"));
        assert!(!forwarding("lan0") && !forwarding("all"), "only where it is needed");

        let service = around.lan.run(|| UdpSocket::bind("0.0.0.0:4242").unwrap());
        around.internet.run(|| {
            ip("route add 192.168.50.0/24 via 203.0.113.1");
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"intruder", (LAN, 4242)).unwrap();
        });
        assert!(reaches(&guest, &around.internet, INTERNET).is_some());
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"host", (LAN, 4242)).unwrap();
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 16];
        let length = service.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"host");

        drop(guest);
        world.net.remove_tenant(&tenant(7, Egress::None).network).await.unwrap();
        assert!(!forwarding("up0"), "undone with the last tenant");
        assert_eq!(nft("list ruleset"), "");
    });
}

#[test]
fn forwarding_that_was_on_before_is_left_on_and_unguarded() {
    in_namespace("forwarding_that_was_on_before_is_left_on_and_unguarded", |world| async move {
        let around = surroundings();
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1").unwrap();
        let guest = guest(&world, Egress::Internet).await;
        let service = around.lan.run(|| UdpSocket::bind("0.0.0.0:4242").unwrap());
        around.internet.run(|| {
            ip("route add 192.168.50.0/24 via 203.0.113.1");
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"routed", (LAN, 4242)).unwrap();
        });
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(service.recv(&mut [0; 16]).unwrap(), 6, "others' routing is not ours");
        drop(guest);
        let network = tenant(7, Egress::None).network;
        world.net.remove_tenant(&network).await.unwrap();
        let path = "/proc/sys/net/ipv4/conf/up0/forwarding";
        assert_eq!(std::fs::read_to_string(path).unwrap().trim(), "1");
    });
}

#[test]
fn a_removed_ports_connections_are_forgotten() {
    in_namespace("a_removed_ports_connections_are_forgotten", |world| async move {
        let around = surroundings();
        let guest = guest(&world, Egress::Internet).await;
        let service = around.internet.run(|| UdpSocket::bind((INTERNET, 4243)).unwrap());
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        guest.send_routed(INTERNET, Ip::Udp { from: 77, to: 4243, data: b"guest".to_vec() });
        let (_, peer) = service.recv_from(&mut [0; 16]).unwrap();
        drop(guest);
        let port = port(&tenant(7, Egress::Internet), 3);
        world.net.remove_port(port.net_id, port.subnet, port.offset).await.unwrap();
        let heir = self::guest(&world, Egress::Internet).await;
        service.send_to(b"late", peer).unwrap();
        let host = UdpSocket::bind((heir.gateway, 0)).unwrap();
        host.send_to(b"marker", (heir.address, 1)).unwrap();
        let seen = heir.until(|f| f.udp().is_some_and(|(_, _, data)| data == b"marker"));
        assert_eq!(seen, [], "the old connection reaches the new holder");
    });
}
