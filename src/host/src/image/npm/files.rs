//! A set of files in a fixed order: chosen, summed, copied.
//!
//! Only paths, content and whether a file can be run count; times, owners and the umask of
//! whoever ran npm do not.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use mvm_model::Digest;
use sha2::{Digest as _, Sha256};

use super::super::error::{ImageError, io};
use super::super::tree::Tree;

/// One file: where it is below one root, where it goes below another.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    to: String,
    from: String,
    mode: u32,
}

/// Files, sorted by where they go.
pub(super) struct Files(Vec<Entry>);

impl Files {
    /// The regular files below `root` that `place` gives a place.
    pub(super) fn below(
        root: &Path,
        place: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ImageError> {
        let mut list = Vec::new();
        walk(root, "", place, &mut list)?;
        list.sort();
        Ok(Self(list))
    }

    /// What the files say, as one value.
    pub(super) fn sum(&self, root: &Path, cancel: &AtomicBool) -> Result<Digest, ImageError> {
        let mut all = Sha256::new();
        for Entry { to, from, mode } in &self.0 {
            if cancel.load(Ordering::Relaxed) {
                return Err(ImageError::Cancelled { what: "comparing npm packages".into() });
            }
            let path = root.join(from);
            let digest = content(&path).map_err(io("read", &path))?;
            all.update(format!("{to}\0{mode:o} "));
            all.update(digest);
        }
        Ok(Digest::from_sha256(all.finalize().into()))
    }

    /// Copies them into the new directory `to`; their sum.
    pub(super) fn copy(
        &self,
        root: &Path,
        to: PathBuf,
        cancel: &AtomicBool,
    ) -> Result<Digest, ImageError> {
        let tree = Tree::create(to)?;
        for entry in &self.0 {
            if cancel.load(Ordering::Relaxed) {
                return Err(ImageError::Cancelled { what: "copying npm packages".into() });
            }
            tree.copy(&entry.to, entry.mode, &root.join(&entry.from))?;
        }
        self.sum(root, cancel)
    }
}

fn walk(
    root: &Path,
    below: &str,
    place: &dyn Fn(&str) -> Option<String>,
    list: &mut Vec<Entry>,
) -> Result<(), ImageError> {
    let dir = root.join(below);
    for entry in fs::read_dir(&dir).map_err(io("read", &dir))? {
        let entry = entry.map_err(io("read", &dir))?;
        let name = entry.file_name();
        // Kept trees are compared by path, so a path has to be text.
        let Some(name) = name.to_str() else {
            return Err(ImageError::Content { what: format!("npm installed {name:?}") });
        };
        let from = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let meta = entry.metadata().map_err(io("read", &dir))?;
        if meta.is_dir() {
            walk(root, &from, place, list)?;
        } else if let (true, Some(to)) = (meta.is_file(), place(&from)) {
            let mode = if meta.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            list.push(Entry { to, from, mode });
        }
    }
    Ok(())
}

fn content(path: &Path) -> std::io::Result<[u8; 32]> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), [0; 64 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}
