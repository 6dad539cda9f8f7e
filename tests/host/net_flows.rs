//! What one guest may take of the host's connection tracker, and that it takes it from nobody.

use std::net::{Ipv4Addr, UdpSocket};

use mvm_host::net::FlowLimits;
use mvm_model::record::Egress;

use crate::frames::Ip;
use crate::guest::{Guest, PATIENCE};
use crate::world::{Neighbour, World, in_namespace, ip, nft, port};

const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// More than any test here needs.
const PLENTY: u32 = 100_000;

fn limited(world: World, limits: FlowLimits) -> World {
    World { net: world.net.with_limits(limits), ..world }
}

fn internet() -> Neighbour {
    let internet = Neighbour::join("up0", Some("203.0.113.1/24"), "203.0.113.9/24");
    ip("route add default via 203.0.113.9");
    internet
}

/// The ports from which datagrams of these guests arrive when each sends one from each port.
fn arriving(internet: &Neighbour, guests: &[&Guest], ports: std::ops::Range<u16>) -> Vec<Vec<u16>> {
    let service = internet.run(|| UdpSocket::bind((INTERNET, 4242)).unwrap());
    for from in ports {
        for (number, guest) in guests.iter().enumerate() {
            let data = [&[number as u8][..], &from.to_be_bytes()].concat();
            guest.send_routed(INTERNET, Ip::Udp { from, to: 4242, data });
        }
    }
    // The host's own datagram takes the same way afterwards.
    UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"host", (INTERNET, 4242)).unwrap();
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut arrived = vec![Vec::new(); guests.len()];
    let mut buffer = [0; 4];
    loop {
        match service.recv(&mut buffer).unwrap() {
            3 => {
                arrived[usize::from(buffer[0])].push(u16::from_be_bytes([buffer[1], buffer[2]]));
            }
            _ => return arrived,
        }
    }
}

#[test]
fn a_guest_has_so_many_connections_and_takes_none_from_another() {
    const NAME: &str = "a_guest_has_so_many_connections_and_takes_none_from_another";
    in_namespace(NAME, |world| async move {
        let limits = FlowLimits { open: 5, new_per_second: PLENTY, burst: PLENTY };
        let (world, internet) = (limited(world, limits), internet());
        let tenant = world.tenant(7, Egress::Internet).await;
        let greedy = world.guest(&tenant, 3).await;
        let (first, rules): (Vec<u16>, _) = ((1000..1005).collect(), world.net.generation());
        assert_eq!(arriving(&internet, &[&greedy], 1000..1020), [&first[..]]);
        assert_eq!(arriving(&internet, &[&greedy], 1000..1020), [&first[..]], "they go on");
        assert_eq!(world.net.generation(), rules, "counting is no change of the rules");
        let neighbour = world.guest(&tenant, 4).await;
        let other = world.tenant(8, Egress::Internet).await;
        let stranger = world.guest(&other, 3).await;
        let all = arriving(&internet, &[&greedy, &neighbour, &stranger], 1000..1005);
        assert_eq!(all, [&first[..]; 3]);
        let told = nft("list chain inet mvm t7_from");
        assert!(told.contains("counter packets 30 "), "{told}");

        // Other rules do not forget what is open, and what is closed makes room.
        let everything = Egress::List(vec!["0.0.0.0/0".parse().unwrap()]);
        world.tenant(7, everything).await;
        assert_eq!(arriving(&internet, &[&greedy], 1000..1020), [&first[..]]);
        drop(greedy);
        let port = port(&tenant, 3);
        world.net.remove_port(port.net_id, port.subnet, port.offset).await.unwrap();
        let heir = world.guest(&tenant, 3).await;
        let later: Vec<u16> = (2000..2005).collect();
        assert_eq!(arriving(&internet, &[&heir], 2000..2020), [later]);
    });
}

#[test]
fn a_guest_opens_so_many_connections_in_a_second() {
    in_namespace("a_guest_opens_so_many_connections_in_a_second", |world| async move {
        let limits = FlowLimits { open: PLENTY, new_per_second: 1, burst: 20 };
        let (world, internet) = (limited(world, limits), internet());
        let tenant = world.tenant(7, Egress::Internet).await;
        let (hasty, neighbour) = (world.guest(&tenant, 3).await, world.guest(&tenant, 4).await);
        let resolver = UdpSocket::bind((hasty.gateway, 53)).unwrap();
        resolver.set_nonblocking(true).unwrap();
        // A slow machine may take seconds for this.
        let [arrived] = &arriving(&internet, &[&hasty], 1000..1200)[..] else { panic!() };
        assert!((20..30).contains(&arrived.len()), "{arrived:?}");
        // The resolver's questions come from the same allowance; open connections need none.
        let question = |from| Ip::Udp { from, to: 53, data: b"question".to_vec() };
        (3000..3200).for_each(|from| hasty.send_routed(hasty.gateway, question(from)));
        let old = arriving(&internet, &[&hasty], 1000..1020);
        assert_eq!(old, [(1000..1020).collect::<Vec<u16>>()]);
        let asked = std::iter::from_fn(|| resolver.recv(&mut [0; 64]).ok()).count();
        assert!(asked < 10, "{asked} of 200");
        let other = arriving(&internet, &[&neighbour], 1000..1020);
        assert_eq!(other, [(1000..1020).collect::<Vec<u16>>()]);
    });
}
