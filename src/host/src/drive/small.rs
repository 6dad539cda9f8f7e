//! Small read-only drives made of a few files: secrets and configuration.
//!
//! Of constant size, because a drive must not change size while its guest sleeps. A drive carries
//! the id of its content as its file system's UUID, so whether the one that is there is the one
//! that is wanted takes one read, and a drive that was only half written has none.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, chown};
use std::path::Path;

use mvm_model::failpoint::{self, Effect};
use nix::fcntl::{FallocateFlags, fallocate};
use zeroize::Zeroizing;

use super::{DriveError, make, mke2fs, run};
use crate::file::{self, Context, FileError};

/// Size of the image, MiB.
const MIB: u64 = 2;
/// What the files may have together, bytes; leaves room for file system structures.
pub const SMALL_CAPACITY: usize = 1 << 20;
/// Unit of [`overwrite`]: the page size, so that what is all zero takes no memory.
const PAGE: usize = 4096;
/// Where an ext4 image says what it is: magic and UUID.
const SUPERBLOCK: u64 = 1024;
const MAGIC_AT: usize = 0x38;
const UUID_AT: usize = 0x68;

/// Which content a small drive has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmallId(pub [u8; 16]);

impl std::fmt::Display for SmallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A file on a small drive.
#[derive(Clone, Copy)]
pub struct SmallFile<'a> {
    /// Its name in the drive's root directory.
    pub name: &'a str,
    /// Its content.
    pub content: &'a [u8],
    /// Who owns it in the guest: uid and gid.
    pub owner: (u32, u32),
    /// Its permissions.
    pub mode: u32,
}

/// Writes a small drive holding `files` (name, content), which everybody in the guest may read.
///
/// # Errors
/// When it does not fit or cannot be made.
pub fn write_small(path: &Path, files: &[(&str, &[u8])]) -> Result<(), DriveError> {
    let open = |&(name, content)| SmallFile { name, content, owner: (0, 0), mode: 0o644 };
    write_files(path, &files.iter().map(open).collect::<Vec<_>>(), |image, tree| {
        format(image, tree, &[])
    })
}

/// Writes a small drive with an id, replacing what is there as a whole. Nothing is in it but the
/// files.
///
/// # Errors
/// When it does not fit or cannot be made.
pub fn write_small_as(path: &Path, id: SmallId, files: &[SmallFile]) -> Result<(), DriveError> {
    write_files(path, files, |image, tree| {
        format(image, tree, &["-U", &id.to_string()])?;
        run("debugfs", image, &["-w", "-R", "rmdir lost+found"])
    })
}

/// The id of the drive that is there; `None` without a whole one.
pub fn small_id(path: &Path) -> Option<SmallId> {
    let mut start = [0; UUID_AT + 16];
    File::open(path).ok()?.read_exact_at(&mut start, SUPERBLOCK).ok()?;
    let is_ext4 = start[MAGIC_AT..MAGIC_AT + 2] == [0x53, 0xef];
    is_ext4.then(|| start[UUID_AT..].try_into().ok().map(SmallId))?
}

/// Removes what an interrupted writer of the drive at `path` left beside it.
///
/// # Errors
/// When it stays.
pub fn sweep_small(path: &Path) -> Result<(), FileError> {
    file::remove_file(&file::temporary(path))?;
    file::remove_dir(&path.with_extension("tree"))
}

/// Gives the drive at `path` the content of the one at `from` without replacing the file, which a
/// VM has open. The guest must not have it mounted. Cut short, the drive has no id.
///
/// # Errors
/// When it cannot be read or written.
pub fn overwrite_small(path: &Path, from: &Path) -> Result<(), DriveError> {
    let mut pages = Zeroizing::new(vec![0; (MIB << 20) as usize]);
    let source = File::open(from).doing("open", from)?;
    source.read_exact_at(&mut pages, 0).doing("read", from)?;
    let target = OpenOptions::new().write(true).open(path).doing("open", path)?;
    let write = || -> io::Result<()> {
        failpoint::before(Effect::OverwriteDrive)?;
        target.write_all_at(&[0; PAGE], 0)?;
        for (number, page) in pages.chunks(PAGE).enumerate().skip(1) {
            put(&target, number, page)?;
        }
        // With it the drive has an id again.
        target.write_all_at(&pages[..PAGE], 0)?;
        failpoint::after(Effect::OverwriteDrive)
    };
    Ok(write().doing("write", path)?)
}

fn put(target: &File, number: usize, page: &[u8]) -> io::Result<()> {
    let at = (number * PAGE) as u64;
    if page.iter().any(|byte| *byte != 0) {
        return target.write_all_at(page, at);
    }
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(target, hole, at as i64, PAGE as i64)?;
    Ok(())
}

fn format(image: &Path, tree: &Path, options: &[&str]) -> Result<(), DriveError> {
    let tree = tree.to_string_lossy();
    let root = ["-O", "^has_journal", "-E", "root_owner=0:0", "-d", &tree];
    mke2fs(image, &[options, &root].concat())
}

