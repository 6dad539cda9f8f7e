//! Drives: files that become a guest's block devices.
//!
//! Every instance has four, always in this order: root (the image revision's, shared,
//! read-only), data (its own, `/data`), secrets and config (small ext4 images made here). An
//! instance without a data drive gets a placeholder, so that a drive's name means the same in
//! every guest.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mvm_model::failpoint::{self, Effect};

use crate::file::{self, Context, FileError};

mod small;

pub use small::{
    SMALL_CAPACITY, SmallFile, SmallId, overwrite_small, small_id, sweep_small, write_small,
    write_small_as,
};

/// Size of the data drive's placeholder, bytes.
const PLACEHOLDER: u64 = 64 << 10;

/// Why a drive could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// `mke2fs` is missing or said no.
    #[error("cannot format {}: {why}", path.display())]
    Format {
        /// The image.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// More than a small drive holds.
    #[error("{total} bytes do not fit a drive of {SMALL_CAPACITY} bytes")]
    TooLarge {
        /// What was to be stored.
        total: usize,
    },
    /// The data drive was there before and is not any more.
    #[error("data drive {} is missing", path.display())]
    Lost {
        /// Where it was.
        path: PathBuf,
    },
    /// The existing data drive has another size.
    #[error("data drive {} has {has} bytes, the instance was created with {wanted}", path.display())]
    Resized {
        /// The drive.
        path: PathBuf,
        /// Its size.
        has: u64,
        /// What the record says.
        wanted: u64,
    },
}

/// What to do about a data drive that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Make it: the instance never ran.
    Make,
    /// Refuse: it was there, and an empty one in its place would hide the loss.
    Refuse,
}

/// Makes sure the data drive exists: sparse ext4 of `mib` MiB, or the placeholder for 0. An
/// existing drive is never formatted, resized or replaced.
///
/// # Errors
/// When it cannot be made or examined, is missing though it must be there, or has another size.
pub fn ensure_data(path: &Path, mib: u64, missing: Missing) -> Result<(), DriveError> {
    let size = if mib == 0 { PLACEHOLDER } else { mib << 20 };
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.len() == size => Ok(()),
        Ok(meta) => Err(DriveError::Resized { path: path.into(), has: meta.len(), wanted: size }),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::new("examine", path, error).into())
        }
        Err(_) if mib == 0 => make(path, size, |_| Ok(())),
        Err(_) if missing == Missing::Refuse => Err(DriveError::Lost { path: path.into() }),
        Err(_) => make(path, size, format_data),
    }
}

/// Makes an existing data drive larger: a placeholder becomes a drive, a drive's file gets longer
/// (its guest's file system grows into it at the next boot). Never makes one smaller; a missing
/// one is left to [`ensure_data`]. May be called again after a crash anywhere.
///
/// # Errors
/// When it cannot be examined or made longer.
pub fn grow_data(path: &Path, mib: u64) -> Result<(), DriveError> {
    let size = mib << 20;
    let has = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.doing("examine", path)?.len(),
    };
    if has >= size {
        return Ok(());
    }
    if has == PLACEHOLDER {
        // Nothing could be written to it.
        return make(path, size, format_data);
    }
    let longer = OpenOptions::new().write(true).open(path).doing("open", path)?;
    let grow = || {
        failpoint::before(Effect::GrowDrive)?;
        longer.set_len(size)?;
        longer.sync_all()?;
        failpoint::after(Effect::GrowDrive)
    };
    Ok(grow().doing("enlarge", path)?)
}

/// Inode tables are zeroed by the guest when it first uses them: creation stays instant and the
/// file sparse.
fn format_data(image: &Path) -> Result<(), DriveError> {
    mke2fs(image, &["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-L", "data"])
}

fn make(
    path: &Path,
    size: u64,
    format: impl FnOnce(&Path) -> Result<(), DriveError>,
) -> Result<(), DriveError> {
    let beside = file::temporary(path);
    file::remove_file(&beside)?;
    let image = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .doing("create", &beside)?;
    let made = image
        .set_len(size)
        .doing("size", &beside)
        .map_err(DriveError::from)
        .and_then(|()| format(&beside))
        .and_then(|()| Ok(image.sync_all().doing("sync", &beside)?));
    made.and_then(|()| Ok(file::rename_durably(&beside, path)?))
        .inspect_err(|_| drop(fs::remove_file(&beside)))
}

fn mke2fs(image: &Path, options: &[&str]) -> Result<(), DriveError> {
    let always = ["-q", "-F", "-t", "ext4", "-m", "0"];
    let failed = |source| FileError::new("format", image, source);
    failpoint::before(Effect::FormatDrive).map_err(failed)?;
    run("mke2fs", image, &[&always, options].concat())?;
    Ok(failpoint::after(Effect::FormatDrive).map_err(failed)?)
}

/// Runs a program of e2fsprogs on an image.
fn run(program: &str, image: &Path, options: &[&str]) -> Result<(), DriveError> {
    let bad = |why: String| DriveError::Format { path: image.to_owned(), why };
    let output = Command::new(program)
        .args(options)
        .arg(image)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| bad(format!("{program}: {error} (package e2fsprogs)")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(bad(said.lines().last().map_or_else(|| format!("{program} failed"), str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_data_drive_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        ensure_data(&path, 16, Missing::Make).unwrap();
        let before = (file::stamp(&path).unwrap(), file::digest(&path).unwrap());
        ensure_data(&path, 16, Missing::Make).unwrap();
        assert_eq!((file::stamp(&path).unwrap(), file::digest(&path).unwrap()), before);
        assert!(matches!(ensure_data(&path, 32, Missing::Make), Err(DriveError::Resized { .. })));
        assert!(file::allocated_bytes(&path) < 4 << 20, "the drive is not sparse");
    }

    #[test]
    fn a_data_drive_grows_and_never_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        grow_data(&path, 16).unwrap();
        assert!(!path.exists(), "a missing drive was made");
        ensure_data(&path, 0, Missing::Make).unwrap();
        for (asked, is) in [(0, PLACEHOLDER), (16, 16 << 20), (32, 32 << 20), (8, 32 << 20)] {
            grow_data(&path, asked).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), is);
        }
        // The superblock of the drive made in place of the placeholder is still there.
        assert_eq!(fs::read(&path).unwrap()[1080..1082], [0x53, 0xef]);
    }

    #[test]
    fn a_lost_data_drive_is_not_replaced_by_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        assert!(matches!(ensure_data(&path, 16, Missing::Refuse), Err(DriveError::Lost { .. })));
        assert!(!path.exists());
    }

    #[test]
    fn a_placeholder_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        ensure_data(&path, 0, Missing::Make).unwrap();
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    }
}
