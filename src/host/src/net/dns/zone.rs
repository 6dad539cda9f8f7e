//! What the resolver knows of one tenant.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
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
    /// Only own names: through the host's resolvers a tenant could talk to anybody.
    Refused,
    /// To the host's upstreams.
    Upstream,
}

impl From<&Egress> for Forwarding {
    fn from(egress: &Egress) -> Self {
        match egress {
            Egress::Internet => Self::Upstream,
            Egress::List(nets) if is_everything(nets) => Self::Upstream,
            Egress::None | Egress::List(_) => Self::Refused,
        }
    }
}

/// Whether a list closes nothing that a question could get around.
fn is_everything(nets: &[Ipv4Net]) -> bool {
    let nets: Vec<Ipv4Net> = nets.iter().map(Ipv4Net::trunc).collect();
    matches!(&Ipv4Net::aggregate(&nets)[..], [all] if all.prefix_len() == 0)
}

impl Zone {
    /// Tells a changed zone from one the resolver has.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_may_reach_everybody_asks_the_hosts_resolvers() {
        let list =
            |nets: &[&str]| Egress::List(nets.iter().map(|net| net.parse().unwrap()).collect());
        for open in [Egress::Internet, list(&["0.0.0.0/0"]), list(&["0.0.0.0/1", "128.0.0.0/1"])] {
            assert_eq!(Forwarding::from(&open), Forwarding::Upstream, "{open:?}");
        }
        for closed in [Egress::None, list(&[]), list(&["192.0.2.0/24"]), list(&["0.0.0.0/1"])] {
            assert_eq!(Forwarding::from(&closed), Forwarding::Refused, "{closed:?}");
        }
    }
}
