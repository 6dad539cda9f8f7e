//! Small durable file operations the store is made of.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use mvm_model::Digest;
use mvm_model::image::FileEntry;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc::O_NOFOLLOW;
use sha2::{Digest as _, Sha256};

use super::super::error::{ImageError, io};

/// The digest of a regular file; symbolic links are refused.
pub(super) fn digest(path: &Path) -> std::io::Result<Digest> {
    let mut file = File::options().read(true).custom_flags(O_NOFOLLOW).open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_sha256(hash.finalize().into())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Makes a finished file read-only and durable, and describes it.
pub(super) fn seal(dir: &Path, name: &str) -> Result<FileEntry, ImageError> {
    let path = dir.join(name);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).map_err(io("chmod", &path))?;
    let file = File::open(&path).map_err(io("open", &path))?;
    file.sync_all().map_err(io("sync", &path))?;
    let size = file.metadata().map_err(io("read", &path))?.len();
    let digest = digest(&path).map_err(io("read", &path))?;
    Ok(FileEntry { name: name.into(), size, digest })
}

/// Makes a directory's entries durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), ImageError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(io("sync", dir))
}

/// Swaps two paths in one step.
pub(super) fn exchange(a: &Path, b: &Path) -> Result<(), ImageError> {
    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE)
        .map_err(|error| io("replace", b)(error.into()))
}

/// Replaces a small file as a whole: other readers see the old text or the new.
pub(super) fn replace(path: &Path, temp: &Path, text: &[u8]) -> Result<(), ImageError> {
    fs::write(temp, text).map_err(io("write", temp))?;
    File::open(temp).and_then(|file| file.sync_all()).map_err(io("sync", temp))?;
    fs::rename(temp, path).map_err(io("create", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}
