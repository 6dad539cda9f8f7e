//! Images made elsewhere, good and bad.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use serde_json::json;

use super::*;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn control() -> Control<'static> {
    Control::new(&|_| (), &GO_ON)
}

/// A directory with an image in it, as small as can be.
struct Made {
    dir: tempfile::TempDir,
    store: Store,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache")).unwrap();
        let made = Self { dir, store };
        fs::create_dir(made.path("")).unwrap();
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 62;
        elf[56..60].copy_from_slice(b"ARM\x64");
        if Arch::HOST == Arch::Aarch64 {
            elf[..6].fill(0);
        }
        let mut root = vec![0; 2048];
        root[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        made.write("vmlinux", &elf);
        made.write("kernel", b"a kernel");
        made.write("initrd", b"070701 and so on");
        made.write("rootfs", &root);
        made.manifest(json!({ "profile": "web", "role": "worker" }));
        made
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("image").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let _ = fs::remove_file(self.path(name));
        fs::write(self.path(name), bytes).unwrap();
    }

    fn manifest(&self, more: serde_json::Value) {
        let mut all = json!({ "schema_version": 1, "guest_proto": 1, "kernel_release": "6.1.0" });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.write("manifest.json", all.to_string().as_bytes());
    }

    fn import_from(&self, from: &Path) -> Result<Revision, ImageError> {
        let import = Import {
            from,
            builder: Builder::Import,
            inputs: BTreeMap::new(),
            wanted: None,
            guest_proto: 1,
        };
        import_(&self.store, &import)
    }

    fn import(&self) -> Result<Revision, ImageError> {
        self.import_from(&self.path(""))
    }

    fn refused(&self, words: &str) {
        let error = self.import().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(self.store.list().unwrap().len(), 0);
        assert_eq!(fs::read_dir(self.dir.path().join("cache/tmp")).unwrap().count(), 0);
    }

    fn tar(&self, arguments: &[&str]) -> std::path::PathBuf {
        let to = self.dir.path().join("image.tar");
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(self.path("")).args(arguments).arg("-cf").arg(&to).arg(".");
        assert!(tar.status().unwrap().success());
        to
    }
}

fn import_(store: &Store, import: &Import<'_>) -> Result<Revision, ImageError> {
    super::import(store, import, control())
}

#[test]
fn a_good_image_becomes_a_revision_with_digests_of_its_own() {
    let made = Made::new();
    let revision = made.import().unwrap();
    made.store.verify(&revision.digest, control()).unwrap();
    let manifest = &revision.manifest;
    assert_eq!((manifest.profile.as_str(), manifest.builder.as_str()), ("web", "import"));
    assert_eq!(revision.files(Arch::HOST).unwrap().rootfs_type, "erofs");
    // The same files are the same revision.
    assert_eq!(made.import().unwrap().digest, revision.digest);
}

#[test]
fn a_revision_of_ours_keeps_its_digest_and_a_changed_file_is_found() {
    let (made, other) = (Made::new(), Made::new());
    let revision = made.import().unwrap();
    assert_eq!(other.import_from(&revision.dir).unwrap().digest, revision.digest);
    let copy = other.dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for file in ["vmlinux", "kernel", "initrd", "manifest.json"] {
        fs::copy(revision.dir.join(file), copy.join(file)).unwrap();
    }
    fs::write(copy.join("rootfs"), b"other").unwrap();
    let error = other.import_from(&copy).unwrap_err().to_string();
    assert!(error.contains("rootfs is not what manifest.json says"), "{error}");
}

#[test]
fn a_manifest_that_names_files_elsewhere_is_refused() {
    let made = Made::new();
    let mut manifest = made.import().unwrap().manifest;
    let files = manifest.arch.values_mut().next().unwrap();
    files.rootfs.name = "../../outside".into();
    made.write("manifest.json", &manifest.to_bytes());
    let error = made.import().unwrap_err().to_string();
    assert!(error.contains("no plain file"), "{error}");
}

