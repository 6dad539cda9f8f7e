//! Calls about images: building them for pools, the revisions a pool keeps, the image store.

use std::path::PathBuf;

use mvm_model::image::{Builder, BuilderChoice, PoolRevision, Profile, Role};
use mvm_model::{Digest, PoolPath};
use serde::{Deserialize, Serialize};

/// Builds a pool's image and makes it the revision new boots use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildPool {
    /// Which.
    pub pool: PoolPath,
    /// Who is to build it, this time; what the pool says when `None`.
    #[serde(default)]
    pub builder: Option<BuilderChoice>,
}

/// What [`BuildPool`] answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolBuilt {
    /// The revision the pool uses now.
    pub digest: Digest,
    /// Who built it; `None` for a revision that was there.
    pub builder: Option<Builder>,
    /// Why it was built by somebody else than one might expect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Makes an earlier revision the one new boots use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Which pool.
    pub pool: PoolPath,
    /// The revision, or the start of its digest; the previous one when `None`.
    #[serde(default)]
    pub to: Option<String>,
}

/// What [`Rollback`] answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The revision that was current.
    pub from: Option<Digest>,
    /// The one that is.
    pub to: Digest,
    /// Instances that keep another revision until their next cold start.
    pub keeping: usize,
}

/// Removes a pool's revisions that nothing needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolGc {
    /// Which pool.
    pub pool: PoolPath,
}

/// What a collection of revisions did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Collected {
    /// What was removed.
    pub revisions: Vec<Digest>,
    /// Bytes on disk that became free.
    pub bytes: u64,
    /// What stays, and why.
    pub kept: Vec<Kept>,
}

/// A revision that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Which.
    pub digest: Digest,
    /// What needs it.
    pub why: String,
}

/// A revision of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionView {
    /// What the pool knows of it.
    #[serde(flatten)]
    pub revision: PoolRevision,
    /// New boots use it.
    pub current: bool,
    /// A rollback goes to it.
    pub previous: bool,
    /// Its files are in the pool.
    pub here: bool,
}

/// The revisions in the image store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// A revision in the image store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its digest.
    pub digest: Digest,
    /// What it holds.
    pub profile: String,
    /// What it is made for.
    pub role: Role,
    /// Who built it.
    pub builder: String,
    /// `uname -r` of its kernel.
    pub kernel: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// The pools that need it.
    pub needed_by: Vec<String>,
}

/// Builds an image of the embedded builder, for a pool to come.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// What it holds.
    pub profile: Profile,
    /// What it is made for.
    pub role: Role,
}

/// Takes an image made elsewhere into the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// A directory or a tar archive on the agent's host.
    pub path: PathBuf,
}

/// Removes revisions from the store that no pool and no instance needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gc {}
