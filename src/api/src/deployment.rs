//! Calls about whole deployments: making one from a template, and looking at one.

use mvm_model::image::{BuilderChoice, FlakeRef};
use mvm_model::{NetId, Subnet, TenantName};
use serde::{Deserialize, Serialize};

use crate::{instance, pool, tenant};

/// Makes a deployment, or completes one of an earlier attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct New {
    /// The template's name.
    pub template: String,
    /// The tenant's name.
    pub name: TenantName,
    /// Its net id; allocated when `None`.
    #[serde(default)]
    pub net_id: Option<NetId>,
    /// Its subnet; follows from the net id when `None`.
    #[serde(default)]
    pub subnet: Option<Subnet>,
    /// The flake its images come from; mvm's own when `None`.
    #[serde(default)]
    pub flake: Option<FlakeRef>,
    /// What was typed for it, where that is kept differently.
    #[serde(default)]
    pub typed: Option<String>,
    /// Who is to build the images.
    #[serde(default)]
    pub builder: BuilderChoice,
    /// Changes of the template's numbers: the text of the file.
    #[serde(default)]
    pub config: Option<String>,
}

/// What [`New`] made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deployed {
    /// What it is, for people.
    pub about: String,
    /// Everything it has.
    pub dashboard: Dashboard,
    /// What a person should know about it.
    pub notes: Vec<String>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// Everything of one tenant at a glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Which tenant.
    pub name: TenantName,
}

/// What [`Connect`] answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dashboard {
    /// The tenant.
    pub tenant: tenant::View,
    /// Its pools.
    pub pools: Vec<pool::View>,
    /// Its instances, gateways first.
    pub instances: Vec<instance::View>,
    /// How its running gateways do.
    pub gateways: Vec<Gateway>,
}

/// A gateway that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Its path.
    pub instance: String,
    /// Where it listens: `10.240.1.2:8080`.
    pub addresses: Vec<String>,
    /// Whether its workload listens and says that it is well; `None` when its guest does not say.
    #[serde(default)]
    pub ready: Option<bool>,
}
