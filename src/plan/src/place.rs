//! Placement: which node gets what of an Intent. With one node it is the identity.

use mvm_model::TenantName;
use mvm_model::desired::DesiredState;
use mvm_model::intent::Intent;

/// An intent that cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Several hosts need a coordinator.
    #[error("the intent names {} hosts; a host alone is a fleet of one", .hosts.len())]
    SeveralHosts {
        /// Which.
        hosts: Vec<TenantName>,
    },
    /// It is for another node.
    #[error("the intent is for node {wanted} (host {host}), this is {ours}")]
    OtherNode {
        /// The host's name.
        host: TenantName,
        /// The node it names.
        wanted: String,
        /// This node.
        ours: String,
    },
}

impl PlaceError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::SeveralHosts { .. } => "give it to a coordinator, or declare one host",
            Self::OtherNode { .. } => "'mvm node info' shows the node id",
        }
    }
}

/// Everything of an intent, for the only node there is.
///
/// # Errors
/// When the intent speaks of other nodes.
pub fn one(intent: &Intent, node_id: &str) -> Result<DesiredState, PlaceError> {
    match &intent.hosts[..] {
        [] => {}
        [host] => match &host.node_id {
            Some(wanted) if wanted != node_id => {
                return Err(PlaceError::OtherNode {
                    host: host.host_id.clone(),
                    wanted: wanted.clone(),
                    ours: node_id.to_owned(),
                });
            }
            _ => {}
        },
        hosts => {
            let hosts = hosts.iter().map(|host| host.host_id.clone()).collect();
            return Err(PlaceError::SeveralHosts { hosts });
        }
    }
    Ok(DesiredState {
        node_id: Some(node_id.to_owned()),
        tenants: intent.tenants.clone(),
        ..DesiredState::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_model::intent::HostSpec;

    fn host(name: &str, node_id: Option<&str>) -> HostSpec {
        HostSpec {
            host_id: name.parse().unwrap(),
            node_id: node_id.map(str::to_owned),
            address: None,
            labels: Default::default(),
        }
    }

    #[test]
    fn a_fleet_of_one_gets_everything() {
        let (_, observed) = crate::bench_input(30);
        let tenants: Vec<_> = observed.tenants.into_iter().map(|tenant| tenant.spec).collect();
        for hosts in [vec![], vec![host("alpha", None)], vec![host("alpha", Some("n1"))]] {
            let intent = Intent { hosts, tenants: tenants.clone(), ..Intent::default() };
            let placed = one(&intent, "n1").unwrap();
            assert_eq!((placed.tenants, placed.node_id), (tenants.clone(), Some("n1".into())));
            assert!(!placed.prune_unknown_tenants);
        }
    }

    #[test]
    fn other_nodes_are_refused() {
        let two = vec![host("alpha", None), host("beta", None)];
        let intent = Intent { hosts: two, ..Intent::default() };
        assert!(matches!(one(&intent, "n1"), Err(PlaceError::SeveralHosts { .. })));
        let intent = Intent { hosts: vec![host("alpha", Some("n2"))], ..Intent::default() };
        let error = one(&intent, "n1").unwrap_err();
        assert_eq!(error.to_string(), "the intent is for node n2 (host alpha), this is n1");
    }
}
