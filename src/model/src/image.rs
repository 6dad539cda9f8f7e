//! Images: where one comes from, and the manifest of a built revision.
//!
//! A revision is content-addressed: its digest is the digest of its manifest, which binds every
//! file by digest. Two builds from the same inputs have the same digest.

mod builder;
mod flake;
mod history;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::Digest;
use crate::name::ProfileName;

pub use builder::{Builder, BuilderChoice};
pub use flake::{BadFlakeRef, FlakeRef};
pub use history::{History, Origin, PoolRevision};
pub use source::ImageSource;

/// A word that is not one of a closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {given:?} (one of: {known})")]
pub struct Unknown {
    what: &'static str,
    given: String,
    known: &'static str,
}

/// What an instance is for within its tenant; decides start order and its reserved address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Role {
    /// The tenant's entry: started first, stopped last, owner of `.2`.
    Gateway,
    /// Builds images and artefacts.
    Builder,
    /// Does the tenant's work.
    Worker,
    /// A service other instances use: `capability-<word>`.
    Capability(String),
}

impl FromStr for Role {
    type Err = Unknown;
    fn from_str(text: &str) -> Result<Self, Unknown> {
        let is_word = |word: &str| {
            (1..=20).contains(&word.len())
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text {
            "gateway" => Ok(Self::Gateway),
            "builder" => Ok(Self::Builder),
            "worker" => Ok(Self::Worker),
            _ => match text.strip_prefix("capability-") {
                Some(word) if is_word(word) => Ok(Self::Capability(word.to_owned())),
                _ => Err(Unknown {
                    what: "role",
                    given: text.chars().take(40).collect(),
                    known: "gateway, builder, worker, capability-<word>",
                }),
            },
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.pad("gateway"),
            Self::Builder => f.pad("builder"),
            Self::Worker => f.pad("worker"),
            Self::Capability(word) => f.pad(&format!("capability-{word}")),
        }
    }
}

impl TryFrom<String> for Role {
    type Error = Unknown;
    fn try_from(text: String) -> Result<Self, Unknown> {
        text.parse()
    }
}

impl From<Role> for String {
    fn from(role: Role) -> String {
        role.to_string()
    }
}

/// What the embedded builder can put into an image besides the guest agent. A flake has profiles
/// of its own: [`ProfileName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Busybox.
    Minimal,
    /// Busybox and a page that says hello.
    Hello,
    /// Busybox and Node.js.
    Node,
    /// Busybox, Node.js and OpenClaw.
    OpenClaw,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Minimal, Self::Hello, Self::Node, Self::OpenClaw];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Hello => "hello",
            Self::Node => "node",
            Self::OpenClaw => "openclaw",
        }
    }

    /// The profile of that name, if the embedded builder has it.
    pub fn known(name: &ProfileName) -> Option<Self> {
        name.as_str().parse().ok()
    }
}

impl FromStr for Profile {
    type Err = Unknown;
    fn from_str(text: &str) -> Result<Self, Unknown> {
        Self::ALL.into_iter().find(|profile| profile.as_str() == text).ok_or_else(|| Unknown {
            what: "profile",
            given: text.chars().take(40).collect(),
            known: "minimal, hello, node, openclaw",
        })
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A file of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name within the revision's directory.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub digest: Digest,
}

/// When a workload that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// After a failure, with backoff.
    OnFailure,
    /// Always, with backoff.
    Always,
}

/// How a workload is asked whether it is well: an HTTP request that must be answered with 2xx or
/// 3xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// The TCP port.
    pub port: u16,
    /// What is asked for: `/health`.
    pub path: String,
}

/// The program a guest runs by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment besides the guest's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Numeric user and group, `uid:gid`.
    #[serde(default)]
    pub user: Option<String>,
    /// TCP ports it listens on; it is ready when something listens on each.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// What more must hold before it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
}

/// What the guest of one architecture boots from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchFiles {
    /// Kernel as the machine's QEMU loads it (bzImage on x86_64, Image on aarch64).
    pub kernel: FileEntry,
    /// Kernel as ELF, which Firecracker loads.
    pub vmlinux: FileEntry,
    /// `uname -r` of the kernel.
    pub kernel_release: String,
    /// Loads modules and switches root, nothing else.
    pub initrd: FileEntry,
    /// Read-only root file system.
    pub rootfs: FileEntry,
    /// Its type: `erofs` or `ext4`.
    pub rootfs_type: String,
}

/// The manifest of an image revision; its digest is the revision's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this document, 1.
    pub schema_version: u32,
    /// The profile it was built from.
    pub profile: ProfileName,
    /// The role it was built for.
    pub role: Role,
    /// Who built it: a [`Builder`]'s word.
    pub builder: String,
    /// Guest protocol version of the guest agent within.
    pub guest_proto: u32,
    /// Every input (package name and version, guest agent digest, …), sorted.
    pub inputs: BTreeMap<String, String>,
    /// Files by architecture (`x86_64`, `aarch64`).
    pub arch: BTreeMap<String, ArchFiles>,
    /// What the guest runs by itself.
    pub workload: Option<Workload>,
}

impl Manifest {
    /// As it is kept: compact JSON with sorted maps.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Cannot fail: every field is a string, a number or a map with string keys.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The revision's digest: that of [`to_bytes`](Self::to_bytes).
    pub fn revision(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_a_closed_set_with_named_capabilities() {
        assert_eq!("capability-pg16".parse(), Ok(Role::Capability("pg16".into())));
        for bad in ["", "Gateway", "capability-", "capability-a/b", "root"] {
            assert!(bad.parse::<Role>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_profile_is_the_same_word_everywhere() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
            let json = serde_json::to_string(&profile).unwrap();
            assert_eq!(json, format!("\"{profile}\""));
            assert_eq!(Profile::known(&profile.into()), Some(profile));
        }
        assert_eq!(Profile::known(&"web-shop".parse().unwrap()), None);
    }

    #[test]
    fn an_unknown_profile_names_the_known_ones() {
        let error = "windows".parse::<Profile>().unwrap_err().to_string();
        assert_eq!(error, "unknown profile \"windows\" (one of: minimal, hello, node, openclaw)");
    }
}
