//! What a guest runs by itself, by role and profile.

use std::collections::BTreeMap;

use mvm_model::image::{Health, Profile, Restart, Role, Workload};

/// A program of ours that an image runs.
#[derive(Clone, Copy)]
pub(super) struct Program {
    /// Where it is in the image.
    pub(super) path: &'static str,
    /// Its text.
    pub(super) source: &'static str,
    port: u16,
    user: Option<&'static str>,
    /// What is asked for to see whether it is well.
    health: Option<&'static str>,
}

/// A page that names the gateway.
const PAGE: Program = Program {
    path: "usr/libexec/mvm/gateway",
    source: include_str!("base/gateway.sh"),
    port: 8080,
    user: Some("65534:65534"),
    health: None,
};
/// A page that says hello.
const HELLO: Program = Program {
    path: "usr/libexec/mvm/hello",
    source: include_str!("../../../../images/guest/profiles/hello/hello.sh"),
    port: 8080,
    user: Some("1000:1000"),
    health: Some("/health"),
};
/// Its script starts as root and drops it (checked by a test); see there.
const OPENCLAW: Program = Program {
    path: "usr/libexec/mvm/gateway",
    source: include_str!("../../../../images/guest/profiles/openclaw/gateway.sh"),
    port: 18789,
    user: None,
    health: None,
};

/// What an image of `profile` runs in `role`. Elsewhere workers wait for what they are told to do.
pub(super) fn program(profile: Profile, role: &Role) -> Option<Program> {
    match (profile, role) {
        (Profile::Hello, Role::Gateway | Role::Worker | Role::Capability(_)) => Some(HELLO),
        (Profile::OpenClaw, Role::Gateway) => Some(OPENCLAW),
        (Profile::Minimal | Profile::Node, Role::Gateway) => Some(PAGE),
        (_, Role::Builder | Role::Worker | Role::Capability(_)) => None,
    }
}

/// The workload of `role`.
pub(super) fn workload(profile: Profile, role: &Role) -> Option<Workload> {
    let Program { path, port, user, health, .. } = program(profile, role)?;
    Some(Workload {
        argv: vec![format!("/{path}")],
        env: BTreeMap::new(),
        user: user.map(Into::into),
        ports: vec![port],
        health: health.map(|path| Health { port, path: path.into() }),
        restart: Restart::Always,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_worker_serves_where_its_script_says() {
        let worker = workload(Profile::Hello, &Role::Worker).unwrap();
        assert!(HELLO.source.contains(&format!("\nport={}\n", worker.ports[0])));
        let health = worker.health.unwrap();
        assert!(HELLO.source.contains(&format!("\"$root{}\"", health.path)));
        assert_eq!(workload(Profile::Hello, &Role::Builder), None);
    }

    #[test]
    fn elsewhere_only_a_gateway_serves_by_itself() {
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
        let source = OPENCLAW.source;
        assert!(source.contains(&format!("\nport={}\n", gateway.ports[0])));
        let last = source.lines().rev().take(2).collect::<String>();
        assert!(last.contains("exec su -s /bin/sh user") && last.contains("--nnp"), "{last}");
    }
}
