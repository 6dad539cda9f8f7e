use mvm_host::lock;
use mvm_host::net::Finding;
use mvm_model::state::{State, Transition};

use super::*;
use crate::testing;

fn only(sight: Sight) -> ObservedInstance {
    let mut tenants = sight.observed.tenants;
    tenants.remove(0).pools.remove(0).instances.remove(0)
}

#[test]
fn a_transition_is_somebodys_only_while_they_hold_the_lock() {
    let (_root, service) = testing::service();
    let mut record = testing::instance(&service, State::Stopped);
    record.transition = Some(Transition::Starting);
    service.records.put_instance(&record).unwrap();
    let motion = || only(service.look(1)).motion;
    assert_eq!(motion(), Motion::Interrupted(Transition::Starting));
    let path = lock::path_in(&service.instance_dir(&record));
    let held = lock::Lock::try_take(&path, "somebody").unwrap();
    assert_eq!(motion(), Motion::Moving(Transition::Starting));
    drop(held);
    assert_eq!(motion(), Motion::Interrupted(Transition::Starting));
}

#[test]
fn a_failed_build_is_remembered_for_its_source_only() {
    let (_root, service) = testing::service();
    let mut pool = service.pool(&"acme/workers".parse().unwrap()).unwrap();
    assert_eq!(service.image_state(&pool), ImageState::Missing);
    let error = Error::new(crate::error::Kind::Failed, "", "no network");
    service.note_build(&pool, &error, 7);
    let failed = ImageState::Failed { at: 7, reason: "no network".into() };
    assert_eq!(service.image_state(&pool), failed);
    let digest = mvm_model::Digest::of(b"x");
    pool.image = ImageSource::Revision { digest: digest.clone() };
    assert_eq!(service.image_state(&pool), ImageState::Missing);
    pool.current = Some(digest.clone());
    assert_eq!(service.image_state(&pool), ImageState::Ready(digest));
}

#[test]
fn the_host_keeps_memory_for_itself() {
    assert_eq!(guest_mem_mib(256), 0);
    assert_eq!(guest_mem_mib(4096), 3584);
    assert_eq!(guest_mem_mib(65_536), 61_440);
}

#[test]
fn a_network_is_broken_for_whom_making_it_again_helps() {
    let acme: TenantName = "acme".parse().unwrap();
    let owners = BTreeMap::from([("tn7i3".to_owned(), &acme)]);
    let finding = |object: &str, remedy: &str, severity| Finding {
        object: object.into(),
        problem: "is down".into(),
        remedy: remedy.into(),
        severity,
    };
    let ensure = "start an instance of the tenant: that writes its network again";
    let states = |finding: Finding, leaving| {
        let report = Report { tenants: 1, ports: 1, probed: 0, findings: vec![finding] };
        net_states(&report, &owners, leaving).len()
    };
    assert_eq!(states(finding("tn7i3", ensure, Severity::Error), None), 1);
    assert_eq!(states(finding("tn7i3", ensure, Severity::Warning), None), 0);
    assert_eq!(states(finding("docker0", "ask its owner", Severity::Error), Some(&acme)), 0);
    assert_eq!(states(finding("eth0", ensure, Severity::Error), Some(&acme)), 1);
}
