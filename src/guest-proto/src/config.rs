//! The document on a guest's config drive: who it is and what it runs.
//!
//! Written by the host as `config.json` on the fourth drive, read by `mvm-guest` at boot and at
//! every wake. Unknown fields are ignored, so that an old guest reads what a new host wrote;
//! `schema` says when that would be wrong.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Name of the document on the config drive.
pub const FILE: &str = "config.json";
/// Version of the document.
pub const SCHEMA: u32 = 1;
/// Largest document that is read.
pub const MAX_SIZE: u64 = 256 * 1024;

/// What a guest is told about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Version of this document, [`SCHEMA`].
    pub schema: u32,
    /// Instance id, `i-` and 8 hexadecimal digits.
    pub instance: String,
    /// Host name.
    pub hostname: String,
    /// Tenant it belongs to.
    pub tenant: String,
    /// Pool it belongs to.
    pub pool: String,
    /// Role within the tenant.
    pub role: String,
    /// Its network; `None`: only loopback.
    #[serde(default)]
    pub network: Option<Network>,
    /// What it runs by itself.
    #[serde(default)]
    pub workload: Option<Workload>,
    /// Epoch of the content of the secrets drive; 0 when there are none.
    #[serde(default)]
    pub secrets_epoch: u64,
    /// Epoch of this document.
    #[serde(default)]
    pub config_epoch: u64,
    /// Commands around sleep.
    #[serde(default)]
    pub hooks: Hooks,
}

/// The one network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// Default route; `None`: none.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Search domain of the resolver.
    #[serde(default)]
    pub search: Option<String>,
    /// MTU; the device's own when absent.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// When a workload that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// After a failure, with backoff.
    OnFailure,
    /// Always, with backoff.
    Always,
    /// Never; also a policy of a later version.
    #[default]
    #[serde(other)]
    Never,
}

/// An HTTP request that must be answered with 2xx or 3xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `uid:gid`, or a name of `/etc/passwd`; root when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Working directory; `/` when absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// TCP ports it listens on.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// What more must hold before it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
}

/// Commands the guest runs around sleep, each as root.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hooks {
    /// Before sleep, first: stop taking work.
    #[serde(default)]
    pub drain: Option<Hook>,
    /// Before sleep, then: save what must not be lost.
    #[serde(default)]
    pub checkpoint: Option<Hook>,
    /// After a wake.
    #[serde(default)]
    pub wake: Option<Hook>,
}

/// A command with a deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Milliseconds until it is ended and counts as failed.
    #[serde(default = "default_hook_timeout")]
    pub timeout_ms: u64,
}

fn default_hook_timeout() -> u64 {
    10_000
}

/// Why a config document is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// Not JSON of this shape.
    Malformed(String),
    /// Another schema.
    Schema(u32),
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "config.json: {why}"),
            Self::Schema(schema) => write!(f, "config.json has schema {schema}, not {SCHEMA}"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl GuestConfig {
    /// The document's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        crate::message::to_bytes(self)
    }

    /// Reads the document.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| ConfigError::Malformed(error.to_string()))?;
        match config.schema {
            SCHEMA => Ok(config),
            other => Err(ConfigError::Schema(other)),
        }
    }
}

#[cfg(test)]
mod tests;
