//! Files in the guest.

use serde::{Deserialize, Serialize};

/// An absolute path in the guest.
pub type Path = String;

/// Read a regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFile {
    /// Which; symbolic links are followed.
    pub path: Path,
    /// Bytes to skip.
    #[serde(default)]
    pub offset: u64,
    /// Bytes to read at most; to the end when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// Replace a regular file, or create it: everything or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile {
    /// Which; the last component is not followed when it is a symbolic link but refused.
    pub path: Path,
    /// Permission bits; those of the replaced file, or 0644, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Bytes that will come; fewer or more is a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Owner, `uid:gid` or a name of `/etc/passwd`; that of the replaced file, or root, when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Bytes that were passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transferred {
    /// How many.
    pub bytes: u64,
}

/// Name what is in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Which.
    pub path: Path,
}

/// Describe a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Which; a symbolic link itself is described.
    pub path: Path,
}

/// Make a directory; it may exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeDir {
    /// Which.
    pub path: Path,
    /// Permission bits; 0755 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A device, a pipe, a socket, or a kind of a later version.
    #[serde(other)]
    Other,
}

/// A file's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970 of the last change of content.
    pub mtime: i64,
    /// What a symbolic link points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name; what is not UTF-8 is replaced.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub stat: FileStat,
}
