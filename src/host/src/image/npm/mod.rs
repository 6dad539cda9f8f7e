//! The part of a profile that comes from npm packages: `openclaw`.
//!
//! What is installed is data of this program: a `package.json` and a lock that names every package
//! with its integrity and none with an address. Where packages come from is the host's npm's
//! business; that they are the ones we mean, the lock's.
//!
//! ```text
//! lock ─► npm ci (client.rs) ─► all there? (lock.rs) ─► script.rs ─► rehearsal.rs
//!      ─► what a guest needs (keep.rs) ─► <cache>/packages/npm/<key>/{tree,sum} by rename (files.rs)
//!      ─► Tree::adopt
//! ```
//!
//! The result is kept, so that another role or guest agent needs neither npm nor the network, and
//! is compared with its sum each time, because what is in it runs in guests.
//!
//! npm runs no install script. Of those there are (looked at for the versions of the lock) one is
//! needed: OpenClaw refuses to start before its own completed. It is run without network by
//! script.rs. `koffi`'s builds or fetches what the lock names as `@koromix/koffi-linux-x64`,
//! `protobufjs`' only warns, and that of `@google/genai` does nothing.

mod client;
mod files;
mod keep;
mod lock;
mod rehearsal;
mod script;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use mvm_model::Digest;
use mvm_model::image::Profile;

use super::error::{ImageError, io};
use super::store::Store;
use crate::packages::{Arch, Control};

pub use client::NpmError;
use files::Files;
use rehearsal::Rehearsal;
use script::Script;

/// Counts changes of what is made of the same lock.
const VERSION: u32 = 3;

/// The npm part of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Npm {
    /// The package it is about.
    name: &'static str,
    package: &'static str,
    lock: &'static str,
    scripts: &'static [Script],
    rehearsal: Rehearsal,
}

const OPENCLAW: Npm = Npm {
    name: "openclaw",
    package: include_str!("../../../../../images/guest/profiles/openclaw/package.json"),
    lock: include_str!("../../../../../images/guest/profiles/openclaw/package-lock.json"),
    scripts: &[Script {
        package: "openclaw",
        file: "scripts/postinstall-bundled-plugins.mjs",
        pending: ".openclaw-lifecycle-pending",
    }],
    rehearsal: Rehearsal {
        of: "openclaw's gateway",
        argv: &[
            "/usr/lib/node_modules/openclaw/openclaw.mjs",
            "gateway",
            "run",
            "--port",
            "18789",
            "--bind",
            "lan",
            "--allow-unconfigured",
        ],
        env: &[
            // Nobody can reach it; it wants a word nevertheless.
            ("OPENCLAW_GATEWAY_TOKEN", "rehearsal"),
            ("OPENCLAW_STATE_DIR", "/tmp/state"),
            ("OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED", "1"),
            ("OPENCLAW_NO_RESPAWN", "1"),
            ("OPENCLAW_NO_AUTO_UPDATE", "1"),
            ("OPENCLAW_DISABLE_BONJOUR", "1"),
            ("DO_NOT_TRACK", "1"),
        ],
        patience: include_str!("../../../../../images/guest/profiles/openclaw/patience.cjs"),
        end: include_str!("../../../../../images/guest/profiles/openclaw/rehearse.cjs"),
    },
};

/// Where packages are installed, in an installation as in an image.
const LIB: &str = "usr/lib";

impl Npm {
    /// The npm part of `profile`, if it has one.
    ///
    /// # Errors
    /// When its programs are not made for `arch`.
    pub(super) fn of(profile: Profile, arch: Arch) -> Result<Option<Self>, ImageError> {
        match (profile, arch) {
            (Profile::Minimal | Profile::Hello | Profile::Node, _) => Ok(None),
            (Profile::OpenClaw, Arch::X86_64) => Ok(Some(OPENCLAW)),
            (Profile::OpenClaw, Arch::Aarch64) => Err(ImageError::NoProfile { profile, arch }),
        }
    }

