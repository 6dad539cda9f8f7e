//! Coming, staying and going: order, repetition, crashes, strangers.

use mvm_host::net::{Expected, Holder, Interface, NetError, Port, TenantNet, document};
use mvm_model::record::Egress;

use crate::world::{in_namespace, ip, nft, port, tenant};

#[test]
fn a_tenant_and_a_port_come_up_and_go_away() {
    in_namespace("a_tenant_and_a_port_come_up_and_go_away", |world| async move {
        let tenant = world.tenant(7, Egress::None).await;
        let guest = world.guest(&tenant, 3).await;
        let bridge = ip("-d addr show br-tenant-7");
        for part in
            ["mtu 1450", "02:6d:00:07:00:01", "inet 10.240.7.1/24", "mvm:test-node:tenant:tenant-7"]
        {
            assert!(bridge.contains(part), "{part:?} is not in {bridge}");
        }
        let tap = ip("-d link show tn7i3");
        for part in [
            "master br-tenant-7",
            "mtu 1450",
            "UP",
            "mvm:test-node:port:7/3",
            "persist on",
            "vnet_hdr on",
        ] {
            assert!(tap.contains(part), "{part:?} is not in {tap}");
        }
        assert_eq!(world.net.list().await.unwrap().len(), 2);
        drop(guest);
        let port = port(&tenant, 3);
        world.net.remove_port(port.net_id, port.subnet, port.offset).await.unwrap();
        assert!(matches!(world.net.list().await.unwrap()[..], [Interface::Bridge { .. }]));
        assert!(ip("link show br-tenant-7").contains("mtu 1450"), "the MTU went with the port");
        world.net.remove_tenant(&tenant.network).await.unwrap();
        assert!(world.net.list().await.unwrap().is_empty());
        assert_eq!(nft("list ruleset"), "");
    });
}

#[test]
fn ensuring_twice_changes_nothing() {
    in_namespace("ensuring_twice_changes_nothing", |world| async move {
        let tenant = world.tenant(7, Egress::Internet).await;
        let guest = world.guest(&tenant, 3).await;
        // Handles and counters tell a rewritten rule from one that stayed.
        let state = || (nft("-a list ruleset"), ip("addr"), ip("route"));
        let before = state();
        world.tenant(7, Egress::Internet).await;
        world.net.ensure_port(&port(&tenant, 3)).await.unwrap();
        assert_eq!(state(), before);
        drop(guest);
    });
}

/// What a wake trusts: whoever changes a rule or an interface takes the trust with it.
#[test]
fn what_was_remembered_is_forgotten_with_any_change() {
    in_namespace("what_was_remembered_is_forgotten_with_any_change", |world| async move {
        let tenant = world.tenant(7, Egress::Internet).await;
        let guest = world.guest(&tenant, 3).await;
        let port = port(&tenant, 3);
        assert!(!world.net.is_untouched(&tenant, &port).await, "nothing was remembered");
        for change in [
            "nft: delete chain netdev mvm tn7i3",
            "nft: flush ruleset",
            "nft: add table inet stranger",
            "ip: link set tn7i3 down",
            "ip: link set tn7i3 nomaster",
            "ip: link set br-tenant-7 mtu 1400",
        ] {
            let at = world.net.generation().unwrap();
            world.net.ensure_tenant(&tenant).await.unwrap();
            world.net.ensure_port(&port).await.unwrap();
            world.net.remember(&tenant, &port, at).await;
            if world.net.generation() != Some(at) {
                assert!(!world.net.is_untouched(&tenant, &port).await, "mended, not looked at");
                world.net.remember(&tenant, &port, world.net.generation().unwrap()).await;
            }
            assert!(world.net.is_untouched(&tenant, &port).await, "before {change}");
            let other = TenantNet { egress: Egress::None, ..tenant.clone() };
            assert!(!world.net.is_untouched(&other, &port).await, "another egress");
            match change.split_once(": ").unwrap() {
                ("nft", text) => drop(nft(text)),
                (_, text) => drop(ip(text)),
            }
            assert!(!world.net.is_untouched(&tenant, &port).await, "after {change}");
        }
        drop(guest);
    });
}

