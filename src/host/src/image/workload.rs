//! What a guest runs by itself, by role and profile.

use std::collections::BTreeMap;

use mvm_model::image::{Profile, Restart, Role, Workload};

/// Where the gateway's program is in the image.
pub(super) const GATEWAY_PROGRAM: &str = "usr/libexec/mvm/gateway";

/// What a gateway of one profile is.
struct Gateway {
    source: &'static str,
    port: u16,
    user: Option<&'static str>,
}

/// A page that names the gateway.
const PAGE: Gateway =
    Gateway { source: include_str!("base/gateway.sh"), port: 8080, user: Some("65534:65534") };
/// Its script starts as root and drops it (checked by a test); see there.
const OPENCLAW: Gateway = Gateway {
    source: include_str!("../../../../images/guest/profiles/openclaw/gateway.sh"),
    port: 18789,
    user: None,
};

fn gateway(profile: Profile) -> Gateway {
    match profile {
        Profile::Minimal | Profile::Hello | Profile::Node => PAGE,
        Profile::OpenClaw => OPENCLAW,
    }
}

/// The source of [`GATEWAY_PROGRAM`].
pub(super) fn gateway_source(profile: Profile) -> &'static str {
    gateway(profile).source
}

/// The workload of `role`. Workers wait for what they are told to do.
pub(super) fn workload(profile: Profile, role: &Role) -> Option<Workload> {
    let Gateway { port, user, .. } = gateway(profile);
    match role {
        Role::Gateway => Some(Workload {
            argv: vec![format!("/{GATEWAY_PROGRAM}")],
            env: BTreeMap::new(),
            user: user.map(Into::into),
            ports: vec![port],
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
        let gateway = workload(Profile::Minimal, &Role::Gateway).unwrap();
        assert_eq!((gateway.ports.as_slice(), gateway.restart), (&[8080][..], Restart::Always));
        for role in [Role::Worker, Role::Builder, Role::Capability("pg16".into())] {
            assert_eq!(workload(Profile::Minimal, &role), None);
            assert_eq!(workload(Profile::OpenClaw, &role), None);
        }
    }

    #[test]
    fn openclaw_listens_where_its_script_says_and_not_as_root() {
        let gateway = workload(Profile::OpenClaw, &Role::Gateway).unwrap();
        let source = gateway_source(Profile::OpenClaw);
        assert!(source.contains(&format!("\nport={}\n", gateway.ports[0])));
        let last = source.lines().rev().take(2).collect::<String>();
        assert!(last.contains("exec su -s /bin/sh user") && last.contains("--nnp"), "{last}");
    }
}