fn write_files(
    path: &Path,
    files: &[SmallFile],
    format: impl FnOnce(&Path, &Path) -> Result<(), DriveError>,
) -> Result<(), DriveError> {
    let total = files.iter().map(|file| file.content.len()).sum();
    if total > SMALL_CAPACITY {
        return Err(DriveError::TooLarge { total });
    }
    let tree = path.with_extension("tree");
    file::remove_dir(&tree)?;
    file::create_dir(&tree)?;
    let format_and_forget = |beside: &Path| {
        format(beside, &tree)?;
        // Before the drive has its name: whoever finds it looks for nothing beside it.
        Ok(file::remove_dir(&tree)?)
    };
    fill(&tree, files)
        .map_err(DriveError::from)
        .and_then(|()| make(path, MIB << 20, format_and_forget))
        .inspect_err(|_| drop(fs::remove_dir_all(&tree)))
}

fn fill(tree: &Path, files: &[SmallFile]) -> Result<(), FileError> {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    for wanted in files {
        let path = tree.join(wanted.name);
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(&path).doing("create", &path)?;
        file.write_all(wanted.content).doing("write", &path)?;
        let (uid, gid) = wanted.owner;
        if nix::unistd::geteuid().is_root() {
            chown(&path, Some(uid), Some(gid)).doing("give away", &path)?;
        }
        let mode = fs::Permissions::from_mode(wanted.mode);
        file.set_permissions(mode).doing("set permissions of", &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain<'a>(name: &'a str, content: &'a [u8]) -> SmallFile<'a> {
        SmallFile { name, content, owner: (7, 8), mode: 0o400 }
    }

    /// What `debugfs` says about the image.
    fn ask(image: &Path, command: &str) -> String {
        let debugfs = std::process::Command::new("debugfs")
            .args(["-R", command])
            .arg(image)
            .env("PATH", "/usr/sbin:/sbin")
            .output();
        String::from_utf8_lossy(&debugfs.unwrap().stdout).into_owned()
    }

    fn is_sound(image: &Path) -> bool {
        let check = std::process::Command::new("e2fsck")
            .args(["-fn"])
            .arg(image)
            .env("PATH", "/usr/sbin:/sbin")
            .output();
        check.unwrap().status.success()
    }

    #[test]
    fn small_drives_keep_their_size_whatever_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.img");
        write_small(&path, &[]).unwrap();
        let empty = fs::metadata(&path).unwrap().len();
        write_small(&path, &[("config.json", &[b'x'; 500_000])]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), empty);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the tree was left behind");
        let big = [0; SMALL_CAPACITY + 1];
        assert!(matches!(
            write_small(&path, &[("big", &big)]),
            Err(DriveError::TooLarge { total }) if total == big.len()
        ));
    }

    #[test]
    fn as_many_secrets_as_a_tenant_may_have_fit() {
        use mvm_model::secret::{MAX_COUNT, MAX_TOTAL};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.img");
        let content = vec![b'x'; MAX_TOTAL / MAX_COUNT];
        let names: Vec<_> = (0..MAX_COUNT).map(|n| format!("{n:064}")).collect();
        let files: Vec<_> = names.iter().map(|name| plain(name, &content)).collect();
        write_small_as(&path, SmallId([9; 16]), &files).unwrap();
        assert!(is_sound(&path));
    }

    #[test]
    fn a_drive_has_its_id_and_its_files_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets.img");
        assert_eq!(small_id(&path), None);
        let id = SmallId(*b"\0\0\0\0\0\0\0\x05abcdefgh");
        write_small_as(&path, id, &[plain("token", b"hunter2")]).unwrap();
        assert_eq!(small_id(&path), Some(id));
        assert_eq!(ask(&path, "cat token"), "hunter2");
        assert!(!ask(&path, "ls").contains("lost+found") && is_sound(&path));
        if nix::unistd::geteuid().is_root() {
            let stat = ask(&path, "stat token");
            assert!(stat.contains("Mode:  0400"), "{stat}");
            assert!(stat.contains("User:     7   Group:     8"), "{stat}");
        }
    }

    #[test]
    fn a_drive_is_overwritten_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let (path, next) = (dir.path().join("a.img"), dir.path().join("b.img"));
        write_small_as(&path, SmallId([1; 16]), &[plain("old", &[b'o'; 300_000])]).unwrap();
        let inode = file::stamp(&path).unwrap().ino;
        write_small_as(&next, SmallId([2; 16]), &[plain("new", b"new")]).unwrap();
        overwrite_small(&path, &next).unwrap();
        assert_eq!(file::stamp(&path).unwrap().ino, inode);
        assert_eq!(fs::read(&path).unwrap(), fs::read(&next).unwrap());
        assert_eq!(
            (small_id(&path), ask(&path, "cat new")),
            (Some(SmallId([2; 16])), "new".into())
        );
        assert!(is_sound(&path) && file::allocated_bytes(&path) < 400_000);
    }

    #[test]
    fn a_drive_half_overwritten_has_no_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        write_small_as(&path, SmallId([1; 16]), &[]).unwrap();
        // The source ends before its last page: read first, nothing is touched.
        assert!(overwrite_small(&path, Path::new("/dev/null")).is_err());
        assert_eq!(small_id(&path), Some(SmallId([1; 16])));
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; PAGE], 0).unwrap();
        assert_eq!(small_id(&path), None);
    }
}
