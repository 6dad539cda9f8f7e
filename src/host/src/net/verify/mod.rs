//! Is the host's network what it should be? Looks only, changes nothing.
//!
//! Called by `mvm net verify`, `doctor` and the reconcile loop, which repairs what `ensure_*` and
//! `remove_*` can and reports the rest. Three questions: does every expected bridge, tap and rule
//! exist as we would write it; is there anything of ours, or on our bridges, that nobody expects;
//! does somebody else's setting break ours.

mod foreign;

use ipnet::Ipv4Net;
use mvm_model::network::MTU;
use serde::Serialize;

use super::alias::{Owned, Owner};
use super::error::NetError;
use super::link::{Kind, Link};
use super::rules::{self, Listing, PortRules};
use super::tenant::gateway;
use super::{Isolation, Net, Port, TenantNet, forwarding, sysctl};

const ENSURE: &str = "start an instance of the tenant: that writes its network again";
const REMOVE: &str = "remove it with `ip link del`, unless another mvm on this host made it";

/// What the caller thinks should exist.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// All tenants of this node.
    pub tenants: Vec<TenantNet>,
    /// All instances' ports that should be there now.
    pub ports: Vec<Port>,
}

/// What [`Net::verify`] saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many tenants were looked at.
    pub tenants: usize,
    /// How many ports were looked at.
    pub ports: usize,
    /// How many tenants were tried out from within their networks.
    pub probed: usize,
    /// What is wrong; empty when all is well.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is wrong that breaks a tenant.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Warning)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The interface, chain or setting.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
    /// How bad it is.
    pub severity: Severity,
}

impl Finding {
    /// Whether making the tenant's network again repairs it.
    pub fn is_repairable(&self) -> bool {
        self.remedy == ENSURE
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Works, but may not stay so or is untidy.
    Warning,
    /// A tenant's isolation or connection is broken.
    Error,
}

/// Everything that is looked at, read once.
struct Seen {
    links: Vec<Link>,
    addresses: Vec<(u32, Ipv4Net)>,
    inet: Listing,
    netdev: Listing,
}

impl Net {
    /// Compares the kernel with what is expected.
    ///
    /// # Errors
    /// When kernel or `nft` cannot be asked; what they say wrong is a finding, not an error.
    pub async fn verify(&self, expected: &Expected) -> Result<Report, NetError> {
        let mut report = self.verify_ours(expected).await?;
        report.findings.extend(foreign::check(&self.nft, &expected.tenants).await?);
        Ok(report)
    }

    /// The same without looking for settings of others that break ours: one netlink dump and one
    /// listing of our rules, for who looks again and again.
    ///
    /// # Errors
    /// When kernel or `nft` cannot be asked.
    pub async fn verify_ours(&self, expected: &Expected) -> Result<Report, NetError> {
        let netdev = ["table", "netdev", rules::TABLE];
        let (links, addresses, inet, netdev) = tokio::try_join!(
            self.links.all(),
            self.links.addresses(),
            self.inet_listing(),
            self.nft.list(&netdev),
        )?;
        let netdev = Listing::of(netdev.unwrap_or_default());
        let seen = Seen { links, addresses, inet: inet.unwrap_or_default(), netdev };
        let mut findings = Vec::new();
        for tenant in &expected.tenants {
            findings.extend(self.check_tenant(&seen, tenant));
        }
        for port in &expected.ports {
            findings.extend(self.check_port(&seen, port));
        }
        findings.extend(self.check_unexpected(&seen, expected));
        findings.extend(self.check_uplinks(&expected.tenants).await?);
        let (tenants, ports) = (expected.tenants.len(), expected.ports.len());
        Ok(Report { tenants, ports, probed: 0, findings })
    }

    fn check_tenant(&self, seen: &Seen, tenant: &TenantNet) -> Vec<Finding> {
        let name = tenant.network.tenant_net_id.bridge();
        let Some(bridge) = seen.links.iter().find(|link| link.name == name) else {
            return vec![error(&name, "does not exist", ENSURE)];
        };
        let alias = self.alias(Owned::Tenant(tenant.tenant.clone()));
        let mac = tenant.network.tenant_net_id.bridge_mac();
        let address = gateway(&tenant.network);
        let addresses: Vec<Ipv4Net> =
            seen.addresses.iter().filter(|(i, _)| *i == bridge.index).map(|(_, a)| *a).collect();
        let mut problems = vec![
            (bridge.kind != Kind::Bridge).then(|| "is not a bridge".to_owned()),
            (bridge.alias.as_ref() != Some(&alias)).then(|| format!("has no alias {alias:?}")),
            (bridge.mac != Some(mac)).then(|| format!("has not the MAC {mac}")),
            (bridge.mtu != MTU).then(|| format!("has MTU {}, not {MTU}", bridge.mtu)),
            (!bridge.up).then(|| "is down".to_owned()),
            (addresses != [address]).then(|| format!("has addresses {addresses:?}, not {address}")),
            rules::tenant_difference(tenant, self.limits, &seen.inet),
        ];
        problems.extend(setting_problems(&name, tenant));
        problems.into_iter().flatten().map(|problem| error(&name, problem, ENSURE)).collect()
    }

