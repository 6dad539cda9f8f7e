//! Forwarding between tenants' bridges and the uplinks, per interface.
//!
//! A bridge forwards when its tenant has egress. Answers come back by an uplink, which must
//! forward too. Where it did not, we turn it on, note it, and drop by rule whatever it would then
//! forward for others (set `routed`). With the last tenant that has egress it is turned off again.
//!
//! The note is kept twice: in the set, which other mvm's in this namespace share, and in
//! `<run_dir>/net/forwarding.json`, which survives somebody's `nft flush ruleset`. When the whole
//! host forwards (`ip_forward`, say by Docker), the guard would harm others: then both are given up.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use mvm_model::NetId;
use mvm_model::failpoint::{self, Effect};
use mvm_model::network::BRIDGE_PREFIX;
use mvm_model::record::Egress;

use super::error::NetError;
use super::link::Route;
use super::rules::{self, Uplinks};
use super::{Net, TenantNet, alias, sysctl};

/// Whether a tenant's packets leave the host at all.
pub(super) fn needed(egress: &Egress) -> bool {
    match egress {
        Egress::None => false,
        Egress::Internet => true,
        Egress::List(nets) => !nets.is_empty(),
    }
}

impl Net {
    /// Turns forwarding on for the uplinks a tenant needs.
    pub(super) async fn ensure_uplinks(&self, tenant: &TenantNet) -> Result<(), NetError> {
        if !needed(&tenant.egress) {
            return self.release_uplinks(tenant.network.tenant_net_id).await;
        }
        let noted = self.noted().await?;
        if host_forwards() {
            return self.give_up(noted).await;
        }
        let silent = self.uplinks(&tenant.egress).await?.into_iter().filter(|name| !forwards(name));
        let wanted: Uplinks = noted.iter().cloned().chain(silent).collect();
        // Note and guard come first: forwarding is never on without them.
        self.note(&wanted)?;
        self.guard(&wanted).await?;
        wanted.iter().try_for_each(|name| sysctl::ensure(&forwarding(name), "1"))
    }

    /// Turns forwarding off where we turned it on, unless a bridge other than this net id's
    /// still needs it.
    pub(super) async fn release_uplinks(&self, except: NetId) -> Result<(), NetError> {
        let links = self.links.all().await?;
        let mut bridges = links.iter().filter(|link| {
            link.name.starts_with(BRIDGE_PREFIX) && alias::is_any_mvm(link.alias.as_deref())
        });
        if bridges.any(|link| link.name != except.bridge() && forwards(&link.name)) {
            return Ok(());
        }
        let noted = self.noted().await?;
        if host_forwards() {
            return self.give_up(noted).await;
        }
        noted.iter().try_for_each(|name| sysctl::ensure(&forwarding(name), "0"))?;
        self.give_up(noted).await
    }

    /// Uplinks that tenants need and that do not forward.
    pub(super) async fn silent_uplinks(&self, tenants: &[TenantNet]) -> Result<Uplinks, NetError> {
        let mut silent = Uplinks::new();
        for tenant in tenants.iter().filter(|tenant| needed(&tenant.egress)) {
            let uplinks = self.uplinks(&tenant.egress).await?;
            silent.extend(uplinks.into_iter().filter(|name| !forwards(name)));
        }
        Ok(silent)
    }

    async fn give_up(&self, noted: Uplinks) -> Result<(), NetError> {
        if noted.is_empty() {
            return Ok(());
        }
        self.guard(&Uplinks::new()).await?;
        self.note(&Uplinks::new())
    }

    /// Makes the set of guarded uplinks so.
    async fn guard(&self, wanted: &Uplinks) -> Result<(), NetError> {
        let Some(listing) = self.inet_listing().await? else { return Ok(()) };
        let there = rules::guarded_uplinks(&listing);
        let missing = wanted.difference(&there).cloned().collect();
        let extra = there.difference(wanted).cloned().collect();
        let commands = rules::uplink_commands(&missing, &extra);
        if commands.is_empty() {
            return Ok(());
        }
        self.nft.apply("guard the uplinks", commands).await
    }

    /// Where we turned forwarding on.
    pub(super) async fn noted(&self) -> Result<Uplinks, NetError> {
        let mut noted = self.read_note()?;
        if let Some(listing) = self.inet_listing().await? {
            noted.extend(rules::guarded_uplinks(&listing));
        }
        Ok(noted)
    }

    fn note_path(&self) -> PathBuf {
        self.dir.join("forwarding.json")
    }

    fn read_note(&self) -> Result<Uplinks, NetError> {
        let path = self.note_path();
        match std::fs::read(&path) {
            // A torn note cannot happen (rename); one we cannot read is not worth failing for.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Uplinks::new()),
            Err(source) => Err(NetError::State { doing: "read", path, source }),
        }
    }

    fn note(&self, uplinks: &Uplinks) -> Result<(), NetError> {
        if self.read_note()? == *uplinks {
            return Ok(());
        }
        let path = self.note_path();
        let temporary = path.with_extension("new");
        let write = || -> io::Result<()> {
            failpoint::before(Effect::WriteFile)?;
            std::fs::write(&temporary, serde_json::to_vec(uplinks)?)?;
            std::fs::rename(&temporary, &path)?;
            failpoint::after(Effect::RenameFile)
        };
        write().map_err(|source| NetError::State { doing: "write", path: path.clone(), source })
    }

    /// The interfaces packets of such a tenant leave by.
    async fn uplinks(&self, egress: &Egress) -> Result<Uplinks, NetError> {
        let routes = self.links.routes().await?;
        let indexes: BTreeSet<u32> = uplink_indexes(&routes, egress);
        let links = self.links.all().await?;
        Ok(links
            .into_iter()
            .filter(|link| indexes.contains(&link.index) && !link.name.starts_with(BRIDGE_PREFIX))
            .map(|link| link.name)
            .collect())
    }
}

/// Default routes for the internet; for a list also the routes that touch it.
fn uplink_indexes(routes: &[Route], egress: &Egress) -> BTreeSet<u32> {
    let listed: &[Ipv4Net] = match egress {
        Egress::List(nets) => nets,
        Egress::None | Egress::Internet => &[],
    };
    let touches = |route: &&Route| {
        let to = route.destination;
        to.prefix_len() <= 1
            || listed.iter().any(|net| net.contains(&to.addr()) || to.contains(&net.addr()))
    };
    routes.iter().filter(touches).filter_map(|route| route.interface).collect()
}

fn forwarding(interface: &str) -> PathBuf {
    sysctl::ipv4(interface, "forwarding")
}

fn forwards(interface: &str) -> bool {
    sysctl::read(&forwarding(interface)).as_deref() == Some("1")
}

/// Somebody made the whole host a router.
pub(super) fn host_forwards() -> bool {
    forwards("all")
}
