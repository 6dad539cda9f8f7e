//! Files both ways.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use mvm_guest_proto::message::{FileKind, ReadFile, WriteFile};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::{Agent, LIMIT, noise, within};
use crate::guest::{GuestClient, GuestError, fresh_id};

fn write_to(path: &str) -> WriteFile {
    WriteFile { path: path.into(), mode: None, size: None, user: None }
}

fn read_from(path: &str) -> ReadFile {
    ReadFile { path: path.into(), offset: 0, length: None }
}

async fn put(client: &GuestClient, path: &str, mut bytes: &[u8]) -> Result<u64, GuestError> {
    let id = fresh_id();
    client.write_file(&id, write_to(path), &mut bytes, LIMIT).await.map(|done| done.bytes)
}

async fn get(client: &GuestClient, path: &str) -> Result<Vec<u8>, GuestError> {
    let mut bytes = Vec::new();
    client.read_file(read_from(path), &mut bytes, LIMIT).await.map(|_| bytes)
}

#[tokio::test]
async fn fifty_megabytes_go_both_ways_unchanged() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let bytes = noise(50_000_000);
    assert_eq!(put(&client, "/big", &bytes).await.unwrap(), 50_000_000);
    assert!(agent.resident() < 8 * 1024, "{} KiB", agent.resident());
    let back = get(&client, "/big").await.unwrap();
    assert_eq!(Sha256::digest(&back), Sha256::digest(&bytes));
    let on_disk = fs::read(agent.root().join("big")).unwrap();
    assert_eq!(Sha256::digest(&on_disk), Sha256::digest(&bytes));
}

#[tokio::test]
async fn a_reader_that_stops_does_not_fill_the_agent() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    fs::write(agent.root().join("big"), noise(50_000_000)).unwrap();
    let (mut ours, mut theirs) = tokio::io::duplex(1000);
    let reading = client.read_file(read_from("/big"), &mut theirs, LIMIT);
    let stuck = tokio::time::timeout(Duration::from_millis(300), reading).await;
    assert!(stuck.is_err(), "nobody read, and yet it ended");
    assert!(agent.resident() < 8 * 1024, "{} KiB", agent.resident());
    assert!(ours.read_u8().await.is_ok());
}

#[tokio::test]
async fn parts_of_a_file_can_be_read() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    fs::write(agent.root().join("f"), b"0123456789").unwrap();
    let read = ReadFile { path: "/f".into(), offset: 3, length: Some(4) };
    let mut bytes = Vec::new();
    let stat = client.read_file(read, &mut bytes, LIMIT).await.unwrap();
    assert_eq!((bytes.as_slice(), stat.size), (&b"3456"[..], 10));
}

#[tokio::test]
async fn a_written_file_has_the_mode_it_was_given_or_had() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let path = agent.root().join("script");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    let write = WriteFile { mode: Some(0o4755), ..write_to("/script") };
    client.write_file("", write, &mut &b"one"[..], LIMIT).await.unwrap();
    assert_eq!(mode(), 0o4755);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    put(&client, "/script", b"two").await.unwrap();
    assert_eq!((mode(), fs::read(&path).unwrap()), (0o640, b"two".to_vec()));
    put(&client, "/new", b"").await.unwrap();
    assert_eq!(fs::metadata(agent.root().join("new")).unwrap().mode() & 0o7777, 0o644);
}

#[tokio::test]
async fn a_write_that_is_cut_short_changes_nothing() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    fs::write(agent.root().join("f"), b"old").unwrap();
    let names = || fs::read_dir(agent.root()).unwrap().count();
    let (mut from, mut feed) = tokio::io::duplex(1 << 20);
    tokio::io::AsyncWriteExt::write_all(&mut feed, &noise(200_000)).await.unwrap();
    let writing = client.write_file("cut", write_to("/f"), &mut from, LIMIT);
    assert!(tokio::time::timeout(Duration::from_millis(500), writing).await.is_err());
    within(|| names() == 1).await;
    assert_eq!(fs::read(agent.root().join("f")).unwrap(), b"old");
    // The same id may be tried again, as nothing was done under it.
    let written = client.write_file("cut", write_to("/f"), &mut &b"new"[..], LIMIT).await;
    assert_eq!(written.unwrap().bytes, 3);
    assert_eq!(fs::read(agent.root().join("f")).unwrap(), b"new");
}

