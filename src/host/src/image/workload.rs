//! What a guest runs by itself, by role.

use std::collections::BTreeMap;

use mvm_model::image::{Restart, Role, Workload};

/// Where the gateway's program is in the image.
pub(super) const GATEWAY_PROGRAM: &str = "usr/libexec/mvm/gateway";
/// Its source: a page that names the gateway, served on port 8080.
pub(super) const GATEWAY_SOURCE: &str = include_str!("base/gateway.sh");

/// The workload of `role`; the same for every profile.
pub(super) fn workload(role: &Role) -> Option<Workload> {
    match role {
        Role::Gateway => Some(Workload {
            argv: vec![format!("/{GATEWAY_PROGRAM}")],
            env: BTreeMap::new(),
            user: Some("65534:65534".into()),
            ports: vec![8080],
            restart: Restart::Always,
        }),
        Role::Builder | Role::Worker | Role::Capability(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gateway_serves_by_itself() {
        let gateway = workload(&Role::Gateway).unwrap();
        assert_eq!((gateway.ports.as_slice(), gateway.restart), (&[8080][..], Restart::Always));
        for role in [Role::Worker, Role::Builder, Role::Capability("pg16".into())] {
            assert_eq!(workload(&role), None);
        }
    }
}
