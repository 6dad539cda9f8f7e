//! Keys, envelopes and vaults: what opens, what does not, and what a crash leaves.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use mvm_model::TenantName;
use mvm_model::secret::{SecretName, SecretValue};
use proptest::prelude::*;

use super::*;

fn tenant(name: &str) -> TenantName {
    name.parse().unwrap()
}

fn host_key(byte: u8) -> HostKey {
    HostKey::from_bytes(&[byte; 32])
}

fn contents(secrets: &[(&str, &[u8])]) -> Contents {
    let mut contents = Contents::default();
    for (name, value) in secrets {
        contents.set(name.parse().unwrap(), SecretValue::new(value.to_vec()), 7);
    }
    contents
}

fn seal(key: &HostKey, name: &str, epoch: u64) -> Vec<u8> {
    envelope::seal(key, &tenant(name), epoch, &contents(&[("TOKEN", b"hunter2")])).unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_envelope_opens_with_its_key_for_its_tenant_only() {
    let sealed = seal(&host_key(1), "acme", 5);
    let (header, opened) = envelope::open(&host_key(1), &tenant("acme"), &sealed).unwrap();
    assert_eq!((header.epoch, opened), (5, contents(&[("TOKEN", b"hunter2")])));
    let other = envelope::open(&host_key(2), &tenant("acme"), &sealed);
    assert!(matches!(other, Err(EnvelopeError::OtherKey { .. })));
    let swapped = envelope::open(&host_key(1), &tenant("evil"), &sealed);
    assert_eq!(swapped.unwrap_err(), EnvelopeError::Changed);
}

#[test]
fn every_changed_byte_is_noticed() {
    let sealed = seal(&host_key(1), "acme", 5);
    for at in 0..sealed.len() {
        for flip in [1, 0x80] {
            let mut changed = sealed.clone();
            changed[at] ^= flip;
            let opened = envelope::open(&host_key(1), &tenant("acme"), &changed);
            assert!(opened.is_err(), "byte {at} was changed unnoticed");
        }
    }
    for len in 0..sealed.len() {
        assert!(envelope::open(&host_key(1), &tenant("acme"), &sealed[..len]).is_err());
    }
}

#[test]
fn an_epoch_cannot_be_turned_back_and_halves_do_not_mix() {
    let (old, new) = (seal(&host_key(1), "acme", 5), seal(&host_key(1), "acme", 6));
    let mut turned = new.clone();
    turned[16..24].copy_from_slice(&5_u64.to_be_bytes());
    assert!(envelope::open(&host_key(1), &tenant("acme"), &turned).is_err());
    for cut in [24, 64, 64 + 60] {
        let mixed = [&old[..cut], &new[cut..]].concat();
        assert!(envelope::open(&host_key(1), &tenant("acme"), &mixed).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_later_version_is_named_and_other_files_are_foreign() {
    let mut sealed = seal(&host_key(1), "acme", 5);
    sealed[15] = 2;
    let opened = envelope::open(&host_key(1), &tenant("acme"), &sealed);
    assert_eq!(opened.unwrap_err(), EnvelopeError::Newer(2));
    assert_eq!(Header::read(b"{}").unwrap_err(), EnvelopeError::Foreign);
}

#[test]
fn the_same_secrets_are_never_encrypted_alike() {
    let (one, two) = (seal(&host_key(1), "acme", 5), seal(&host_key(1), "acme", 5));
    assert_ne!(one[64..], two[64..]);
    assert_eq!(Header::read(&one), Header::read(&two));
}

#[test]
fn the_digest_is_of_the_values_and_of_the_key() {
    let digest =
        |key: u8, secrets: &[(&str, &[u8])]| envelope::digest(&host_key(key), &contents(secrets));
    let one = digest(1, &[("A", b"xy"), ("B", b"z")]);
    assert_eq!(one, digest(1, &[("A", b"xy"), ("B", b"z")]));
    assert_ne!(one, digest(1, &[("A", b"x"), ("B", b"yz")]));
    assert_ne!(one, digest(2, &[("A", b"xy"), ("B", b"z")]));
}

#[test]
fn an_image_is_known_by_epoch_content_owner_and_mode() {
    let key = host_key(1);
    let file = SmallFile { name: "A", content: b"x", owner: (0, 0), mode: 0o400 };
    let id = ImageId::of(&key, 3, &[file]);
    assert_eq!(ImageId::from(SmallId::from(id)), id);
    let others = [
        ImageId::of(&key, 4, &[file]),
        ImageId::of(&key, 3, &[]),
        ImageId::of(&key, 3, &[SmallFile { content: b"y", ..file }]),
        ImageId::of(&key, 3, &[SmallFile { owner: (0, 1), ..file }]),
        ImageId::of(&key, 3, &[SmallFile { mode: 0o444, ..file }]),
    ];
    assert!(others.iter().all(|other| *other != id));
}

#[test]
fn a_key_is_made_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("etc");
    assert!(matches!(HostKey::load(&config), Err(KeyError::Missing { .. })));
    let made = HostKey::load_or_create(&config).unwrap().id();
    assert_eq!(HostKey::load_or_create(&config).unwrap().id(), made);
    let meta = fs::metadata(key::path(&config)).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.len(), meta.nlink()), (0o400, 65, 1));
    assert_eq!(fs::read_dir(&config).unwrap().count(), 1, "something was left behind");
}

#[test]
fn two_who_make_the_key_at_once_have_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let make = || HostKey::load_or_create(dir.path()).unwrap().id();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    HostKey::load_or_create(dir.path()).unwrap();
    let path = key::path(dir.path());
    for mode in [0o440, 0o444, 0o600, 0o404] {
        set_mode(&path, mode);
        let error = HostKey::load(dir.path()).err().unwrap().to_string();
        assert!(error.contains("must be 0400"), "{error}");
    }
    set_mode(&path, 0o400);
    assert!(HostKey::load(dir.path()).is_ok());
}