#[test]
fn links_pipes_and_empty_files_are_refused() {
    let made = Made::new();
    fs::remove_file(made.path("rootfs")).unwrap();
    made.refused("rootfs is missing");
    symlink("/etc/passwd", made.path("rootfs")).unwrap();
    made.refused("rootfs is a link");
    fs::remove_file(made.path("rootfs")).unwrap();
    nix::unistd::mkfifo(&made.path("rootfs"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    made.refused("rootfs is not a plain file");
    made.write("rootfs", b"");
    made.refused("rootfs is empty");
    made.write("rootfs", &[7; 4096]);
    made.refused("neither an erofs nor an ext4 image");
}

#[test]
fn kernels_and_initrds_of_another_kind_are_refused() {
    let made = Made::new();
    made.write("vmlinux", &[0; 64]);
    made.refused("vmlinux is no kernel");
    fs::remove_file(made.path("vmlinux")).unwrap();
    fs::remove_file(made.path("kernel")).unwrap();
    made.refused("kernel is missing, and so is vmlinux");
    let made = Made::new();
    made.write("initrd", b"#!/bin/sh");
    made.refused("initrd is not a cpio archive");
}

#[test]
fn a_manifest_says_what_it_must_and_nothing_unknown() {
    let made = Made::new();
    let both = json!({ "profile": "web", "role": "worker" });
    let with = |more: serde_json::Value| {
        let mut all = both.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    for (manifest, words) in [
        (json!({}), "names no profile and role"),
        (with(json!({ "colour": "blue" })), "unknown field"),
        (with(json!({ "schema_version": 2 })), "schema_version 2"),
        (with(json!({ "guest_proto": 9 })), "guest protocol 9"),
        (with(json!({ "arch": "vax" })), "is for"),
        (with(json!({ "workload": { "argv": ["sh"] } })), "by its whole path"),
        (with(json!({ "workload": { "argv": ["/x"], "user": "root" } })), "UID:GID"),
        (with(json!({ "workload": { "argv": ["/x"], "ports": [0] } })), "port 0"),
        (
            with(json!({ "workload": { "argv": ["/x"], "health": { "port": 1, "path": "x y" } } })),
            "health path",
        ),
    ] {
        made.manifest(manifest);
        made.refused(words);
    }
}

#[test]
fn what_was_asked_for_must_be_what_it_is() {
    let made = Made::new();
    let path = made.path("");
    let import = |profile: &str| {
        let wanted = Some((profile.parse().unwrap(), Role::Worker));
        let inputs = BTreeMap::new();
        import_(
            &made.store,
            &Import { from: &path, builder: Builder::Nix, inputs, wanted, guest_proto: 1 },
        )
    };
    let error = import("shop").unwrap_err().to_string();
    assert!(error.contains("is for web/worker, not shop/worker"), "{error}");
    assert_eq!(import("web").unwrap().manifest.builder, "nix");
    // A manifest without names takes those that were asked for.
    made.manifest(json!({}));
    assert_eq!(import("shop").unwrap().manifest.profile.as_str(), "shop");
}

#[test]
fn an_archive_is_as_good_as_a_directory() {
    let made = Made::new();
    let digest = made.import().unwrap().digest;
    for arguments in [&["--format=gnu"][..], &["--format=pax"], &["-z"]] {
        assert_eq!(made.import_from(&made.tar(arguments)).unwrap().digest, digest);
    }
}

#[test]
fn an_archive_with_anything_else_is_refused() {
    let made = Made::new();
    made.write("evil", b"x");
    let error = made.import_from(&made.tar(&[])).unwrap_err().to_string();
    assert!(error.contains("evil does not belong to an image"), "{error}");
    fs::remove_file(made.path("evil")).unwrap();
    fs::remove_file(made.path("rootfs")).unwrap();
    symlink("/etc/passwd", made.path("rootfs")).unwrap();
    let error = made.import_from(&made.tar(&[])).unwrap_err().to_string();
    assert!(error.contains("rootfs does not belong"), "{error}");
    let file = made.dir.path().join("no-tar");
    fs::write(&file, vec![1; 4096]).unwrap();
    assert!(made.import_from(&file).unwrap_err().to_string().contains("read"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_archive_makes_the_reader_panic_or_write_elsewhere(at in 0usize..1024, value: u8) {
        let made = Made::new();
        let tar = made.tar(&[]);
        let mut bytes = fs::read(&tar).unwrap();
        bytes[at] = value;
        fs::write(&tar, bytes).unwrap();
        let _ = made.import_from(&tar);
        let names = fs::read_dir(made.dir.path()).unwrap().count();
        prop_assert_eq!(names, 3);
    }
}
