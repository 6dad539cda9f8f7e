//! Calls about instances.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use mvm_model::record::Millis;
use mvm_model::state::{Status, Verb};
use mvm_model::{Digest, InstanceName, InstancePath, Mac, PoolName, PoolPath, TenantName};
use serde::{Deserialize, Serialize};

/// Creates an instance beyond the counts, named if a name is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// In this pool.
    pub pool: PoolPath,
    /// With this name.
    #[serde(default)]
    pub name: Option<InstanceName>,
}

/// Instances, sorted by offset within their pool.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Of this tenant only.
    #[serde(default)]
    pub tenant: Option<TenantName>,
    /// Of this pool of the tenant only.
    #[serde(default)]
    pub pool: Option<PoolName>,
}

/// What [`List`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listed {
    /// The instances.
    pub instances: Vec<View>,
    /// Records that could not be read.
    pub unreadable: Vec<crate::wire::Unreadable>,
}

/// One instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Info {
    /// Which.
    pub instance: InstancePath,
}

/// One instance with what it uses.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetStats {
    /// Which.
    pub instance: InstancePath,
}

/// Takes an instance through a transition.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Which.
    pub instance: InstancePath,
    /// How.
    pub verb: Verb,
}

/// What [`Change`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Changed {
    /// The instance now.
    pub view: View,
    /// Set when nothing had to be done, saying why.
    #[serde(default)]
    pub already: Option<Cow<'static, str>>,
    /// Something a person should know about it.
    #[serde(default)]
    pub note: Option<String>,
    /// Why it took longer than it should; empty mostly.
    #[serde(default)]
    pub slow: Vec<String>,
    /// How long each part took, in order.
    #[serde(default)]
    pub phases: Vec<Phase>,
}

/// A measured part of a transition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phase {
    /// Its name: `load`, `resume`, `guest`, …
    pub name: Cow<'static, str>,
    /// How long it took, milliseconds.
    pub ms: f64,
}

/// Destroys an instance with its data.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    /// Which.
    pub instance: InstancePath,
}

/// Reads a log the host keeps of an instance, also of one whose VM is gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLog {
    /// Whose.
    pub instance: InstancePath,
    /// Which.
    pub source: HostLogSource,
    /// At most so many lines, counted from the end.
    pub lines: u32,
}

/// The logs a host keeps of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostLogSource {
    /// The serial console.
    Console,
    /// What the VMM said.
    Vmm,
}

/// What [`HostLog`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostLogText {
    /// The lines, control characters removed.
    pub lines: Vec<String>,
}

/// One row of `instance list --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct View {
    /// Its id.
    pub instance_id: String,
    /// Its tenant.
    pub tenant_id: String,
    /// Its pool.
    pub pool_id: String,
    /// Its name, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for.
    pub role: String,
    /// What it is.
    pub status: Status,
    /// The transition on its way: `starting`, `sleeping`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<Cow<'static, str>>,
    /// Its address.
    pub guest_ip: Option<Ipv4Addr>,
    /// Its MAC.
    pub mac: Mac,
    /// Its tap.
    pub tap_dev: String,
    /// Its VMM's pid, while there is one.
    pub pid: Option<u32>,
    /// VMM and accelerator, while there is one.
    pub vmm: Option<String>,
    /// The image revision it was booted from.
    pub revision: Option<Digest>,
    /// When it got its status, milliseconds since the epoch.
    pub since: Millis,
    /// Why it failed, or what the last transition had to do differently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl View {
    /// `<tenant>/<pool>/<id>`.
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.tenant_id, self.pool_id, self.instance_id)
    }
}

/// Counters of one instance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Counters {
    /// vCPUs it is given.
    pub vcpus: u32,
    /// Memory it is given, MiB.
    pub mem_mib: u64,
    /// Memory of the VMM that is resident, bytes.
    pub resident_bytes: Option<u64>,
    /// CPU time of the VMM, milliseconds.
    pub cpu_ms: Option<u64>,
    /// Allocated by the data drive, bytes.
    pub data_bytes: u64,
    /// Allocated by the snapshot, bytes.
    pub snapshot_bytes: u64,
    /// Bytes the guest received.
    pub rx_bytes: u64,
    /// Bytes the guest sent.
    pub tx_bytes: u64,
    /// How often it woke from its snapshot.
    #[serde(default)]
    pub wakes: u64,
    /// How often of these that took longer than it should.
    #[serde(default)]
    pub slow_wakes: u64,
    /// Why, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_because: Option<String>,
    /// Whether a VMM waits for its wake.
    #[serde(default)]
    pub vmm_waits: bool,
}

/// An instance with its counters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stats {
    /// What `instance list` shows.
    #[serde(flatten)]
    pub view: View,
    /// What it uses.
    #[serde(flatten)]
    pub counters: Counters,
    /// Whether its guest agent answers.
    pub guest_agent: String,
}
