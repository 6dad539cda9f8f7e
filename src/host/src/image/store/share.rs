//! One file on disk for what two revisions have in common.

use std::fs;
use std::path::Path;

use super::file::digest;
use super::{KERNEL, Revision, Store, VMLINUX};
use crate::image::error::{ImageError, io};
use crate::packages::Arch;

impl Store {
    /// Links kernel and vmlinux of `revision` into the build at `out`, if they are still what
    /// its manifest says.
    pub(in crate::image) fn share(
        &self,
        revision: &Revision,
        arch: Arch,
        out: &Path,
    ) -> Result<bool, ImageError> {
        let files = revision.arch(arch)?;
        let pairs = [(&files.kernel, KERNEL), (&files.vmlinux, VMLINUX)];
        let intact = |(entry, _): &(&mvm_model::image::FileEntry, &str)| {
            digest(&revision.dir.join(&entry.name)).is_ok_and(|now| now == entry.digest)
        };
        if !pairs.iter().all(intact) {
            return Ok(false);
        }
        for (entry, name) in pairs {
            let to = out.join(name);
            fs::hard_link(revision.dir.join(&entry.name), &to).map_err(io("link", &to))?;
        }
        Ok(true)
    }
}