#[test]
fn tenants_come_and_go_without_touching_each_other() {
    in_namespace("tenants_come_and_go_without_touching_each_other", |world| async move {
        let (a, b) = (world.tenant(7, Egress::None).await, world.tenant(9, Egress::None).await);
        let _guests = (world.guest(&a, 3).await, world.guest(&b, 3).await);
        let before = nft("list chain inet mvm t7_from") + &nft("list chain netdev mvm tn7i3");
        world.net.remove_tenant(&b.network).await.unwrap();
        assert_eq!(
            nft("list chain inet mvm t7_from") + &nft("list chain netdev mvm tn7i3"),
            before
        );
        assert!(!nft("list ruleset").contains("tn9") && !ip("link").contains("tn9"));
        world.net.remove_tenant(&b.network).await.unwrap();
        world.net.remove_tenant(&a.network).await.unwrap();
        assert_eq!(nft("list ruleset"), "");
    });
}

#[test]
fn drift_is_repaired() {
    in_namespace("drift_is_repaired", |world| async move {
        let tenant = world.tenant(7, Egress::None).await;
        let guest = world.guest(&tenant, 3).await;
        let rules = || nft("-s list ruleset");
        let right = rules();
        for damage in [
            "flush chain netdev mvm tn7i3",
            "delete table netdev mvm",
            "add rule netdev mvm tn7i3 accept",
            "insert rule netdev mvm tn7i3 accept",
            "flush chain inet mvm t7_from",
            "insert rule inet mvm forward accept",
            "delete element inet mvm from_tenant { br-tenant-7 }",
            "flush ruleset",
        ] {
            nft(damage);
            world.tenant(7, Egress::None).await;
            world.net.ensure_port(&port(&tenant, 3)).await.unwrap();
            assert_eq!(rules(), right, "after {damage}");
        }
        for damage in [
            "link set tn7i3 nomaster",
            "link set tn7i3 down",
            "link set br-tenant-7 down",
            "link set br-tenant-7 mtu 1500",
            "addr flush dev br-tenant-7",
            "link set br-tenant-7 address 02:00:00:00:00:09",
        ] {
            ip(damage);
            world.tenant(7, Egress::None).await;
            world.net.ensure_port(&port(&tenant, 3)).await.unwrap();
            let (bridge, tap) = (ip("addr show br-tenant-7"), ip("link show tn7i3"));
            assert!(tap.contains("master br-tenant-7") && tap.contains(",UP"), "{damage}: {tap}");
            for part in ["10.240.7.1/24", "mtu 1450", "02:6d:00:07:00:01", ",UP"] {
                assert!(bridge.contains(part), "{damage}: {part} not in {bridge}");
            }
        }
        drop(guest);
    });
}

#[test]
fn a_vanished_tap_is_made_again_with_its_rules() {
    in_namespace("a_vanished_tap_is_made_again_with_its_rules", |world| async move {
        let tenant = world.tenant(7, Egress::None).await;
        let kept = world.guest(&tenant, 4).await;
        drop(world.guest(&tenant, 3).await);
        ip("link del tn7i3");
        world.net.ensure_port(&port(&tenant, 4)).await.unwrap();
        let guest = world.guest(&tenant, 3).await;
        let mut forged = guest.packet(kept.mac, kept.address, crate::frames::Ip::Ping { id: 1 });
        forged.0[11] ^= 1;
        guest.send(&forged);
        guest.send(&guest.packet(kept.mac, kept.address, crate::frames::Ip::Ping { id: 2 }));
        assert_eq!(kept.until(|frame| frame.ipv4().is_some()), []);
    });
}

