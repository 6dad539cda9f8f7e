//! The content-addressed store of image revisions.
//!
//! ```text
//! <cache>/revisions/<digest>/{kernel,vmlinux,initrd,rootfs,manifest.json}   0444, never changed
//! <cache>/index/<input key>      the digest that was built from these inputs
//! <cache>/packages/              the package cache (packages::Fetcher; npm/ is image::npm's)
//! <cache>/tmp/                   work in progress; whatever is here when the lock is taken is stale
//! <cache>/lock                   flock by who builds or collects; holds its pid
//! <cache>/hold                   flock, shared: from before a build until its revision is linked
//! ```
//!
//! A revision appears by one rename of a directory whose files are on disk already, so a kill or
//! a full disk at any moment leaves what was there before.

mod file;
mod gc;
mod index;
mod install;
mod link;
mod lock;
mod share;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};

use mvm_model::Digest;
use mvm_model::image::{ArchFiles, Manifest};

pub use gc::Freed;
pub use lock::Hold;
pub(super) use lock::Lock;

use super::error::{ImageError, io};
use crate::packages::Arch;

/// Names of a revision's files.
pub(super) const KERNEL: &str = "kernel";
pub(super) const VMLINUX: &str = "vmlinux";
pub(super) const INITRD: &str = "initrd";
pub(super) const ROOTFS: &str = "rootfs";
pub(super) const MANIFEST: &str = "manifest.json";

/// A store on disk. Cheap to open; holds no handle.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A revision in the store.
#[derive(Debug, Clone)]
pub struct Revision {
    /// Its name: the digest of its manifest.
    pub digest: Digest,
    /// Its directory.
    pub dir: PathBuf,
    /// What it says about itself.
    pub manifest: Manifest,
}

/// The files a VM of one architecture boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// What QEMU loads.
    pub kernel: PathBuf,
    /// What Firecracker loads.
    pub vmlinux: PathBuf,
    /// The initrd, which also answers `mvm.probe`.
    pub initrd: PathBuf,
    /// The read-only root.
    pub rootfs: PathBuf,
    /// Its type, for `rootfstype=`.
    pub rootfs_type: String,
    /// `uname -r`.
    pub kernel_release: String,
}

impl Store {
    /// The store below `cache`, which is created.
    pub fn open(cache: &Path) -> Result<Self, ImageError> {
        let store = Self { root: cache.into() };
        for dir in [store.revisions(), store.index(), store.packages(), store.tmp()] {
            fs::create_dir_all(&dir).map_err(io("create", &dir))?;
        }
        Ok(store)
    }

    /// A revision whose manifest is authentic and whose files are there in full size. Their
    /// content is checked by [`Store::verify`].
    pub fn get(&self, digest: &Digest) -> Result<Revision, ImageError> {
        Revision::open(&self.revisions().join(digest.as_str()), digest)
    }

    /// All revisions that can be opened, by digest; the others are the builder's to replace.
    pub fn list(&self) -> Result<Vec<Revision>, ImageError> {
        let mut found: Vec<Revision> =
            self.digests()?.iter().filter_map(|digest| self.get(digest).ok()).collect();
        found.sort_by(|a, b| a.digest.cmp(&b.digest));
        Ok(found)
    }

    /// The digests there are directories for.
    pub(super) fn digests(&self) -> Result<Vec<Digest>, ImageError> {
        let dir = self.revisions();
        let entries = fs::read_dir(&dir).map_err(io("read", &dir))?;
        let name = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        Ok(entries.flatten().filter_map(name).collect())
    }

    pub(super) fn revisions(&self) -> PathBuf {
        self.root.join("revisions")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Where the package cache is.
    pub(super) fn packages(&self) -> PathBuf {
        self.root.join("packages")
    }

    /// Where npm packages are kept, laid out for an image.
    pub(super) fn npm(&self) -> PathBuf {
        self.packages().join("npm")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

impl Revision {
    /// Opens the revision at `dir`, in the store or linked into a pool.
    pub fn open(dir: &Path, digest: &Digest) -> Result<Self, ImageError> {
        let path = dir.join(MANIFEST);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ImageError::NotFound { digest: digest.clone() });
            }
            text => text.map_err(io("read", &path))?,
        };
        if Digest::of(&text) != *digest {
            return Err(damaged(digest, MANIFEST, "was changed"));
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
            damaged(digest, MANIFEST, &format!("cannot be read by this mvm ({error})"))
        })?;
        let revision = Self { digest: digest.clone(), dir: dir.into(), manifest };
        revision.check_sizes()?;
        Ok(revision)
    }

    /// What a VM of `arch` boots from.
    pub fn files(&self, arch: Arch) -> Result<BootFiles, ImageError> {
        let files = self.arch(arch)?;
        let path = |name: &str| self.dir.join(name);
        Ok(BootFiles {
            kernel: path(&files.kernel.name),
            vmlinux: path(&files.vmlinux.name),
            initrd: path(&files.initrd.name),
            rootfs: path(&files.rootfs.name),
            rootfs_type: files.rootfs_type.clone(),
            kernel_release: files.kernel_release.clone(),
        })
    }

    pub(super) fn arch(&self, arch: Arch) -> Result<&ArchFiles, ImageError> {
        self.manifest.arch.get(arch.as_str()).ok_or_else(|| ImageError::NoArch {
            revision: self.digest.clone(),
            arch: arch.to_string(),
        })
    }
}

fn damaged(revision: &Digest, file: &str, problem: &str) -> ImageError {
    ImageError::Damaged { revision: revision.clone(), file: file.into(), problem: problem.into() }
}

#[cfg(test)]
mod tests;