#[test]
fn what_is_no_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = key::path(dir.path());
    let digits = "5a".repeat(32);
    for (text, is_key) in [
        (digits.as_str(), true),
        (&format!("{digits}\n"), true),
        (&"r".repeat(32), true),
        ("", false),
        (&digits[1..], false),
        (&format!("{digits}0"), false),
        (&"zz".repeat(32), false),
        (&"+1".repeat(32), false),
    ] {
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        set_mode(&path, 0o400);
        assert_eq!(HostKey::load(dir.path()).is_ok(), is_key, "{text:?}");
    }
}

#[test]
fn a_write_that_fails_or_is_cut_short_leaves_the_old_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, key) = (Vault::of(dir.path(), &tenant("acme")), host_key(1));
    assert!(!vault.exists() && vault.open(&key).unwrap().is_none());
    vault.write(&key, 1, &contents(&[("A", b"old")])).unwrap();
    // A crash in the middle of a write leaves a part beside it.
    let beside = dir.path().join("secrets.sealed.tmp");
    fs::write(&beside, b"mvm-secrets\0\0\0").unwrap();
    set_mode(&beside, 0o600);
    assert_eq!(vault.open(&key).unwrap().unwrap().0.epoch, 1);
    vault.write(&key, 2, &contents(&[("A", b"new")])).unwrap();
    assert_eq!(vault.header().unwrap().unwrap().epoch, 2);
    // A write that cannot even begin.
    fs::create_dir(&beside).unwrap();
    assert!(vault.write(&key, 3, &contents(&[])).is_err());
    assert_eq!(vault.open(&key).unwrap().unwrap().1, contents(&[("A", b"new")]));
    assert_eq!(fs::metadata(dir.path().join("secrets.sealed")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_vault_with_another_key_says_so_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::of(dir.path(), &tenant("acme"));
    vault.write(&host_key(1), 4, &contents(&[("A", b"x")])).unwrap();
    let error = vault.open(&host_key(2)).unwrap_err();
    let VaultError::Envelope { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().starts_with("it was encrypted with key "), "{source}");
    assert_eq!(vault.header().unwrap().unwrap().epoch, 4);
    assert!(vault.open(&host_key(1)).is_ok());
}

fn any_contents() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let secret =
        ("[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", proptest::collection::vec(any::<u8>(), 0..99));
    proptest::collection::vec(secret, 0..12)
}

proptest! {
    #[test]
    fn contents_survive_an_envelope(secrets in any_contents(), epoch: u64, byte: u8) {
        let mut contents = Contents::default();
        for (name, value) in secrets {
            contents.set(name.parse().unwrap(), SecretValue::new(value), epoch ^ 1);
        }
        let (key, tenant) = (host_key(byte), tenant("acme"));
        let sealed = envelope::seal(&key, &tenant, epoch, &contents).unwrap();
        let (header, opened) = envelope::open(&key, &tenant, &sealed).unwrap();
        prop_assert_eq!(header.digest(), envelope::digest(&key, &opened));
        prop_assert_eq!((header.epoch, &opened), (epoch, &contents));
        for (name, entry) in contents.iter().filter(|(_, entry)| entry.value.size() >= 8) {
            let value = entry.value.expose();
            prop_assert!(!sealed.windows(value.len()).any(|it| it == value), "{name} is in clear");
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = envelope::open(&host_key(1), &tenant("acme"), &bytes);
        let _ = contents::Contents::decode(&bytes);
        let _ = "x".parse::<SecretName>();
    }
}
