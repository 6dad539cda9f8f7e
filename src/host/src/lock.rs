//! Locks between processes: a file, `flock`ed by its holder, saying who that is.
//!
//! The kernel releases a dead holder's lock, so nothing is ever stale; the text in the file is
//! only for the message a waiting person gets.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::file::{Context, FileError};

/// How often a waiting process tries again; `flock` has no wait with a deadline.
const RETRY: Duration = Duration::from_millis(15);
/// So often, and so long apart, a lock is tried that somebody may only be looking at.
const LOOKS: u32 = 2;
const LOOK: Duration = Duration::from_millis(1);

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it longer than we wait.
    #[error("{holder} is at it")]
    Held {
        /// Who, as they wrote it: `mvm instance sleep (pid 12)`.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A lock that is held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, waiting for at most `patience`. `who` is shown to others.
    ///
    /// # Errors
    /// [`LockError::Held`] when patience ends, naming the holder.
    pub async fn take(path: &Path, who: &str, patience: Duration) -> Result<Self, LockError> {
        Self::take_after(path, who, patience, &mut None).await
    }

    /// Like [`Self::take`]; `former` becomes who had it last, as they wrote it.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn take_after(
        path: &Path,
        who: &str,
        patience: Duration,
        former: &mut Option<String>,
    ) -> Result<Self, LockError> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::try_take_after(path, who, former) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                result => return result,
            }
        }
    }

    /// Takes the lock if it is free now.
    ///
    /// # Errors
    /// [`LockError::Held`] when it is not, naming the holder.
    pub fn try_take(path: &Path, who: &str) -> Result<Self, LockError> {
        Self::try_take_after(path, who, &mut None)
    }

    fn try_take_after(
        path: &Path,
        who: &str,
        former: &mut Option<String>,
    ) -> Result<Self, LockError> {
        let mut looks = 0;
        loop {
            let mut file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                // Who only looks whether it is held has it for a moment.
                Err(TryLockError::WouldBlock) if looks < LOOKS => {
                    looks += 1;
                    std::thread::sleep(LOOK);
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held { holder: read(&mut file) });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(FileError::new("lock", path, error).into());
                }
            }
            // A holder that removed the file while we opened it leaves us a lock on nothing.
            if is_at(&file, path) {
                *former = said(&mut file);
                // Only for the message others get; a full disk must not keep a lock from anybody.
                let _ = announce(&mut file, who);
                return Ok(Self { _file: file });
            }
        }
    }
}

/// Whether somebody holds the lock at `path` now.
pub fn is_held(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// Who holds the lock at `path` now, as they wrote it.
pub fn holder(path: &Path) -> Option<String> {
    is_held(path)
        .then(|| File::open(path).map_or_else(|_| String::new(), |mut file| read(&mut file)))
}

fn open(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .doing("open lock", path)
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
    matches!((file.metadata(), path.metadata()), (Ok(a), Ok(b)) if identity(&a) == identity(&b))
}

fn announce(file: &mut File, who: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{who} (pid {})", std::process::id())
}

fn read(file: &mut File) -> String {
    said(file).unwrap_or_else(|| "another mvm process".to_owned())
}

fn said(file: &mut File) -> Option<String> {
    let mut text = String::new();
    let len = file.take(200).read_to_string(&mut text).ok()?;
    (len > 0).then_some(text)
}

/// The lock file of an object kept in `dir`.
pub fn path_in(dir: &Path) -> PathBuf {
    dir.join(".lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_taker_learns_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_in(dir.path());
        let held = Lock::try_take(&path, "mvm instance sleep").unwrap();
        let error = Lock::take(&path, "other", Duration::from_millis(40)).await.unwrap_err();
        assert!(error.to_string().starts_with("mvm instance sleep (pid "), "{error}");
        drop(held);
        let mut former = None;
        Lock::take_after(&path, "other", Duration::ZERO, &mut former).await.unwrap();
        assert!(former.unwrap().starts_with("mvm instance sleep (pid "));
    }

    #[tokio::test]
    async fn a_lock_file_that_was_removed_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_in(dir.path());
        let first = Lock::try_take(&path, "first").unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = Lock::try_take(&path, "second").unwrap();
        assert!(Lock::try_take(&path, "third").is_err());
        drop((first, second));
    }
}
