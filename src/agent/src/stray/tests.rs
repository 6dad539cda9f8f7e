use std::fs;

use mvm_model::state::State;

use super::*;
use crate::error::Kind;
use crate::records::{spare_of, spare_path};
use crate::testing::{instance, service};
use mvm_model::record::InstanceRecord;

#[test]
fn the_version_before_is_kept_and_another_objects_record_is_refused() {
    let (_dir, service) = service();
    let mut record = instance(&service, State::Created);
    let file = service.instance_dir(&record).join("instance.json");
    assert!(spare_of::<InstanceRecord>(&file).is_none());
    record.state = State::Stopped;
    service.records.put_instance(&record).unwrap();
    assert_eq!(spare_of::<InstanceRecord>(&file).unwrap().state, State::Created);
    // Another's record in its place is no record of it, nor the version before one.
    let other = instance(&service, State::Created);
    fs::copy(service.instance_dir(&other).join("instance.json"), &file).unwrap();
    let error = service.records.instance(&record.pool_path(), record.instance_id).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.message.contains(&other.path().to_string()), "{}", error.message);
    assert_eq!(service.records.all_instances().records.len(), 1);
    assert_eq!(service.records.all_instances().problems.len(), 1);
    fs::copy(&file, spare_path(&file)).unwrap();
    assert!(spare_of::<InstanceRecord>(&file).is_none());
}

#[test]
fn damage_of_the_record_does_not_reach_the_version_before() {
    let (_dir, service) = service();
    let record = instance(&service, State::Stopped);
    let file = service.instance_dir(&record).join("instance.json");
    service.records.put_instance(&record).unwrap();
    // In place, as an editor or a shell does it.
    fs::write(&file, "").unwrap();
    assert!(spare_of::<InstanceRecord>(&file).is_some());
}

#[test]
fn what_may_be_somebody_elses_does_not_make_a_host_unclean() {
    let stray = |verdict| Stray { object: "x".into(), verdict, why: "y".into() };
    let with = |left| Repaired { mode: Mode::Remove, handled: vec![], left, quarantine: vec![] };
    assert!(with(vec![stray(Verdict::Leave)]).is_clean());
    assert!(!with(vec![stray(Verdict::Ask)]).is_clean());
    assert!(!with(vec![stray(Verdict::Reclaim)]).is_clean());
}
