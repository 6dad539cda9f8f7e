//! The service on a host without guests: what is kept, what is refused, what nobody loses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use mvm_api::secret::{Delivered, Delivery};
use mvm_model::secret::{MAX_VALUE, SecretValue};
use mvm_model::state::State;

use super::*;
use crate::testing;

fn acme() -> TenantName {
    "acme".parse().unwrap()
}

fn one(name: &str, value: &[u8]) -> Set {
    let secrets = [(name.parse().unwrap(), SecretValue::new(value.to_vec()))].into();
    Set { tenant: acme(), secrets }
}

fn names(view: &Listed) -> Vec<&str> {
    view.secrets.iter().map(|secret| secret.name.as_str()).collect()
}

fn envelope(service: &Service) -> PathBuf {
    service.dirs.tenant(&acme()).join("secrets.sealed")
}

fn key(service: &Service) -> PathBuf {
    service.dirs.config.join("secret.key")
}

#[tokio::test]
async fn secrets_are_kept_counted_and_listed_without_values() {
    let (_root, service) = testing::service();
    assert_eq!(service.list_secrets(&acme()).unwrap().epoch, 0);
    assert_eq!(service.secrets_hash(&acme()), None);
    assert_eq!(service.set_secrets(one("TOKEN", b"hunter2")).await.unwrap().epoch, 1);
    let first = service.list_secrets(&acme()).unwrap();
    assert_eq!((names(&first), first.secrets[0].size), (vec!["TOKEN"], 7));
    assert_eq!(service.set_secrets(one("OTHER", b"x")).await.unwrap().epoch, 2);
    let second = service.list_secrets(&acme()).unwrap();
    assert_eq!(names(&second), ["OTHER", "TOKEN"]);
    assert_ne!(first.secrets_hash, second.secrets_hash);
    let told = format!("{second:?}{}", serde_json::to_string(&second).unwrap());
    assert!(!told.contains("hunter2"));
}

#[tokio::test]
async fn a_rotation_keeps_values_and_digest_and_changes_file_and_epoch() {
    let (_root, service) = testing::service();
    let none = service.rotate_secrets(&acme()).await.unwrap_err();
    assert_eq!(none.kind, Kind::NotFound);
    service.set_secrets(one("TOKEN", b"hunter2")).await.unwrap();
    let (before, listed) = (fs::read(envelope(&service)).unwrap(), service.list_secrets(&acme()));
    assert_eq!(service.rotate_secrets(&acme()).await.unwrap().epoch, 2);
    let (after, now) = (fs::read(envelope(&service)).unwrap(), service.list_secrets(&acme()));
    assert_ne!(before[64..], after[64..]);
    let (listed, now) = (listed.unwrap(), now.unwrap());
    assert_eq!((&listed.secrets, &listed.secrets_hash), (&now.secrets, &now.secrets_hash));
}

#[tokio::test]
async fn a_removed_secret_is_gone_and_a_missing_one_removes_nothing() {
    let (_root, service) = testing::service();
    service.set_secrets(one("A", b"x")).await.unwrap();
    service.set_secrets(one("B", b"y")).await.unwrap();
    let gone =
        |names: &[&str]| Doomed::Names(names.iter().map(|name| name.parse().unwrap()).collect());
    let error = service.remove_secrets(&acme(), gone(&["A", "C"])).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert_eq!(names(&service.list_secrets(&acme()).unwrap()), ["A", "B"]);
    service.remove_secrets(&acme(), gone(&["A"])).await.unwrap();
    assert_eq!(names(&service.list_secrets(&acme()).unwrap()), ["B"]);
    assert_eq!(service.remove_secrets(&acme(), Doomed::All).await.unwrap().epoch, 4);
    assert_eq!(service.list_secrets(&acme()).unwrap().secrets, []);
}

#[tokio::test]
async fn what_does_not_fit_changes_nothing() {
    let (_root, service) = testing::service();
    service.set_secrets(one("A", b"x")).await.unwrap();
    for set in [one("A", b""), one("A", &vec![1; MAX_VALUE + 1])] {
        assert_eq!(service.set_secrets(set).await.unwrap_err().kind, Kind::Invalid);
    }
    for n in 0..4 {
        let set = service.set_secrets(one(&format!("S{n}"), &vec![1; MAX_VALUE])).await;
        assert_eq!(set.is_ok(), n < 3, "secret {n}");
    }
    assert_eq!(service.list_secrets(&acme()).unwrap().epoch, 4);
}

#[tokio::test]
async fn two_who_set_at_once_both_get_in() {
    let (_root, service) = testing::service();
    let mut sets = tokio::task::JoinSet::new();
    for n in 0..12 {
        let service = service.clone();
        sets.spawn(async move { service.set_secrets(one(&format!("S{n}"), b"x")).await });
    }
    let mut epochs = Vec::new();
    while let Some(set) = sets.join_next().await {
        epochs.push(set.unwrap().unwrap().epoch);
    }
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=12).collect::<Vec<_>>());
    assert_eq!(service.list_secrets(&acme()).unwrap().secrets.len(), 12);
}

