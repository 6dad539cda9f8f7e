//! Files that survive a crash: written beside, synced, renamed, directory synced.
//!
//! Everything mvm keeps goes through here. After a power cut a reader finds the old content or
//! the new one, never a mixture, and never an empty file where there was one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mvm_model::Digest;
use mvm_model::failpoint::{self, Effect};
use mvm_model::snapshot::FileStamp;
use sha2::{Digest as _, Sha256};

/// A file operation that failed: what we did, to which file, why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// The failure of `action` on `path`.
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }

    /// Whether the disk (or a quota on it) is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the file is missing.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether we may not.
    pub fn is_denied(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

/// Says what was done to which path when an operation fails.
pub trait Context<T> {
    /// Wraps the error.
    ///
    /// # Errors
    /// The same failure, as a [`FileError`].
    fn doing(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> Context<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError::new(action, path, source))
    }
}

/// Creates a directory only its owner may enter, with missing parents, durably.
///
/// # Errors
/// When it cannot be created.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
            create_dir(parent(path))?;
            create_dir(path)
        }
        Err(error) => Err(FileError::new("create directory", path, error)),
    }
}

/// Makes a rename or unlink in `dir` durable.
///
/// # Errors
/// When the directory cannot be synced.
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).doing("sync directory", dir)
}

/// Makes a file's content durable.
///
/// # Errors
/// When the disk does not confirm it: then nothing that builds on the content may go on.
pub fn sync(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|file| file.sync_all()).doing("sync", path)
}

/// The directory a file is in.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Where a file is written before it gets its name. One name per target: its writers hold a
/// lock, and what a crash leaves is overwritten by the next write instead of piling up.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Replaces a file's content durably. The file is readable by its owner only.
///
/// # Errors
/// When any step fails; the old content is then still there.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let beside = temporary(path);
    let write = || {
        failpoint::before(Effect::WriteFile)?;
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        failpoint::after(Effect::WriteFile)
    };
    write()
        .doing("write", path)
        .and_then(|()| rename_durably(&beside, path))
        .inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Gives a finished file or directory its name, durably. The content must be synced already.
///
/// # Errors
/// When it cannot be renamed or the directory not synced.
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), FileError> {
    let doing = "rename into place";
    failpoint::before(Effect::RenameFile).doing(doing, to)?;
    fs::rename(from, to).doing(doing, to)?;
    sync_dir(parent(to))?;
    failpoint::after(Effect::RenameFile).doing(doing, to)
}

/// Removes a file; a missing one is fine.
///
/// # Errors
/// When it is there and stays.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    remove(Effect::RemoveFile, path, |path| fs::remove_file(path)).doing("remove", path)
}

/// Removes a directory with all it holds; a missing one is fine. Symlinks are not followed.
///
/// # Errors
/// When something in it stays.
pub fn remove_dir(path: &Path) -> Result<(), FileError> {
    remove(Effect::RemoveDir, path, |path| fs::remove_dir_all(path)).doing("remove directory", path)
}

/// Where nothing is nothing happens.
fn remove(
    effect: Effect,
    path: &Path,
    remove: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    failpoint::before(effect)?;
    match remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => failpoint::after(effect),
    }
}

/// What identifies the file at `path` cheaply.
///
/// # Errors
/// When it cannot be examined.
pub fn stamp(path: &Path) -> Result<FileStamp, FileError> {
    let meta = fs::symlink_metadata(path).doing("examine", path)?;
    Ok(FileStamp {
        ino: meta.ino(),
        size: meta.size(),
        mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        ctime_ns: meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
    })
}

/// SHA-256 of a file's content.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<Digest, FileError> {
    let mut file = File::open(path).doing("read", path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).doing("read", path)? {
            0 => return Ok(Digest::from_sha256(hash.finalize().into())),
            len => hash.update(&buffer[..len]),
        }
    }
}

/// Bytes a process without privileges could still write to the file system `path` is on.
///
/// # Errors
/// When the file system cannot be examined.
pub fn free_bytes(path: &Path) -> Result<u64, FileError> {
    nix::sys::statvfs::statvfs(path)
        .map(|stat| stat.blocks_available() * stat.fragment_size())
        .map_err(io::Error::from)
        .doing("examine the file system of", path)
}

/// Bytes allocated on disk below `path` (a file or a directory); what is missing counts zero.
pub fn allocated_bytes(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| allocated_bytes(&entry.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        write_durably(&path, b"old").unwrap();
        // A directory where the temporary goes makes the write fail before the rename.
        fs::create_dir(temporary(&path)).unwrap();
        let error = write_durably(&path, b"new").unwrap_err().to_string();
        assert!(error.starts_with("cannot write /"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn a_stamp_changes_with_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_durably(&path, b"one").unwrap();
        let before = stamp(&path).unwrap();
        assert_eq!(stamp(&path).unwrap(), before);
        write_durably(&path, b"two").unwrap();
        assert!(!stamp(&path).unwrap().same_content(&before));
        assert_eq!(digest(&path).unwrap(), Digest::of(b"two"));
    }

    #[test]
    fn records_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/record");
        create_dir(path.parent().unwrap()).unwrap();
        write_durably(&path, b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    }
}