#[test]
fn strangers_interfaces_are_refused_and_left_alone() {
    in_namespace("strangers_interfaces_are_refused_and_left_alone", |world| async move {
        ip("link add br-tenant-7 type bridge");
        ip("link add br-tenant-8 type bridge");
        ip("link set br-tenant-8 alias mvm:other-node:tenant:tenant-8");
        for id in [7, 8] {
            let refused = world.net.ensure_tenant(&tenant(id, Egress::None)).await.unwrap_err();
            let NetError::Taken { holder: Holder::Interface { name, .. }, .. } = &refused else {
                panic!("{refused:?}");
            };
            assert_eq!(*name, format!("br-tenant-{id}"));
            world.net.remove_tenant(&tenant(id, Egress::None).network).await.unwrap();
        }
        assert_eq!(nft("list ruleset"), "");
        assert!(ip("link").contains("br-tenant-7") && ip("link").contains("br-tenant-8"));

        let ours = world.tenant(9, Egress::None).await;
        ip("tuntap add tn9i3 mode tap");
        let refused = world.net.ensure_port(&port(&ours, 3)).await.unwrap_err();
        assert!(matches!(refused, NetError::Taken { .. }), "{refused:?}");
        world.net.remove_tenant(&ours.network).await.unwrap();
        assert!(ip("link").contains("tn9i3"));
    });
}

#[test]
fn a_subnet_in_use_is_refused_naming_the_holder() {
    in_namespace("a_subnet_in_use_is_refused_naming_the_holder", |world| async move {
        ip("link add lan0 type bridge");
        ip("link set lan0 up");
        let taken = |what: &'static str| {
            let net = &world.net;
            async move {
                let tenant = tenant(7, Egress::None);
                let refused = net.ensure_tenant(&tenant).await.unwrap_err().to_string();
                assert!(refused.contains(what) && refused.contains("lan0"), "{refused}");
                let found = net
                    .find_conflict(tenant.network.tenant_net_id, tenant.network.ipv4_subnet)
                    .await;
                assert!(found.unwrap().is_some());
            }
        };
        ip("addr add 10.240.7.200/25 dev lan0");
        taken("10.240.7.200/25").await;
        ip("addr flush dev lan0");
        ip("route add 10.240.0.0/16 dev lan0");
        taken("10.240.0.0/16").await;
        ip("route del 10.240.0.0/16 dev lan0");
        ip("route add default dev lan0");
        world.tenant(7, Egress::None).await;
        let same = tenant(7, Egress::None).network;
        let found = world.net.find_conflict(same.tenant_net_id, same.ipv4_subnet).await.unwrap();
        assert!(matches!(found, Some(Holder::Interface { .. })), "{found:?}");
    });
}

#[test]
fn the_tables_of_others_are_never_touched() {
    in_namespace("the_tables_of_others_are_never_touched", |world| async move {
        nft(
            "add table inet theirs; add chain inet theirs c { type filter hook forward priority 0; policy drop; }; add rule inet theirs c counter accept; add table ip nat",
        );
        let theirs = || nft("-a list table inet theirs") + &nft("-a list table ip nat");
        let before = theirs();
        let tenant = world.tenant(7, Egress::Internet).await;
        drop(world.guest(&tenant, 3).await);
        assert_eq!(theirs(), before);
        world.net.remove_tenant(&tenant.network).await.unwrap();
        assert_eq!(theirs(), before);
    });
}

#[test]
fn the_document_loads_and_is_what_is_written() {
    in_namespace("the_document_loads_and_is_what_is_written", |world| async move {
        let lists = Egress::List(vec!["192.0.2.0/24".parse().unwrap()]);
        let tenants =
            [(7, Egress::Internet), (8, Egress::None), (9, lists)].map(|(id, e)| tenant(id, e));
        let ports: Vec<Port> = tenants.iter().map(|tenant| port(tenant, 3)).collect();
        for (tenant, port) in tenants.iter().zip(&ports) {
            world.net.ensure_tenant(tenant).await.unwrap();
            world.net.ensure_port(port).await.unwrap();
        }
        let written = nft("-s list ruleset");
        nft("flush ruleset");
        let file = world.dir.join("rules.json");
        std::fs::write(&file, document(&tenants, &ports)).unwrap();
        nft(&format!("-j -f {}", file.display()));
        assert_eq!(nft("-s list ruleset"), written);
        let expected = Expected { tenants: tenants.into(), ports };
        assert_eq!(world.net.verify(&expected).await.unwrap().findings, []);
    });
}
