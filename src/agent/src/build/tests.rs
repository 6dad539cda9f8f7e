//! A pool's revisions, with images too small to boot.

use std::fs;
use std::path::{Path, PathBuf};

use mvm_host::packages::{Arch, Control};
use mvm_model::image::{Builder, ImageSource, PoolRevision};
use mvm_model::state::{State, Transition};
use mvm_model::{Digest, PoolPath};
use serde_json::json;
use tempfile::TempDir;

use crate::error::Kind;
use crate::service::Service;
use crate::testing;

/// A service with the pool `acme/workers` and what its images are imported from.
struct World {
    root: TempDir,
    service: Service,
    pool: PoolPath,
}

impl World {
    fn new() -> Self {
        let (root, service) = testing::service();
        Self { root, service, pool: "acme/workers".parse().unwrap() }
    }

    /// An image that differs by a word, in the image store.
    async fn image(&self, word: &str) -> Digest {
        let dir = self.root.path().join(word);
        fs::create_dir_all(&dir).unwrap();
        let mut kernel = b"\x7fELF\x02\x01".to_vec();
        kernel.resize(64, 0);
        kernel[18] = 62;
        if Arch::HOST == Arch::Aarch64 {
            kernel[56..60].copy_from_slice(b"ARM\x64");
        }
        let mut rootfs = vec![0; 2048];
        rootfs[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        let manifest = json!({ "schema_version": 1, "profile": "web", "role": "worker",
            "guest_proto": 1, "kernel_release": word });
        let files = [
            ("vmlinux", kernel),
            ("kernel", b"kernel".to_vec()),
            ("initrd", b"070701".to_vec()),
            ("rootfs", rootfs),
            ("manifest.json", manifest.to_string().into_bytes()),
        ];
        for (name, bytes) in files {
            fs::write(dir.join(name), bytes).unwrap();
        }
        let silent: super::SharedSink = std::sync::Arc::new(|_| ());
        self.service.import_image(dir, silent, Default::default()).await.unwrap().digest
    }

    /// Makes an image the pool's current one, as a build does.
    async fn uses(&self, digest: &Digest) {
        let dir = self.service.dirs.pool(&self.pool);
        self.service.images().unwrap().link_revision(&dir, digest).unwrap();
        let revision = PoolRevision {
            digest: digest.clone(),
            builder: Some(Builder::Import),
            source: "web".into(),
            lock: None,
            built_at: 1,
            current_since: 1,
        };
        self.service.make_current(&self.pool, revision, None).await.unwrap();
    }

    async fn built(&self, words: &[&str]) -> Vec<Digest> {
        let mut digests = Vec::new();
        for word in words {
            digests.push(self.image(word).await);
            self.uses(digests.last().unwrap()).await;
        }
        digests
    }

    fn current(&self) -> Option<Digest> {
        self.service.pool(&self.pool).unwrap().current
    }

    fn shelf(&self) -> PathBuf {
        self.service.dirs.pool(&self.pool).join("artifacts/revisions")
    }

    fn has(&self, digest: &Digest) -> bool {
        self.shelf().join(digest.as_str()).join("rootfs").is_file()
    }
}

#[tokio::test]
async fn current_previous_and_what_instances_use_stay() {
    let world = World::new();
    let all = world.built(&["a", "b", "c", "d", "e"]).await;
    let mut instance = testing::instance(&world.service, State::Stopped);
    instance.revision = Some(all[0].clone());
    world.service.records.put_instance(&instance).unwrap();
    let mut named = testing::instance(&world.service, State::Created);
    named.pinned_revision = Some(all[1].clone());
    world.service.records.put_instance(&named).unwrap();
    let collected = world.service.collect_pool(&world.pool).await.unwrap();
    assert_eq!(collected.revisions, [all[2].clone()]);
    let kept: Vec<bool> = all.iter().map(|digest| world.has(digest)).collect();
    assert_eq!(kept, [true, true, false, true, true]);
    assert_eq!(world.service.needed_revisions().len(), 4);
    // The image store gives up what no pool needs; what pools have is theirs.
    let silent: super::SharedSink = std::sync::Arc::new(|_| ());
    let freed = world.service.collect_images(silent, Default::default()).await.unwrap();
    assert_eq!(freed.revisions, [all[2].clone()]);
}

#[tokio::test]
async fn while_an_instance_is_changing_nothing_goes() {
    let world = World::new();
    let all = world.built(&["a", "b", "c"]).await;
    let mut instance = testing::instance(&world.service, State::Created);
    instance.transition = Some(Transition::Starting);
    world.service.records.put_instance(&instance).unwrap();
    let collected = world.service.collect_pool(&world.pool).await.unwrap();
    assert_eq!(collected.revisions, []);
    let spared = collected.kept.iter().find(|kept| kept.digest == all[0]).unwrap();
    assert!(spared.why.contains("is changing"), "{}", spared.why);
    instance.transition = None;
    world.service.records.put_instance(&instance).unwrap();
    assert_eq!(world.service.collect_pool(&world.pool).await.unwrap().revisions, [all[0].clone()]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_keeps_everything() {
    let world = World::new();
    let all = world.built(&["a", "b", "c"]).await;
    let instance = testing::instance(&world.service, State::Created);
    let file = world.service.dirs.instance(&world.pool, instance.instance_id).join("instance.json");
    fs::write(file, "{").unwrap();
    let error = world.service.collect_pool(&world.pool).await.unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(all.iter().all(|digest| world.has(digest)));
}

#[tokio::test]
async fn a_collection_that_was_killed_is_finished_by_the_next() {
    let world = World::new();
    let all = world.built(&["a", "b", "c"]).await;
    // The rename happened, the removal did not.
    let gone = world.shelf().join(format!(".gone-{}", all[0]));
    fs::rename(world.shelf().join(all[0].as_str()), &gone).unwrap();
    world.service.collect_pool(&world.pool).await.unwrap();
    assert!(!gone.exists() && world.has(&all[1]) && world.has(&all[2]));
}

#[tokio::test]
async fn a_rollback_finds_its_files_or_refuses() {
    let world = World::new();
    let all = world.built(&["a", "b"]).await;
    let back = world.service.rollback_pool(&world.pool, None).await.unwrap();
    assert_eq!((back.from, back.to), (Some(all[1].clone()), all[0].clone()));
    assert_eq!(world.current(), Some(all[0].clone()));
    let link = world.service.dirs.pool(&world.pool).join("artifacts/current");
    assert_eq!(fs::read_link(link).unwrap(), Path::new("revisions").join(all[0].as_str()));
    // Taken off the pool's shelf: the image store has it still.
    fs::remove_dir_all(world.shelf().join(all[1].as_str())).unwrap();
    world.service.rollback_pool(&world.pool, None).await.unwrap();
    assert!(world.has(&all[1]));
    // Gone from both.
    fs::remove_dir_all(world.shelf().join(all[0].as_str())).unwrap();
    let keep = [all[1].clone()];
    let silent = |_| ();
    let never = std::sync::atomic::AtomicBool::new(false);
    world.service.images().unwrap().gc(&keep, Control::new(&silent, &never)).unwrap();
    let error = world.service.rollback_pool(&world.pool, None).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.message.contains("is gone") && error.hint.unwrap().contains("pool build"));
    assert_eq!(world.current(), Some(all[1].clone()));
}

#[tokio::test]
async fn a_digest_is_found_by_how_it_starts() {
    let world = World::new();
    let all = world.built(&["a", "b", "c"]).await;
    let to = |text: String| {
        let (service, pool) = (world.service.clone(), world.pool.clone());
        async move { service.rollback_pool(&pool, Some(&text)).await }
    };
    assert_eq!(to(all[0].as_str()[..20].into()).await.unwrap().to, all[0]);
    assert_eq!(to(all[0].to_string()).await.unwrap_err().kind, Kind::WrongState);
    assert_eq!(to("zz".into()).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(to(String::new()).await.unwrap_err().kind, Kind::Invalid);
}

#[tokio::test]
async fn a_pool_that_got_another_image_does_not_get_the_old_one() {
    let world = World::new();
    let digest = world.image("a").await;
    let mut pool = world.service.pool(&world.pool).unwrap();
    let built_from = pool.image.clone();
    pool.image = ImageSource::Revision { digest: digest.clone() };
    world.service.records.put_pool(&pool).unwrap();
    let revision = PoolRevision {
        digest,
        builder: None,
        source: String::new(),
        lock: None,
        built_at: 1,
        current_since: 1,
    };
    let made = world.service.make_current(&world.pool, revision, Some(&built_from)).await;
    assert_eq!(made.unwrap_err().kind, Kind::Conflict);
    assert_eq!(world.current(), None);
}

#[test]
fn sources_that_can_never_be_built_are_refused() {
    let world = World::new();
    let check = |text: &str| {
        let image: ImageSource = serde_json::from_str(text).unwrap();
        world.service.check_image(&world.pool, &image).unwrap_err()
    };
    let flake =
        |reference: &str| format!(r#"{{"kind":"flake","ref":"{reference}","profile":"minimal"}}"#);
    assert!(check(r#"{"kind":"oci","reference":"nginx"}"#).message.contains("reserved"));
    assert!(check(&flake(".")).message.contains("relative"));
    assert!(check(&flake("/nonexistent")).message.contains("no directory"));
    let dir = world.root.path().to_str().unwrap();
    assert!(check(&flake(dir)).message.contains("has no flake.nix"));
    let none = format!(r#"{{"kind":"revision","digest":"{}"}}"#, Digest::of(b"none"));
    let error = check(&none);
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.hint.unwrap().contains("mvm image import"));
}