    fn check_port(&self, seen: &Seen, port: &Port) -> Vec<Finding> {
        let name = port.tap();
        let Some(tap) = seen.links.iter().find(|link| link.name == name) else {
            return vec![error(&name, "does not exist", ENSURE)];
        };
        let bridge = seen.links.iter().find(|link| link.name == port.net_id.bridge());
        let alias = self.alias(Owned::Port(port.net_id, port.offset));
        let guard = match PortRules::of(port) {
            Ok(rules) => rules.chain().difference(&seen.netdev),
            Err(error) => Some(error.to_string()),
        };
        let problems = [
            (tap.kind != Kind::Tap { owner: port.owner_uid })
                .then(|| "is no tap, or another user's".to_owned()),
            (tap.alias.as_ref() != Some(&alias)).then(|| format!("has no alias {alias:?}")),
            (tap.mtu != MTU).then(|| format!("has MTU {}, not {MTU}", tap.mtu)),
            (!tap.up).then(|| "is down".to_owned()),
            (tap.controller.is_none() || tap.controller != bridge.map(|link| link.index))
                .then(|| format!("is not in {}", port.net_id.bridge())),
            (tap.isolated != (port.isolation == Isolation::Isolated))
                .then(|| "is isolated from its neighbours, or should be".to_owned()),
            guard,
        ];
        problems.into_iter().flatten().map(|problem| error(&name, problem, ENSURE)).collect()
    }

    /// Answers come back by forwarding uplinks; where the whole host forwards, unguarded ones.
    async fn check_uplinks(&self, tenants: &[TenantNet]) -> Result<Vec<Finding>, NetError> {
        let mut findings = Vec::new();
        for name in self.silent_uplinks(tenants).await? {
            findings.push(error(&name, "does not forward the answers to tenants", ENSURE));
        }
        if forwarding::host_forwards() {
            let problem = "is guarded as if only tenants used it, but this host forwards for all";
            findings.extend(self.noted().await?.iter().map(|name| error(name, problem, ENSURE)));
        }
        Ok(findings)
    }

    /// Interfaces with our alias nobody expects, strangers in our bridges, chains without tenant.
    fn check_unexpected(&self, seen: &Seen, expected: &Expected) -> Vec<Finding> {
        let bridges: Vec<String> =
            expected.tenants.iter().map(|t| t.network.tenant_net_id.bridge()).collect();
        let taps: Vec<String> = expected.ports.iter().map(Port::tap).collect();
        let known = |name: &String| bridges.contains(name) || taps.contains(name);
        let mut findings = Vec::new();
        for link in seen.links.iter().filter(|link| !known(&link.name)) {
            let master = seen.links.iter().find(|other| Some(other.index) == link.controller);
            if matches!(self.owner(link), Owner::Us(_)) {
                findings.push(warning(&link.name, "belongs to no tenant", REMOVE));
            } else if let Some(master) = master.filter(|master| bridges.contains(&master.name)) {
                let problem = format!("is in {} without being a tenant's", master.name);
                let remedy = format!("ip link set {} nomaster", link.name);
                findings.push(error(&link.name, problem, remedy));
            }
        }
        findings.extend(leftover_guards(seen));
        findings
    }
}

fn setting_problems(bridge: &str, tenant: &TenantNet) -> Vec<Option<String>> {
    let wrong = |path: std::path::PathBuf, wanted: &str| {
        let there = sysctl::read(&path)?;
        (there != wanted).then(|| format!("{} is {there}, not {wanted}", path.display()))
    };
    let mut problems: Vec<Option<String>> = sysctl::BRIDGE_SETTINGS
        .iter()
        .map(|(key, wanted)| wrong(sysctl::ipv4(bridge, key), wanted))
        .collect();
    problems.push(wrong(sysctl::ipv6(bridge, "disable_ipv6"), "1"));
    // A host that forwards everywhere turns it on for closed tenants too: the rules hold anyway.
    if forwarding::needed(&tenant.egress) {
        problems.push(wrong(sysctl::ipv4(bridge, "forwarding"), "1"));
    }
    problems
}

/// Guards whose tap is gone: newer kernels keep them.
fn leftover_guards(seen: &Seen) -> impl Iterator<Item = Finding> {
    let there = |name: &str| seen.links.iter().any(|link| link.name == name);
    seen.netdev
        .chain_names()
        .filter(move |name| !there(name))
        .map(|name| warning(name, "is a guard without a tap", REMOVE))
}

pub(super) fn error(
    object: &str,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    finding(object, problem, remedy, Severity::Error)
}

fn warning(object: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Finding {
    finding(object, problem, remedy, Severity::Warning)
}

fn finding(
    object: &str,
    problem: impl Into<String>,
    remedy: impl Into<String>,
    severity: Severity,
) -> Finding {
    Finding { object: object.to_owned(), problem: problem.into(), remedy: remedy.into(), severity }
}