#[tokio::test]
async fn a_lost_key_is_not_replaced_and_loses_nothing() {
    let (_root, service) = testing::service();
    service.set_secrets(one("A", b"x")).await.unwrap();
    let (kept, sealed) = (fs::read(key(&service)).unwrap(), fs::read(envelope(&service)).unwrap());
    fs::remove_file(key(&service)).unwrap();
    for error in [
        service.set_secrets(one("B", b"y")).await.unwrap_err(),
        service.rotate_secrets(&acme()).await.unwrap_err(),
        service.list_secrets(&acme()).unwrap_err(),
    ] {
        assert_eq!(error.kind, Kind::Unavailable, "{}", error.chain());
        assert!(error.chain().contains("secret.key") && error.hint.is_some());
    }
    assert!(!key(&service).exists(), "a new key was made");
    assert_eq!(fs::read(envelope(&service)).unwrap(), sealed);
    fs::write(key(&service), kept).unwrap();
    let open = service.list_secrets(&acme()).unwrap_err();
    assert_eq!(open.kind, Kind::Refused, "a key everybody can read was used");
    fs::set_permissions(key(&service), fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(names(&service.list_secrets(&acme()).unwrap()), ["A"]);
}

#[tokio::test]
async fn another_tenants_envelope_keeps_a_lost_key_from_being_replaced() {
    let (_root, service) = testing::service();
    service.set_secrets(one("A", b"x")).await.unwrap();
    let mut other = service.tenant(&acme()).unwrap();
    other.tenant_id = "beta".parse().unwrap();
    service.records.put_tenant(&other).unwrap();
    fs::remove_file(key(&service)).unwrap();
    let set = Set { tenant: "beta".parse().unwrap(), ..one("B", b"y") };
    assert_eq!(service.set_secrets(set.clone()).await.unwrap_err().kind, Kind::Unavailable);
    // Given up by a person, the old envelope is in nobody's way.
    let removed = service.remove_secrets(&acme(), Doomed::All).await;
    assert_eq!(removed.unwrap().epoch, 1);
    assert!(service.set_secrets(set).await.is_ok());
}

#[tokio::test]
async fn a_second_key_is_not_used_beside_the_first() {
    let (_root, service) = testing::service();
    service.set_secrets(one("A", b"x")).await.unwrap();
    let mut other = service.tenant(&acme()).unwrap();
    other.tenant_id = "beta".parse().unwrap();
    service.records.put_tenant(&other).unwrap();
    fs::remove_file(key(&service)).unwrap();
    mvm_host::secrets::HostKey::load_or_create(&service.dirs.config).unwrap();
    let set = Set { tenant: "beta".parse().unwrap(), ..one("B", b"y") };
    let error = service.set_secrets(set).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.chain().contains("this host has key"), "{}", error.chain());
}

#[tokio::test]
async fn secrets_encrypted_elsewhere_are_named_and_kept() {
    let (_root, service) = testing::service();
    service.set_secrets(one("A", b"x")).await.unwrap();
    fs::remove_file(key(&service)).unwrap();
    mvm_host::secrets::HostKey::load_or_create(&service.dirs.config).unwrap();
    let error = service.set_secrets(one("A", b"y")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.chain().contains("this host has key"), "{}", error.chain());
    assert!(error.hint.unwrap().contains("put the key back"));
}

#[tokio::test]
async fn a_damaged_envelope_is_an_error_that_is_not_about_values() {
    let (_root, service) = testing::service();
    service.set_secrets(one("A", b"hunter2")).await.unwrap();
    let mut bytes = fs::read(envelope(&service)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(envelope(&service), &bytes).unwrap();
    let error = service.set_secrets(one("B", b"y")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert_eq!(fs::read(envelope(&service)).unwrap(), bytes);
}

#[tokio::test]
async fn the_audit_log_has_names_and_no_values() {
    let (_root, service) = testing::service();
    service.set_secrets(one("TOKEN", b"hunter2")).await.unwrap();
    service.rotate_secrets(&acme()).await.unwrap();
    let log = fs::read_to_string(service.dirs.state.join("audit/acme.jsonl")).unwrap();
    assert!(log.contains("secrets.set") && log.contains("epoch 1: TOKEN"), "{log}");
    assert!(!log.contains("hunter2"));
}

#[tokio::test]
async fn an_instance_that_is_off_gets_them_at_its_start() {
    let (_root, service) = testing::service();
    let record = testing::instance(&service, State::Created);
    let changed = service.set_secrets(one("TOKEN", b"x")).await.unwrap();
    let expected = Delivered { instance: record.path(), delivery: Delivery::AtStart };
    assert_eq!(changed.instances, [expected]);
    assert!(!service.dirs.run.join("secrets").exists(), "an image was made for nobody");
}

#[tokio::test]
async fn a_pool_with_scopes_gets_another_image() {
    let (_root, service) = testing::service();
    let record = testing::instance(&service, State::Created);
    let wanted = || service.wanted_secrets(&record, None).unwrap();
    assert_eq!(wanted().id, mvm_host::secrets::ImageId::EMPTY);
    service.set_secrets(one("SLACK_TOKEN", b"x")).await.unwrap();
    service.set_secrets(one("DB_PASSWORD", b"y")).await.unwrap();
    let all = wanted();
    let mut pool = service.pool(&record.pool_path()).unwrap();
    pool.secret_scopes = Some(vec!["slack".into()]);
    service.records.put_pool(&pool).unwrap();
    let scoped = wanted();
    assert_eq!(
        (all.names(), scoped.names()),
        (vec!["DB_PASSWORD", "SLACK_TOKEN"], vec!["SLACK_TOKEN"])
    );
    assert_ne!(all.id, scoped.id);
    assert_eq!(all.id.epoch, scoped.id.epoch);
}

#[test]
fn a_request_for_others_is_refused_with_unknown_fields() {
    let text = r#"{"tenant":"acme","secrets":{"A":"78"},"more":1}"#;
    assert!(serde_json::from_str::<Set>(text).is_err());
    let text = r#"{"tenant":"acme","secrets":{"A":"78"}}"#;
    assert_eq!(serde_json::from_str::<Set>(text).unwrap(), one("A", b"x"));
}

#[test]
fn an_older_envelope_than_was_delivered_is_refused() {
    assert!(refuse_older(&acme(), 5, 5).is_ok());
    let error = refuse_older(&acme(), 5, 7).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.hint.unwrap().contains("rotate acme"));
}
