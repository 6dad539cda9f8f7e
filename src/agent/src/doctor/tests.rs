use std::fs;

use mvm_model::state::State;
use mvm_vmm::probe::Outcome;

use super::*;
use crate::testing::{instance, service};

#[test]
fn what_is_good_needs_no_remedy() {
    assert!(Check::new("x", Health::Good, "fine").remedy("nothing").remedy.is_none());
    assert!(Check::new("x", Health::Bad, "broken").remedy("mend it").remedy.is_some());
}

#[test]
fn production_names_each_missing_thing() {
    let error =
        refuse(&["kvm: /dev/kvm not found".into(), "cgroup v2: lacks cpu".into()]).unwrap_err();
    assert_eq!(error.kind.exit_code(), 4);
    assert!(error.message.contains("/dev/kvm not found") && error.message.contains("lacks cpu"));
    assert!(refuse(&[]).is_ok());
}

fn named<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.name == name).unwrap()
}

#[test]
fn no_vmm_that_runs_guests_is_a_failure_and_none_tried_is_not() {
    let verdict = |outcome| Verdict { vmm: VmmKind::Qemu, accel: Accel::Tcg, outcome };
    let refused = verdict(Outcome::Refused { reason: "abort".into() });
    let proven = verdict(Outcome::Proven { version: "7.2".into(), millis: 900 });
    assert_eq!(accelerators(&[]).health, Health::Warning);
    assert_eq!(accelerators(std::slice::from_ref(&refused)).health, Health::Bad);
    assert_eq!(accelerators(&[refused, proven]).health, Health::Good);
}

#[test]
fn damaged_and_newer_records_are_told_apart_and_a_key_is_missed() {
    let (_dir, service) = service();
    let record = instance(&service, State::Stopped);
    let file = service.instance_dir(&record).join("instance.json");
    let good = service.keeping();
    assert_eq!(named(&good, "records").health, Health::Good);
    assert_eq!(named(&good, "secret key").health, Health::Good);
    fs::write(&file, "{").unwrap();
    let damaged = service.keeping();
    assert!(named(&damaged, "records").remedy.as_ref().unwrap().contains("doctor --repair"));
    fs::write(&file, r#"{"schema_version": 99}"#).unwrap();
    fs::write(service.dirs.tenants().join("acme/secrets.sealed"), "x").unwrap();
    let newer = service.keeping();
    assert!(named(&newer, "records").remedy.as_ref().unwrap().contains("newer mvm"));
    assert_eq!(named(&newer, "secret key").health, Health::Bad);
}

#[test]
fn an_exposed_key_a_clock_set_back_and_a_lock_that_stays_are_found() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, service) = service();
    let mut record = instance(&service, State::Stopped);
    record.since = crate::service::now() + 3_600_000;
    service.records.put_instance(&record).unwrap();
    fs::create_dir_all(&service.dirs.config).unwrap();
    let key = service.dirs.config.join("secret.key");
    fs::write(&key, [7; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let lock = mvm_host::lock::path_in(&service.dirs.state);
    let _held = mvm_host::lock::Lock::try_take(&lock, "mvm pool scale").unwrap();
    let checks = service.keeping();
    assert_eq!(named(&checks, "times").health, Health::Warning);
    assert!(named(&checks, "secret key").found.contains("0644"));
    assert!(named(&checks, "locks").found.contains("mvm pool scale"));
}

#[tokio::test]
async fn a_socket_nobody_answers_is_found() {
    let (_dir, service) = service();
    assert_eq!(service.agent_word().await.health, Health::Good);
    drop(crate::socket::listen_in(&service.dirs.run, SOCKET).unwrap());
    assert_eq!(service.agent_word().await.health, Health::Warning);
    let _listener = crate::socket::listen_in(&service.dirs.run, SOCKET).unwrap();
    assert_eq!(service.agent_word().await.found, "running");
}
