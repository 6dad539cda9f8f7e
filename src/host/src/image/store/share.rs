//! One file on disk for what two revisions have in common.

use std::fs;
use std::path::Path;

use mvm_model::image::FileEntry;

use super::file::digest;
use super::{Revision, Store};
use crate::image::error::{ImageError, io};

impl Store {
    /// Links files of `revision` into the build at `out` under the same names. Whether it did:
    /// one that is no longer what the manifest says is not used, nor are the others.
    pub(in crate::image) fn share(
        &self,
        revision: &Revision,
        files: &[&FileEntry],
        out: &Path,
    ) -> Result<bool, ImageError> {
        let intact = |file: &&FileEntry| {
            digest(&revision.dir.join(&file.name)).is_ok_and(|now| now == file.digest)
        };
        if !files.iter().all(intact) {
            return Ok(false);
        }
        for file in files {
            let to = out.join(&file.name);
            fs::hard_link(revision.dir.join(&file.name), &to).map_err(io("link", &to))?;
        }
        Ok(true)
    }
}
