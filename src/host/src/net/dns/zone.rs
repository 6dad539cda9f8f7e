//! What the resolver knows of one tenant.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use mvm_model::record::{Egress, TenantNetwork};
use mvm_model::{Digest, TenantName};
use serde::{Deserialize, Serialize};

/// A tenant's names and what else it may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Whose it is: the names end in `.<tenant>.mvm`.
    pub tenant: TenantName,
    /// On whose `.1` it answers.
    pub network: TenantNetwork,
    /// Whether other names are asked of the host's resolvers.
    pub forwarding: Forwarding,
    /// `<instance>.<pool>` → address, an instance by its id and, when it has one, by its name.
    pub names: BTreeMap<String, Ipv4Addr>,
}

/// Whether a tenant's other questions leave the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarding {
    /// Only own names; a tenant without egress could tunnel through a resolver.
    Refused,
    /// To the host's upstreams.
    Upstream,
}

impl From<&Egress> for Forwarding {
    fn from(egress: &Egress) -> Self {
        match egress {
            Egress::None => Self::Refused,
            Egress::Internet | Egress::List(_) => Self::Upstream,
        }
    }
}

impl Zone {
    /// Tells a changed zone from one the resolver has.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}
