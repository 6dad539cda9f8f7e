//! Removing revisions nobody uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mvm_model::Digest;

use super::file::sync_dir;
use super::{Revision, Store};
use crate::image::error::{ImageError, io};
use crate::image::npm::Npm;
use crate::packages::{Control, Fetcher};

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// The revisions that are gone.
    pub revisions: Vec<Digest>,
    /// Bytes on disk that became free: what a pool still links to does not count.
    pub bytes: u64,
}

impl Store {
    /// Removes every revision `keep` does not name, the index entries that led to it, and package
    /// files no remaining revision was made from. Pools have their own links, so even a revision
    /// that a VM runs from can go without harm to it.
    pub fn gc(&self, keep: &[Digest], control: Control<'_>) -> Result<Freed, ImageError> {
        self.gc_by(|| keep.to_vec(), control)
    }

    /// The same, asking what is to be kept once nobody [holds](Store::hold) any more.
    pub fn gc_by(
        &self,
        keep: impl FnOnce() -> Vec<Digest>,
        control: Control<'_>,
    ) -> Result<Freed, ImageError> {
        let _alone = self.alone(control)?;
        let lock = self.lock(control)?;
        let keep = keep();
        let mut freed = Freed::default();
        for digest in self.digests()?.into_iter().filter(|digest| !keep.contains(digest)) {
            if control.cancelled() {
                return Err(ImageError::Cancelled { what: "collecting images".into() });
            }
            freed.bytes += self.remove(&digest)?;
            freed.revisions.push(digest);
        }
        sync_dir(&self.revisions())?;
        self.forget(|digest| freed.revisions.contains(digest));
        freed.bytes += self.prune_packages()?;
        drop(lock);
        Ok(freed)
    }

    /// What [`Store::gc`] would remove now. Takes no lock: somebody may change it meanwhile.
    pub fn would_free(&self, keep: &[Digest]) -> Result<Freed, ImageError> {
        let (left, gone): (Vec<_>, Vec<_>) =
            self.digests()?.into_iter().partition(|digest| keep.contains(digest));
        let left: Vec<_> = left.iter().filter_map(|digest| self.get(digest).ok()).collect();
        let places: Vec<_> = gone.iter().map(|d| self.revisions().join(d.as_str())).collect();
        let debs = Fetcher::unused_in(&self.packages(), is_used(&left));
        let npm = self.unused_npm(&left);
        let packages = debs.iter().chain(&npm).map(|(_, size)| size).sum::<u64>();
        Ok(Freed { bytes: nowhere_else(&places) + packages, revisions: gone })
    }

    /// One rename takes a revision out; a kill after it leaves only rubbish in `tmp`.
    fn remove(&self, digest: &Digest) -> Result<u64, ImageError> {
        let place = self.revisions().join(digest.as_str());
        let bytes = unshared(&place);
        let gone = self.tmp().join(format!("gone-{digest}"));
        fs::rename(&place, &gone).map_err(io("remove", &place))?;
        fs::remove_dir_all(&gone).map_err(io("remove", &gone))?;
        Ok(bytes)
    }

    fn prune_packages(&self) -> Result<u64, ImageError> {
        let left = self.list()?;
        Ok(Fetcher::prune_in(&self.packages(), is_used(&left)) + self.prune_npm(&left)?)
    }

    fn prune_npm(&self, left: &[Revision]) -> Result<u64, ImageError> {
        let mut bytes = 0;
        for (place, size) in self.unused_npm(left) {
            bytes += size;
            fs::remove_dir_all(&place).map_err(io("remove", &place))?;
        }
        Ok(bytes)
    }

    fn unused_npm(&self, left: &[Revision]) -> Vec<(PathBuf, u64)> {
        let used = |name: &str| Npm::is_used(name, left.iter().flat_map(|r| &r.manifest.inputs));
        let entries = fs::read_dir(self.npm()).into_iter().flatten().flatten();
        let unused = entries.filter(|entry| !used(&entry.file_name().to_string_lossy()));
        unused.map(|entry| (entry.path(), size(&entry.path()))).collect()
    }
}

/// Whether one of these revisions was made from a package file of this name.
fn is_used(left: &[Revision]) -> impl Fn(&str) -> bool {
    let used: BTreeSet<String> = left.iter().flat_map(Revision::packages).collect();
    move |file| {
        let mut parts = file.split('_');
        let name = parts.next().unwrap_or_default();
        let version = parts.next().unwrap_or_default().replace("%3a", ":");
        used.contains(&format!("{name} {version}"))
    }
}

impl Revision {
    /// `name version` of every package it was made from.
    fn packages(&self) -> Vec<String> {
        let inputs = self.manifest.inputs.iter();
        let package = |(key, value): (&String, &String)| {
            let version = value.split(' ').next().unwrap_or_default();
            Some(format!("{} {version}", key.strip_prefix("package:")?))
        };
        inputs.filter_map(package).collect()
    }
}

/// Bytes of the files below a directory.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let one = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        meta => meta.map_or(0, |meta| meta.len()),
    };
    entries.map(one).sum()
}

/// Bytes on disk of the files that have names in these directories only.
fn nowhere_else(dirs: &[PathBuf]) -> u64 {
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let mut names: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    for meta in entries.filter_map(|entry| entry.metadata().ok()) {
        let file = names.entry((meta.dev(), meta.ino())).or_insert((meta.nlink(), 0));
        file.0 = file.0.saturating_sub(1);
        file.1 = meta.blocks() * 512;
    }
    names.values().filter(|(elsewhere, _)| *elsewhere == 0).map(|(_, bytes)| bytes).sum()
}

/// Bytes on disk of the files that have no other name.
fn unshared(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let metas = entries.filter_map(|entry| entry.metadata().ok());
    metas.filter(|meta| meta.nlink() == 1).map(|meta| meta.blocks() * 512).sum()
}
