use std::os::unix::fs::MetadataExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testing::service;

/// A static program that says what it is told to: the smallest there is.
fn program(says: &str) -> Vec<u8> {
    // write(1, text, len); exit(0)
    let text = format!("{says}\n");
    let mut code: Vec<u8> = vec![0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xbe];
    let address = 0x40_0078_u32 + 34;
    code.extend(address.to_le_bytes());
    code.push(0xba);
    code.extend((text.len() as u32).to_le_bytes());
    code.extend([0x0f, 0x05, 0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0x90, 0x90, 0x90]);
    assert_eq!(code.len(), 34);
    code.extend(text.bytes());
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0x40_0078_u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0; 4]);
    for half in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let size = 120 + code.len() as u64;
    for word in [0, 0x40_0000, 0x40_0000, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

fn release(dir: &Path, firecracker: &str, jailer: &str) {
    fs::create_dir_all(dir).unwrap();
    let named = |name: &str| dir.join(format!("{name}-v1.15.1-{}", std::env::consts::ARCH));
    fs::write(named("firecracker"), program(&format!("Firecracker v{firecracker}"))).unwrap();
    fs::write(named("jailer"), program(&format!("Jailer v{jailer}"))).unwrap();
}

fn runs_here() -> bool {
    cfg!(target_arch = "x86_64") && nix::unistd::geteuid().is_root()
}

#[tokio::test]
async fn both_programs_are_installed_for_root_alone_to_change() {
    if !runs_here() {
        return;
    }
    let (dir, service) = service();
    release(&dir.path().join("given"), "1.15.1", "1.15.1");
    let installed = service.install_firecracker(&dir.path().join("given")).await.unwrap();
    assert_eq!(installed.version, "1.15.1");
    let bin = service.dirs.bin().canonicalize().unwrap();
    assert_eq!(installed.firecracker, bin.join("firecracker"));
    assert_eq!(fs::metadata(&installed.jailer).unwrap().mode() & 0o777, 0o755);
    assert!(!service.dirs.bin().join(".new").exists());
    // Again is the same.
    assert_eq!(service.install_firecracker(&dir.path().join("given")).await.unwrap(), installed);
}

#[tokio::test]
async fn another_version_a_mixed_pair_and_half_a_pair_leave_what_was_there() {
    if !runs_here() {
        return;
    }
    let (dir, service) = service();
    release(&dir.path().join("good"), "1.15.1", "1.15.1");
    let good = service.install_firecracker(&dir.path().join("good")).await.unwrap();
    for (name, firecracker, jailer, words) in [
        ("other", "1.16.1", "1.16.1", "bare pause and resume"),
        ("mixed", "1.15.1", "1.15.0", "its jailer is 1.15.0"),
    ] {
        release(&dir.path().join(name), firecracker, jailer);
        let error = service.install_firecracker(&dir.path().join(name)).await.unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        assert!(error.chain().contains(words), "{}", error.chain());
    }
    let half = dir.path().join("half");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("firecracker"), program("Firecracker v1.15.1")).unwrap();
    let error = service.install_firecracker(&half).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    let search = Search { dirs: vec![service.dirs.bin()], ..Search::default() };
    assert_eq!(Binaries::find(&search).await.unwrap(), good);
}

/// Serves one file on the loopback interface.
async fn serving(content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&content).await;
        }
    });
    format!("http://{address}/firecracker.tgz")
}

async fn archive(dir: &Path) -> Vec<u8> {
    release(&dir.join("release/release-v1.15.1-x86_64"), "1.15.1", "1.15.1");
    let (archive, from) = (dir.join("release.tgz"), dir.join("release"));
    let args = ["-czf", archive.to_str().unwrap(), "-C", from.to_str().unwrap(), "."];
    run("tar", &args).await.unwrap();
    fs::read(archive).unwrap()
}

#[tokio::test]
async fn a_release_is_installed_when_it_is_what_its_publisher_says() {
    if !runs_here() || mvm_host::packages::find_program("curl").is_none() {
        eprintln!("SKIP: needs root, x86_64 and curl");
        return;
    }
    let (dir, service) = service();
    let archive = archive(dir.path()).await;
    let digest = Digest::of(&archive);
    let url = serving(archive).await;
    let wrong = Release { url: url.clone(), digest: Digest::of(b"another") };
    let error = service.fetch_firecracker(&wrong).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused, "{}", error.chain());
    assert!(!service.dirs.bin().join("firecracker").exists());
    let installed = service.fetch_firecracker(&Release { url, digest }).await.unwrap();
    assert_eq!(installed.version, "1.15.1");
    assert!(!service.dirs.bin().join(".fetched").exists());
    let gone = Release { url: "http://127.0.0.1:1/x".into(), digest: Digest::of(b"") };
    let error = service.fetch_firecracker(&gone).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.hint.unwrap().contains("--firecracker DIR"));
}

#[test]
fn no_release_is_pinned_before_its_digest_was_read_from_its_publisher() {
    assert_eq!(Release::pinned(), None);
}
