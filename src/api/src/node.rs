//! Calls about this host: what it is, what it does, what takes space, what is wrong with it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mvm_model::TenantName;
use mvm_model::resources::{Claim, Usage};
use mvm_model::state::Status;
use mvm_model::vm::{Accel, VmmKind};
use serde::{Deserialize, Serialize};

/// What this host is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetInfo {}

/// What this host does now.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetStats {}

/// What takes space on this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetDisk {}

/// Removes what nothing needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gc {
    /// Whether it is removed or only named.
    pub mode: Mode,
}

/// This host at a glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetOverview {}

/// Looks for what is wrong with this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doctor {}

/// What [`Doctor`] found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checks {
    /// Every check.
    pub checks: Vec<Check>,
    /// What was proven since this boot.
    pub vmms: Vec<Proof>,
}

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Architecture, `x86_64` or `aarch64`.
    pub arch: String,
    /// `uname -r`.
    pub kernel: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// CPU model and a digest of its feature flags.
    pub cpu_class: String,
    /// CPUs online.
    pub cpus: u32,
    /// Memory, MiB.
    pub mem_mib: u64,
}

/// What a proof found about one VMM and accelerator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The program.
    pub vmm: VmmKind,
    /// The accelerator.
    pub accel: Accel,
    /// Whether a guest ran.
    pub proven: bool,
    /// What was found, for people.
    pub found: String,
}

/// What this host is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub node_id: String,
    /// Its name in the network.
    pub hostname: String,
    /// What it is made of.
    #[serde(flatten)]
    pub machine: Machine,
    /// Versions of what acts here.
    pub versions: Versions,
    /// Firecracker and QEMU.
    pub vmm_programs: Vec<Program>,
    /// What was proven since this boot: each pair with its outcome.
    pub vmms: Vec<Proof>,
    /// What guests hold of it.
    pub given: Usage,
    /// Tenants, without mvm's own (`dev`).
    pub tenants: usize,
    /// Instances by status.
    pub instances: BTreeMap<Status, usize>,
    /// Where its state is.
    pub state_dir: PathBuf,
    /// Where its images are.
    pub cache_dir: PathBuf,
}

/// A program VMs run in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name, with its version when it is installed.
    pub name: String,
    /// Whether it is installed, and how many run.
    pub state: String,
}

/// Versions of what acts on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// This program's.
    pub mvm: String,
    /// The words between host and guest.
    pub guest_proto: u8,
    /// The records on disk.
    pub records: u32,
}

/// What this host does now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStats {
    /// CPUs online.
    pub cpus: u32,
    /// Of all CPUs together, per cent, over the last third of a second.
    pub cpu_percent: f64,
    /// Load over one, five and fifteen minutes.
    pub load: [f64; 3],
    /// Memory.
    pub memory: Memory,
    /// The file systems mvm writes to.
    pub file_systems: Vec<FileSystem>,
    /// Instances by status.
    pub instances: BTreeMap<Status, usize>,
    /// What guests hold.
    pub given: Usage,
    /// The same by tenant.
    pub tenants: Vec<TenantStats>,
    /// Wakes, as far back as the audit log goes.
    pub wakes: Wakes,
}

/// How instances woke.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wakes {
    /// With everything ready.
    pub fast: u64,
    /// With something still to be done first.
    pub slow: u64,
    /// What that was, and how often.
    pub reasons: BTreeMap<String, u64>,
}

/// Memory of the host, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// All of it.
    pub total_bytes: u64,
    /// What can be had without swapping.
    pub available_bytes: u64,
    /// Swap in use.
    pub swapped_bytes: u64,
}

/// What a tenant uses now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantStats {
    /// The tenant.
    pub tenant_id: TenantName,
    /// What it holds of its quotas.
    pub usage: Usage,
    /// Memory its VMMs have resident, bytes.
    pub resident_bytes: u64,
    /// CPU its VMMs use, per cent of one CPU.
    pub cpu_percent: f64,
    /// Bytes on disk of its quota.
    pub disk_claim: Claim,
    /// Instances by status.
    pub instances: BTreeMap<Status, usize>,
}

