//! A finished build becomes a revision.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mvm_model::image::{FileEntry, Manifest};

use super::file::{exchange, seal, sync_dir};
use super::{Lock, MANIFEST, Revision, Store};
use crate::image::error::{ImageError, io};
use crate::packages::Control;

impl Store {
    /// A directory to build in, on the store's file system; removed when dropped.
    pub(in crate::image) fn workshop(&self) -> Result<tempfile::TempDir, ImageError> {
        let tmp = self.tmp();
        tempfile::Builder::new().prefix("build-").tempdir_in(&tmp).map_err(io("create", &tmp))
    }

    /// Makes a finished file of a build durable and describes it for the manifest.
    pub(in crate::image) fn seal(&self, dir: &Path, name: &str) -> Result<FileEntry, ImageError> {
        seal(dir, name)
    }

    /// Moves `dir`, whose files are sealed, into place as the revision `manifest` describes.
    ///
    /// A revision that is there already and intact stays; a damaged one is replaced in one step.
    pub(in crate::image) fn install(
        &self,
        _lock: &Lock,
        dir: &Path,
        manifest: &Manifest,
        control: Control<'_>,
    ) -> Result<Revision, ImageError> {
        let digest = manifest.revision();
        let path = dir.join(MANIFEST);
        let text = serde_json::to_vec(manifest).unwrap_or_default();
        fs::write(&path, text).map_err(io("write", &path))?;
        seal(dir, MANIFEST)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(io("chmod", dir))?;
        sync_dir(dir)?;
        let place = self.revisions().join(digest.as_str());
        match fs::symlink_metadata(&place) {
            Err(_) => fs::rename(dir, &place).map_err(io("create", &place))?,
            Ok(_) => match self.verify(&digest, control) {
                Ok(()) => {}
                Err(error) if error.is_cancelled() => return Err(error),
                Err(_) => exchange(dir, &place)?,
            },
        }
        sync_dir(&self.revisions())?;
        self.get(&digest)
    }
}
