//! What unit tests of the service start from: directories of their own, with records that are
//! read from JSON, as older ones on a disk are.

use mvm_model::id::InstanceId;
use mvm_model::record::InstanceRecord;
use mvm_model::state::State;
use serde_json::json;
use tempfile::TempDir;

use crate::{Dirs, Service};

/// A service with a tenant `acme` and a pool `acme/workers`, without instances.
pub(crate) fn service() -> (TempDir, Service) {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().to_owned();
    let dirs = Dirs::from_env(move |name| Some(base.join(name).into()));
    let service = Service::open(dirs, "/proc/self/exe".into(), "a test".into()).unwrap();
    let tenant = json!({ "schema_version": 1, "tenant_id": "acme", "quotas": {}, "created_at": 1,
        "network": { "tenant_net_id": 7, "ipv4_subnet": "10.240.7.0/24" } });
    let pool = json!({ "schema_version": 1, "tenant_id": "acme", "pool_id": "workers",
        "image": { "kind": "embedded", "profile": "minimal" }, "role": "worker", "created_at": 1,
        "instance_resources": { "vcpus": 1, "mem_mib": 128, "data_disk_mib": 1024 } });
    service.records.put_tenant(&serde_json::from_value(tenant).unwrap()).unwrap();
    service.records.put_pool(&serde_json::from_value(pool).unwrap()).unwrap();
    (root, service)
}

/// An instance of `acme/workers`, the next one at each call.
pub(crate) fn instance(service: &Service, state: State) -> InstanceRecord {
    let taken = service.records.all_instances().records.len() as u32;
    let record = json!({ "schema_version": 1, "instance_id": InstanceId::from_bits(taken),
        "tenant_id": "acme", "pool_id": "workers", "role": "worker", "net_id": 7,
        "offset": 3 + taken, "uid": 1_900_000_000 + taken, "state": state,
        "resources": { "vcpus": 1, "mem_mib": 128, "data_disk_mib": 1024 },
        "since": 1, "created_at": 1 });
    let record: InstanceRecord = serde_json::from_value(record).unwrap();
    service.records.put_instance(&record).unwrap();
    record
}