/// What `mvm status` shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Overview {
    /// This host's id.
    pub node_id: String,
    /// What it is.
    pub machine: Machine,
    /// Firecracker and QEMU.
    pub vmm_programs: Vec<Program>,
    /// What was proven since this boot.
    pub vmms: Vec<Proof>,
    /// Whether an agent serves this host.
    pub agent: String,
    /// The dev microVM.
    pub dev: String,
    /// Tenants, without mvm's own (`dev`).
    pub tenants: usize,
    /// Instances by status.
    pub instances: BTreeMap<Status, usize>,
    /// Bytes of all images on disk, those of all tenants' pools included, each file once.
    pub image_bytes: u64,
    /// Where everything is kept.
    pub state_dir: PathBuf,
}

/// What a tenant has on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantDisk {
    /// The tenant.
    pub tenant_id: String,
    /// What it claims of its quota.
    pub claim: Claim,
    /// Its quota, bytes.
    pub quota_bytes: u64,
    /// Allocated by data drives.
    pub data_bytes: u64,
    /// Allocated by snapshots.
    pub snapshot_bytes: u64,
    /// Records, configuration drives and the like.
    pub other_bytes: u64,
}

impl TenantDisk {
    /// Everything it has on disk; images are shared and counted for the host.
    pub fn bytes(&self) -> u64 {
        self.data_bytes + self.snapshot_bytes + self.other_bytes
    }
}

/// Something of mvm's own that takes space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// What it is, for people: `images`, `audit logs`.
    pub what: String,
    /// Where it is.
    pub path: PathBuf,
    /// Allocated bytes.
    pub bytes: u64,
}

/// A file system mvm writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// The directory of ours on it.
    pub path: PathBuf,
    /// Its size, bytes.
    pub total_bytes: u64,
    /// What can still be written, bytes.
    pub free_bytes: u64,
}

/// This host's disk, as far as it is mvm's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDisk {
    /// The file systems state and images are on.
    pub file_systems: Vec<FileSystem>,
    /// What is nobody's but mvm's.
    pub areas: Vec<Area>,
    /// Tenants, mvm's own included.
    pub tenants: Vec<TenantDisk>,
    /// All of it, bytes.
    pub total_bytes: u64,
    /// What `node gc` would free, bytes.
    pub reclaimable_bytes: u64,
}

/// What sort of garbage something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waste {
    /// A revision a pool keeps for nobody.
    PoolRevision,
    /// Image revisions, and packages, nothing is made from any more.
    Images,
    /// A directory whose removal was interrupted.
    HalfRemoved,
    /// A snapshot its instance does not sleep in.
    Snapshot,
    /// A file an interrupted command was writing.
    Unfinished,
    /// Sockets, logs or secrets of an instance that is gone.
    OfNobody,
    /// What was proven before this host's last boot.
    Outdated,
}

/// Something nothing needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// What sort.
    pub waste: Waste,
    /// What it is, or was.
    pub object: String,
    /// Where.
    pub path: PathBuf,
    /// Bytes on disk that become free with it.
    pub bytes: u64,
}

/// Something that looks like garbage and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where.
    pub path: PathBuf,
    /// Why it stays, and what a person can do.
    pub why: String,
}

/// Whether garbage is removed or only named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Remove it.
    Remove,
    /// Say what would be removed.
    DryRun,
}

/// What a collection did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// Whether anything was removed at all.
    pub mode: Mode,
    /// What was removed, or would be.
    pub garbage: Vec<Garbage>,
    /// What stays although it looks like garbage.
    pub kept: Vec<Kept>,
    /// Bytes that were freed, or would be.
    pub freed_bytes: u64,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    #[serde(rename = "ok")]
    Good,
    /// Works, but should be otherwise.
    #[serde(rename = "warn")]
    Warning,
    /// mvm cannot do its work.
    #[serde(rename = "fail")]
    Bad,
}

/// A check of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it came out.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// `bootstrap --production` insists on it.
    pub mandatory: bool,
}

impl Check {
    /// A check that came out so.
    pub fn new(name: &str, health: Health, found: impl Into<String>) -> Self {
        let (name, found) = (name.to_owned(), found.into());
        Self { name, health, found, remedy: None, mandatory: false }
    }

    /// What to do about it, unless it is good.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        if self.health != Health::Good {
            self.remedy = Some(remedy.into());
        }
        self
    }

    /// Production insists on it.
    #[must_use]
    pub fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }
}
