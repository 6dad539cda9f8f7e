//! Live probes are silent when all is well, find what crosses, and leave nothing behind.

use mvm_host::net::{Finding, Port, Spot};
use mvm_model::record::Egress;

use crate::world::{World, in_namespace, ip, nft, port, tenant};

fn spot(id: u16) -> Spot {
    let tenant = tenant(id, Egress::Internet);
    Spot { tenant: tenant.tenant.clone(), port: port(&tenant, 254), resolver: false }
}

async fn two_tenants(world: &World) {
    world.tenant(7, Egress::Internet).await;
    world.tenant(9, Egress::Internet).await;
}

async fn probe(world: &World) -> Vec<Finding> {
    let findings = world.net.probe(&[spot(7), spot(9)]).await.unwrap();
    assert!(!ip("link").contains("i254"), "a probe left its tap");
    findings
}

fn says(findings: &[Finding], object: &str, problem: &str) -> bool {
    findings.iter().any(|f| f.object == object && f.problem.contains(problem))
}

#[test]
fn a_right_network_is_silent_when_tried() {
    in_namespace("a_right_network_is_silent_when_tried", |world| async move {
        two_tenants(&world).await;
        assert_eq!(probe(&world).await, []);
        assert_eq!(world.net.probe(&[]).await.unwrap(), []);
    });
}

/// A tap without an owner is anybody's to attach to who may open the device.
#[test]
fn a_probes_tap_is_roots_alone() {
    in_namespace("a_probes_tap_is_roots_alone", |world| async move {
        let seven = world.tenant(7, Egress::Internet).await;
        let port = Port { owner_uid: Some(0), ..port(&seven, 254) };
        world.net.ensure_port(&port).await.unwrap();
        world.net.ensure_port(&port).await.unwrap();
        assert!(ip("-d link show tn7i254").contains("user root"), "{}", ip("-d link"));
        let spot = Spot { port, ..spot(7) };
        assert_eq!(world.net.probe(&[spot]).await.unwrap(), []);
    });
}

#[test]
fn what_crosses_between_tenants_is_found() {
    in_namespace("what_crosses_between_tenants_is_found", |world| async move {
        two_tenants(&world).await;
        nft("insert rule inet mvm t7_from accept");
        nft("insert rule inet mvm t9_to accept");
        let findings = probe(&world).await;
        assert!(says(&findings, "br-tenant-9", "traffic of tenant tenant-7"), "{findings:?}");
        two_tenants(&world).await;
        assert_eq!(probe(&world).await, []);
    });
}

#[test]
fn a_host_that_answers_and_a_gateway_that_does_not_are_found() {
    in_namespace("a_host_that_answers_and_a_gateway_that_does_not_are_found", |world| async move {
        two_tenants(&world).await;
        nft("insert rule inet mvm t7_input accept");
        let findings = probe(&world).await;
        assert!(says(&findings, "br-tenant-7", "beyond DNS"), "{findings:?}");
        two_tenants(&world).await;
        let silent = Spot { resolver: true, ..spot(7) };
        let findings = world.net.probe(std::slice::from_ref(&silent)).await.unwrap();
        assert!(says(&findings, "br-tenant-7", "resolver does not answer"), "{findings:?}");
        ip("addr del 10.240.7.1/24 dev br-tenant-7");
        let findings = probe(&world).await;
        assert!(says(&findings, "br-tenant-7", "gateway"), "{findings:?}");
    });
}
