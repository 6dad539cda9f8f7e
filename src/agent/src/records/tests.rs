use mvm_model::NetId;
use mvm_model::record::{Egress, ManagedBy, TenantNetwork};
use mvm_model::resources::Quotas;

use super::*;

fn records() -> (tempfile::TempDir, Records) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    (dir, Records::new(Dirs::from_env(move |name| Some(root.join(name).into()))))
}

fn tenant(name: &str, net: u16) -> TenantRecord {
    let net = NetId::new(net).unwrap();
    TenantRecord {
        schema_version: SCHEMA_VERSION,
        tenant_id: name.parse().unwrap(),
        network: TenantNetwork { tenant_net_id: net, ipv4_subnet: net.default_subnet() },
        quotas: Quotas::default(),
        egress: Egress::default(),
        managed_by: ManagedBy::Local,
        address_range: None,
        pinned: false,
        orphaned: false,
        builtin: false,
        created_at: 1,
        destroying: false,
    }
}

#[test]
fn records_are_read_back_as_written_and_sorted() {
    let (_dir, records) = records();
    for (name, net) in [("zeta", 2), ("acme", 1)] {
        records.put_tenant(&tenant(name, net)).unwrap();
    }
    let found = records.tenants();
    assert_eq!(found.records, [tenant("acme", 1), tenant("zeta", 2)]);
    assert_eq!(found.problems, []);
}

#[test]
fn a_damaged_record_is_reported_and_hides_no_other() {
    let (_dir, records) = records();
    records.put_tenant(&tenant("acme", 1)).unwrap();
    records.put_tenant(&tenant("zeta", 2)).unwrap();
    let file = records.tenant_file(&"acme".parse().unwrap());
    for damage in [&b""[..], b"{", b"{\"schema_version\":1}", b"\xff\xff"] {
        fs::write(&file, damage).unwrap();
        let found = records.tenants();
        assert_eq!(found.records, [tenant("zeta", 2)]);
        assert_eq!(found.problems.len(), 1);
        let error = records.tenant(&"acme".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.message.contains("tenant.json is damaged"), "{error}");
    }
}

#[test]
fn a_record_of_a_newer_version_is_left_alone() {
    let (_dir, records) = records();
    records.put_tenant(&tenant("acme", 1)).unwrap();
    let file = records.tenant_file(&"acme".parse().unwrap());
    fs::write(&file, br#"{"schema_version": 2, "tenant": "of the future"}"#).unwrap();
    let error = records.tenant(&"acme".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind, Kind::NewerState);
    assert!(error.hint.is_some());
}

#[test]
fn what_is_removed_is_gone_and_removing_it_again_is_fine() {
    let (_dir, records) = records();
    records.put_tenant(&tenant("acme", 1)).unwrap();
    let dir = records.dirs.tenant(&"acme".parse().unwrap());
    fs::write(dir.join("more"), b"x").unwrap();
    records.remove("acme", &dir).unwrap();
    assert!(!dir.exists());
    records.remove("acme", &dir).unwrap();
}
