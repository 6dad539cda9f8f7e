//! Calls about pools.

use std::collections::BTreeMap;

use mvm_model::image::{ImageSource, Origin, Role};
use mvm_model::record::PoolRecord;
use mvm_model::resources::{Claim, Resources};
use mvm_model::state::Status;
use mvm_model::{PoolPath, TenantName};
use serde::{Deserialize, Serialize};

use crate::image::RevisionView;

/// Creates a pool. Builds and starts nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Its tenant and name.
    pub pool: PoolPath,
    /// Where its image comes from.
    pub image: ImageSource,
    /// What its instances are for.
    pub role: Role,
    /// What each is given.
    pub resources: Resources,
    /// How the image was asked for.
    #[serde(default)]
    pub origin: Origin,
}

/// A tenant's pools.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Whose; everybody's when `None`.
    #[serde(default)]
    pub tenant: Option<TenantName>,
}

/// What [`List`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listed {
    /// The pools, by tenant and name.
    pub pools: Vec<View>,
    /// Records that could not be read.
    pub unreadable: Vec<crate::wire::Unreadable>,
}

/// One pool.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Info {
    /// Which.
    pub pool: PoolPath,
}

/// Sets how many instances a pool should have and creates the missing records. Starts nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Which.
    pub pool: PoolPath,
    /// Running; as it is when `None`.
    #[serde(default)]
    pub running: Option<u32>,
    /// Warm; as it is when `None`.
    #[serde(default)]
    pub warm: Option<u32>,
    /// Sleeping; as it is when `None`.
    #[serde(default)]
    pub sleeping: Option<u32>,
}

/// What [`Scale`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scaled {
    /// The pool now.
    pub pool: View,
    /// Paths of the instances it created.
    pub created: Vec<String>,
    /// How many unnamed instances there are.
    pub unnamed: usize,
}

/// Destroys a pool with its instances and their data.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    /// Which.
    pub pool: PoolPath,
}

/// A pool with what is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct View {
    /// The record.
    #[serde(flatten)]
    pub record: PoolRecord,
    /// Who built the current revision.
    pub builder: Option<String>,
    /// The revisions it uses and used, newest use first.
    pub revisions: Vec<RevisionView>,
    /// Instances by status.
    pub actual: BTreeMap<Status, usize>,
    /// Bytes its instances take on disk.
    pub disk_bytes: u64,
    /// What its instances claim of the tenant's disk quota.
    pub disk_claim: Claim,
}