    /// For the manifest: which package, and the digest of all that decides what is installed.
    pub(super) fn input(self) -> (String, String) {
        let version = lock::version(self.lock, self.name).unwrap_or_default();
        (format!("npm:{}", self.name), format!("{version} sha256:{}", self.key()))
    }

    fn key(self) -> Digest {
        let Rehearsal { patience, end, .. } = self.rehearsal;
        Digest::of(
            format!("{VERSION}\n{}\n{}\n{patience}{end}", self.package, self.lock).as_bytes(),
        )
    }

    /// The files that go into the image, as a directory laid out like its root; `libraries` are
    /// the packages its programs run with. The caller holds the store's lock.
    pub(super) fn ensure(
        self,
        store: &Store,
        libraries: &[PathBuf],
        control: Control<'_>,
    ) -> Result<PathBuf, ImageError> {
        let dir = store.npm();
        let place = dir.join(self.key().as_str());
        let tree = place.join("tree");
        if is_whole(&place, &tree, control.cancel) {
            return Ok(tree);
        }
        fs::create_dir_all(&dir).map_err(io("create", &dir))?;
        let shop = store.workshop()?;
        let (work, new) = (shop.path().join("npm"), shop.path().join("new"));
        self.install(&work, &dir.join("cache"), control)?;
        script::furnish(&work, libraries, control)?;
        self.scripts.iter().try_for_each(|script| script.run(&work, control))?;
        self.rehearsal.run(&work, control)?;
        self.choose(&work, &new, control)?;
        // What is there was found wanting above.
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("remove", &place)(error));
            }
            _ => {}
        }
        fs::rename(&new, &place).map_err(io("create", &place))?;
        // Only there so that a failed installation need not download everything again.
        let _ = fs::remove_dir_all(dir.join("cache"));
        Ok(tree)
    }

    fn install(self, work: &Path, cache: &Path, control: Control<'_>) -> Result<(), ImageError> {
        let lib = &work.join(LIB);
        fs::create_dir_all(lib).map_err(io("create", lib))?;
        for (name, text) in [("package.json", self.package), ("package-lock.json", self.lock)] {
            let path = lib.join(name);
            fs::write(&path, text).map_err(io("write", &path))?;
        }
        let wanted = lock::wanted(self.lock)?;
        control.say(format!("installing {} ({} npm packages)", self.name, wanted.len()));
        client::ci(self.name, lib, cache, control)?;
        Ok(lock::check(lib, &wanted)?)
    }

    fn choose(self, work: &Path, new: &Path, control: Control<'_>) -> Result<(), ImageError> {
        control.say(format!("choosing the files of {}", self.name));
        fs::create_dir(new).map_err(io("create", new))?;
        let place = |path: &str| rehearsal::place(path).or_else(|| keep::place(package(path)?));
        let files = Files::below(work, &place)?;
        let sum = files.copy(work, new.join("tree"), control.cancel)?;
        let path = new.join("sum");
        fs::write(&path, sum.as_str()).map_err(io("write", &path))
    }

    /// Whether `name`, an entry of the directory of kept trees, is still of use beside these
    /// manifest inputs.
    pub(super) fn is_used<'a>(
        name: &str,
        mut inputs: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> bool {
        inputs.any(|(key, value)| key.starts_with("npm:") && value.ends_with(name))
    }
}

/// `usr/lib/node_modules/x/y` → `node_modules/x/y`.
fn package(path: &str) -> Option<&str> {
    path.strip_prefix(LIB)?.strip_prefix('/')
}

fn is_whole(place: &Path, tree: &Path, cancel: &AtomicBool) -> bool {
    let sum = fs::read_to_string(place.join("sum"));
    let now = || Files::below(tree, &|path| Some(path.to_owned()))?.sum(tree, cancel);
    sum.is_ok_and(|sum| now().is_ok_and(|now| now.as_str() == sum))
}

#[cfg(test)]
mod tests;