#[tokio::test]
async fn a_repeated_id_is_answered_with_the_first_outcome() {
    let agent = Agent::start().await;
    let id = fresh_id();
    for content in [&b"first"[..], b"second, which is longer"] {
        // A connection of its own each time, as after a broken one.
        let client = agent.client().await;
        let done = client.write_file(&id, write_to("/f"), &mut &content[..], LIMIT).await;
        assert_eq!(done.unwrap().bytes, 5);
    }
    assert_eq!(fs::read(agent.root().join("f")).unwrap(), b"first");
}

#[tokio::test]
async fn the_announced_size_is_held() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    for size in [2, 4] {
        let write = WriteFile { size: Some(size), ..write_to("/f") };
        let error = client.write_file("", write, &mut &b"123"[..], LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("announced"), "{error}");
    }
    assert_eq!(fs::read_dir(agent.root()).unwrap().count(), 0);
}

#[tokio::test]
async fn no_path_leaves_the_root() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let outside = agent.dir.path().join("outside");
    fs::write(&outside, b"secret").unwrap();
    let root = agent.root();
    symlink("../outside", root.join("up")).unwrap();
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("/", root.join("slash")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    let absolute = outside.to_str().unwrap().to_owned();
    let paths = [
        "/../outside",
        "/up",
        "/absolute",
        "/slash/../../outside",
        "/magic/etc/passwd",
        "/%2e%2e/outside",
        &absolute,
    ];
    for path in paths {
        let error = get(&client, path).await.expect_err(path);
        let is_ours = matches!(error, GuestError::NotFound { .. } | GuestError::Failed { .. });
        assert!(is_ours, "{path}: {error:?}");
    }
    for path in paths {
        let _ = put(&client, path, b"overwritten").await;
        assert_eq!(fs::read(&outside).unwrap(), b"secret", "{path}");
    }
    let nonsense = ["", "relative", "/a\0b", &format!("/{}", "a/".repeat(3000)), "/", "/..", "/."];
    for path in nonsense {
        assert!(get(&client, path).await.is_err(), "{path:?} was read");
        assert!(put(&client, path, b"x").await.is_err(), "{path:?} was written");
    }
}

#[tokio::test]
async fn only_regular_files_are_touched() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let root = agent.root();
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("real"), b"real").unwrap();
    symlink("real", root.join("link")).unwrap();
    for path in ["/fifo", "/dir"] {
        assert!(matches!(get(&client, path).await, Err(GuestError::Refused { .. })), "{path}");
    }
    for path in ["/fifo", "/dir", "/link"] {
        assert!(
            matches!(put(&client, path, b"x").await, Err(GuestError::Refused { .. })),
            "{path}"
        );
    }
    assert_eq!(get(&client, "/link").await.unwrap(), b"real");
}

#[tokio::test]
async fn directories_are_made_and_listed() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    client.make_dir("/d", Some(0o700), LIMIT).await.unwrap();
    client.make_dir("/d/", None, LIMIT).await.unwrap();
    let root = agent.root();
    assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o777, 0o700);
    for n in 0..200 {
        fs::write(root.join(format!("d/file {n:03}")), vec![b'x'; n]).unwrap();
    }
    symlink("/somewhere", root.join("d/zz")).unwrap();
    let entries = client.list("/d", LIMIT).await.unwrap();
    assert_eq!(entries.len(), 201);
    assert_eq!((entries[7].name.as_str(), entries[7].stat.size), ("file 007", 7));
    assert_eq!(entries[200].stat.kind, FileKind::Symlink);
    let stat = client.stat("/d/zz", LIMIT).await.unwrap();
    assert_eq!(stat.target.as_deref(), Some("/somewhere"));
    assert!(matches!(client.list("/none", LIMIT).await, Err(GuestError::NotFound { .. })));
    assert!(client.make_dir("/d/file 000", None, LIMIT).await.is_err());
}
