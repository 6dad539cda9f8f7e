//! Revisions in pools: hard links, so that a pool keeps what it runs whatever the store forgets.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mvm_model::Digest;
use mvm_model::failpoint::{self, Effect};

use super::file::{exchange, seal, sync_dir};
use super::{MANIFEST, Revision, Store};
use crate::image::error::{ImageError, io};

impl Store {
    /// Links a revision into `<pool>/artifacts/revisions/<digest>` and makes it the pool's
    /// `current`. Idempotent; returns the revision as the pool sees it.
    pub fn link_into(&self, pool: &Path, digest: &Digest) -> Result<Revision, ImageError> {
        let revision = self.link_revision(pool, digest)?;
        set_current(pool, digest)?;
        Ok(revision)
    }

    /// Links a revision into a pool without making it current. Links to files the store has
    /// replaced since (because they were damaged) are replaced as well.
    pub fn link_revision(&self, pool: &Path, digest: &Digest) -> Result<Revision, ImageError> {
        let revision = self.get(digest)?;
        let shelf = pool.join("artifacts/revisions");
        fs::create_dir_all(&shelf).map_err(io("create", &shelf))?;
        let place = shelf.join(digest.as_str());
        if same(&revision, &place) {
            return Revision::open(&place, digest);
        }
        failpoint::before(Effect::LinkImage).map_err(io("create", &place))?;
        let temp = tempfile::Builder::new().prefix(".link-").tempdir_in(&shelf);
        let temp = temp.map_err(io("create", &shelf))?;
        for name in names(&revision) {
            link(&revision.dir, temp.path(), name)?;
        }
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755))
            .map_err(io("chmod", temp.path()))?;
        sync_dir(temp.path())?;
        match fs::symlink_metadata(&place) {
            Ok(_) => exchange(temp.path(), &place)?,
            Err(_) => fs::rename(temp.path(), &place).map_err(io("create", &place))?,
        }
        sync_dir(&shelf)?;
        failpoint::after(Effect::LinkImage).map_err(io("create", &place))?;
        Revision::open(&place, digest)
    }
}

impl Store {
    /// Points a pool's `artifacts/current` at a revision it has links for.
    pub fn point(&self, pool: &Path, digest: &Digest) -> Result<(), ImageError> {
        set_current(pool, digest)
    }
}

/// Points a pool's `artifacts/current` at a revision it has links for.
pub(super) fn set_current(pool: &Path, digest: &Digest) -> Result<(), ImageError> {
    let artifacts = pool.join("artifacts");
    let (current, temp) = (artifacts.join("current"), artifacts.join(".current-new"));
    let target = PathBuf::from("revisions").join(digest.as_str());
    if fs::read_link(&current).is_ok_and(|now| now == target) {
        return Ok(());
    }
    failpoint::before(Effect::PointImage).map_err(io("create", &current))?;
    match fs::remove_file(&temp) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(io("remove", &temp)(error));
        }
        _ => symlink(&target, &temp).map_err(io("create", &temp))?,
    }
    fs::rename(&temp, &current).map_err(io("create", &current))?;
    sync_dir(&artifacts)?;
    failpoint::after(Effect::PointImage).map_err(io("create", &current))
}

fn names(revision: &Revision) -> impl Iterator<Item = &str> {
    revision.entries().map(|entry| entry.name.as_str()).chain([MANIFEST])
}

/// Whether every file at `place` is the store's own.
fn same(revision: &Revision, place: &Path) -> bool {
    let id = |path: PathBuf| fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    names(revision).all(|name| {
        let theirs = id(place.join(name));
        theirs.is_some() && theirs == id(revision.dir.join(name))
    })
}

/// A hard link, or a copy where the pool is on another file system.
fn link(from: &Path, to: &Path, name: &str) -> Result<(), ImageError> {
    let (source, target) = (from.join(name), to.join(name));
    match fs::hard_link(&source, &target) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            fs::copy(&source, &target).map_err(io("write", &target))?;
            seal(to, name).map(drop)
        }
        result => result.map_err(io("link", &target)),
    }
}
