//! Whether a revision's files are what its manifest says.

use std::fs;
use std::path::Path;

use mvm_model::Digest;
use mvm_model::image::FileEntry;

use super::file::digest;
use super::{Revision, Store, damaged};
use crate::image::error::{ImageError, io};
use crate::packages::Control;

impl Store {
    /// Reads every file of a revision and compares it with the manifest. A damaged revision is
    /// forgotten by the index, so that building it again replaces its files.
    pub fn verify(&self, digest: &Digest, control: Control<'_>) -> Result<(), ImageError> {
        let result = self.get(digest).and_then(|revision| revision.verify(control));
        if matches!(result, Err(ImageError::Damaged { .. } | ImageError::NotFound { .. })) {
            self.forget(|gone| gone == digest);
        }
        result
    }
}

impl Revision {
    /// Reads every file and compares it with the manifest.
    pub fn verify(&self, control: Control<'_>) -> Result<(), ImageError> {
        let total: u64 = self.entries().map(|entry| entry.size).sum();
        let (what, mut done) = (format!("verifying image {}", self.digest.short()), 0);
        for entry in self.entries() {
            if control.cancelled() {
                return Err(ImageError::Cancelled { what });
            }
            control.at(&what, done, total);
            let path = self.dir.join(&entry.name);
            if digest(&path).map_err(io("read", &path))? != entry.digest {
                let problem = format!("was changed since it was built ({})", path.display());
                return Err(damaged(&self.digest, &entry.name, &problem));
            }
            done += entry.size;
        }
        control.at(&what, total, total);
        Ok(())
    }

    /// That every file is there, a plain file, in the size the manifest says.
    pub(super) fn check_sizes(&self) -> Result<(), ImageError> {
        self.entries().try_for_each(|entry| {
            let bad = |problem: String| Err(damaged(&self.digest, &entry.name, &problem));
            if entry.name.contains('/') || entry.name.starts_with('.') {
                return bad("is no plain file name".into());
            }
            let path = self.dir.join(&entry.name);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_file() && meta.len() == entry.size => Ok(()),
                Ok(meta) if meta.is_file() => bad(sizes(&path, meta.len(), entry.size)),
                Ok(_) => bad(format!("is not a plain file ({})", path.display())),
                Err(_) => bad(format!("is missing ({})", path.display())),
            }
        })
    }

    /// All files of all architectures.
    pub(super) fn entries(&self) -> impl Iterator<Item = &FileEntry> {
        let files = self.manifest.arch.values();
        files.flat_map(|arch| [&arch.kernel, &arch.vmlinux, &arch.initrd, &arch.rootfs])
    }
}

fn sizes(path: &Path, now: u64, then: u64) -> String {
    format!("has {now} bytes instead of {then} ({})", path.display())
}
