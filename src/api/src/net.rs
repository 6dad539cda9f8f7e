//! Calls about the tenants' networks.

use serde::{Deserialize, Serialize};

/// Holds bridges, taps and rules against what they should be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {}

/// What [`Verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether everything is as it should be.
    pub clean: bool,
    /// Bridges that were looked at.
    pub tenants: usize,
    /// Ports that were looked at.
    pub ports: usize,
    /// Tenants whose networks were tried out from within.
    #[serde(default)]
    pub probed: usize,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `error` or `warning`.
    pub severity: String,
    /// What it is about.
    pub object: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}
