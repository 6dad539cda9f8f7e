//! `verify` is silent when all is well and names what is not.

use mvm_host::net::{Expected, Report, Severity};
use mvm_model::record::Egress;

use crate::world::{World, bridges_call_iptables, in_namespace, ip, nft, port, tenant};

async fn report(world: &World) -> Report {
    let tenant = tenant(7, Egress::Internet);
    let expected = Expected { ports: vec![port(&tenant, 3)], tenants: vec![tenant] };
    world.net.verify(&expected).await.unwrap()
}

async fn set_up(world: &World) {
    let tenant = world.tenant(7, Egress::Internet).await;
    world.net.ensure_port(&port(&tenant, 3)).await.unwrap();
}

#[test]
fn a_right_network_has_no_findings() {
    in_namespace("a_right_network_has_no_findings", |world| async move {
        set_up(&world).await;
        let report = report(&world).await;
        assert_eq!(report.findings, []);
        assert!(report.is_clean() && (report.tenants, report.ports) == (1, 1));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["findings"], serde_json::json!([]));
        assert_eq!(world.net.verify(&Expected::default()).await.unwrap().findings.len(), 2);
    });
}

#[test]
fn every_damage_is_found_and_named() {
    in_namespace("every_damage_is_found_and_named", |world| async move {
        set_up(&world).await;
        let nft_damage = [
            ("insert rule inet mvm t7_from accept", "br-tenant-7", "unknown rule"),
            ("flush chain netdev mvm tn7i3", "tn7i3", "rule missing"),
            ("add chain inet mvm input { policy drop; }", "br-tenant-7", "should be"),
            ("delete element inet mvm gateways { 10.240.7.1 }", "br-tenant-7", "gateways"),
            ("flush ruleset", "br-tenant-7", "missing"),
        ];
        let ip_damage = [
            ("link set tn7i3 down", "tn7i3", "down"),
            ("link set tn7i3 nomaster", "tn7i3", "not in"),
            ("link set tn7i3 alias mvm:else:port:7/3", "tn7i3", "alias"),
            ("link del tn7i3", "tn7i3", "not exist"),
            ("link set br-tenant-7 mtu 1500", "br-tenant-7", "MTU"),
            ("addr add 10.9.9.1/24 dev br-tenant-7", "br-tenant-7", "addresses"),
        ];
        let kinds = nft_damage.iter().map(|d| (nft as fn(&str) -> String, d));
        for (tool, (damage, object, problem)) in
            kinds.chain(ip_damage.iter().map(|d| (ip as fn(&str) -> String, d)))
        {
            tool(damage);
            let report = report(&world).await;
            let named =
                |f: &&mvm_host::net::Finding| f.object == *object && f.problem.contains(problem);
            let finding = report.findings.iter().find(named);
            let finding = finding.unwrap_or_else(|| panic!("{damage}: {report:?}"));
            assert_eq!(finding.severity, Severity::Error);
            if damage.contains("alias") {
                // Another's now: nothing `ensure` may take over.
                assert!(world.net.ensure_port(&port(&tenant(7, Egress::None), 3)).await.is_err());
                ip("link set tn7i3 alias mvm:test-node:port:7/3");
            }
            set_up(&world).await;
            assert_eq!(self::report(&world).await.findings, [], "after {damage}");
        }
    });
}

#[test]
fn strangers_on_our_bridges_and_leftovers_are_named() {
    in_namespace("strangers_on_our_bridges_and_leftovers_are_named", |world| async move {
        set_up(&world).await;
        let other = world.tenant(9, Egress::None).await;
        world.net.ensure_port(&port(&other, 3)).await.unwrap();
        ip("link add lan0 type veth peer name lan1");
        ip("link set lan0 master br-tenant-7");
        let report = report(&world).await;
        let severity = |object: &str| {
            report.findings.iter().find(|finding| finding.object == object).map(|f| f.severity)
        };
        assert_eq!(severity("lan0"), Some(Severity::Error));
        assert_eq!(severity("br-tenant-9"), Some(Severity::Warning));
        assert_eq!(severity("tn9i3"), Some(Severity::Warning));
        assert!(!report.is_clean());
    });
}

#[test]
fn settings_of_others_that_break_ours_are_named_with_a_remedy() {
    in_namespace(
        "settings_of_others_that_break_ours_are_named_with_a_remedy",
        |world| async move {
            set_up(&world).await;
            nft("add table ip filter");
            nft(
                "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
            );
            let report_of = || report(&world);
            let blocked = report_of().await;
            assert!(blocked.findings[0].remedy.contains("DOCKER-USER"), "{blocked:?}");
            nft("add rule ip filter FORWARD iifname br-tenant-* accept");
            assert_eq!(report_of().await.findings, []);
            bridges_call_iptables("1");
            if std::path::Path::new("/proc/sys/net/bridge").exists() {
                let warned = report_of().await;
                assert_eq!(warned.findings.len(), 1);
                assert!(warned.is_clean() && warned.findings[0].problem.contains("is 1"));
            }
        },
    );
}

#[test]
fn an_uplink_that_comes_later_is_found_and_opened() {
    in_namespace("an_uplink_that_comes_later_is_found_and_opened", |world| async move {
        set_up(&world).await;
        ip("link add up0 type veth peer name up1");
        ip("addr add 203.0.113.1/24 dev up0");
        ip("link set up0 up");
        ip("route add default via 203.0.113.9");
        let found = report(&world).await;
        assert_eq!((found.findings.len(), &*found.findings[0].object), (1, "up0"));
        set_up(&world).await;
        assert_eq!(report(&world).await.findings, []);
        // Somebody makes the host a router: our guard would be in their way.
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1").unwrap();
        assert!(report(&world).await.findings[0].problem.contains("forwards for all"));
        set_up(&world).await;
        assert_eq!(report(&world).await.findings, []);
        assert!(!nft("list set inet mvm routed").contains("up0"));
    });
}
