//! The guest's life: who it is, how it is, logs, sleep, wake, power off.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who a guest agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Highest protocol version it speaks.
    pub version: u8,
    /// Its own version, for people.
    pub agent: String,
    /// Verbs it knows.
    #[serde(default)]
    pub verbs: Vec<String>,
}

/// How a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `/proc/sys/kernel/random/boot_id`: another one means it booted again.
    pub boot_id: String,
    /// Milliseconds since boot, sleep not counted.
    pub uptime_ms: u64,
    /// Its clock: milliseconds since 1970.
    pub clock_ms: i64,
    /// Everything the configuration asks for is done (the workload itself apart).
    pub ready: bool,
    /// What went wrong on the way, for people.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Milliseconds from the start of PID 1 to ready, loading of kernel modules apart.
    #[serde(default)]
    pub ready_after_ms: Option<u64>,
    /// The workload.
    pub workload: WorkloadStatus,
    /// Epoch of the mounted secrets; 0 when none are mounted.
    pub secrets_epoch: u64,
    /// Epoch of the configuration.
    pub config_epoch: u64,
    /// Between sleep-prep and wake.
    #[serde(default)]
    pub prepared_to_sleep: bool,
    /// Memory of the guest.
    pub memory: Memory,
    /// Resident memory of the agent, KiB.
    #[serde(default)]
    pub agent_kib: u64,
}

/// A guest's memory, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// In all.
    pub total_kib: u64,
    /// What could be used without swapping.
    pub available_kib: u64,
}

/// What the workload does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// There is none.
    #[default]
    None,
    /// It runs.
    Running,
    /// It ended and will be started again.
    Backoff,
    /// It ended and stays so.
    Ended,
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// The workload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// What it does.
    pub state: WorkloadState,
    /// Its process.
    #[serde(default)]
    pub pid: Option<u32>,
    /// It runs, something listens on each of its ports, and it says it is well if it can be asked.
    #[serde(default)]
    pub ready: bool,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// How it ended last.
    #[serde(default)]
    pub last_exit: Option<super::ExecExit>,
    /// Why it could not be started, for people.
    #[serde(default)]
    pub error: Option<String>,
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// What the workload wrote.
    #[default]
    Workload,
    /// What the agent noted.
    Agent,
}

/// Send the end of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Logs {
    /// Which log.
    #[serde(default)]
    pub source: LogSource,
    /// Lines to begin with, counted from the end; everything kept when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Go on with what is written from now on, until the stream is reset.
    #[serde(default)]
    pub follow: bool,
}

/// Get ready to be put to sleep: hooks, sync, secrets and config unmounted, caches dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SleepPrep {
    /// Go on when a hook fails or a process holds the secrets.
    #[serde(default)]
    pub force: bool,
    /// Milliseconds the hooks may take together, above what the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks_ms: Option<u64>,
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooked {
    /// `drain`, `checkpoint` or `wake`.
    pub hook: String,
    /// How long it took.
    pub millis: u64,
    /// What went wrong; `None` when it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Ready to be put to sleep.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SleepPrepared {
    /// The hooks that ran.
    #[serde(default)]
    pub hooks: Vec<Hooked>,
    /// What was overridden by `force`.
    #[serde(default)]
    pub overridden: Vec<String>,
}

/// Who the guest is from now on, when not who it was.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// New host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// You were woken.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Wake {
    /// The host's clock, nanoseconds since 1970.
    pub clock_ns: i64,
    /// Random bytes in hexadecimal, 32 to 256 of them.
    pub entropy: String,
    /// Epoch of the secrets drive as it is now.
    pub secrets_epoch: u64,
    /// Epoch of the config drive as it is now.
    pub config_epoch: u64,
    /// Absent: who it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// The entropy is a secret: it never appears in a log.
impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wake")
            .field("clock_ns", &self.clock_ns)
            .field("secrets_epoch", &self.secrets_epoch)
            .field("config_epoch", &self.config_epoch)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Awake.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Woken {
    /// By how many milliseconds the clock was wrong; positive: it was behind.
    pub clock_step_ms: i64,
    /// Milliseconds it took in the guest.
    pub millis: u64,
    /// The hooks that ran.
    #[serde(default)]
    pub hooks: Vec<Hooked>,
    /// What went wrong without being in the way, for people.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Turn yourself off.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Poweroff {
    /// Milliseconds processes have between TERM and KILL; 5000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// A step of changing the secrets of a guest that runs. The host writes the drive between the
/// two, while it is not mounted; both may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum SecretsStep {
    /// Unmount the drive and forget what was on it. Refused while a process holds it.
    Release,
    /// Mount what is on it now.
    Mount {
        /// Its epoch.
        epoch: u64,
    },
}

/// What of the secrets drive is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SecretsMounted {
    /// The UUID of its file system, as text; `None` when it is not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}
