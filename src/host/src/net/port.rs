//! An instance's tap.
//!
//! ```text
//!  absent ─create─► down, no master, alias, persistent ─chain─► guarded ─listed─► enslaved ─► up
//! ```
//! Every step looks at what is there first, so a call after a crash continues where the other
//! stopped. A tap found enslaved or up without its chain is taken down before it gets one.

use mvm_model::network::MTU;
use mvm_model::{NetId, Offset, Subnet};

use super::alias::{Owned, Owner};
use super::error::{Holder, NetError};
use super::link::{Kind, Link};
use super::rules::{self, Family, Listing, PortRules};
use super::{Isolation, Net, Port, conntrack, lock, sysctl, tap};

impl Net {
    /// Makes an instance's tap, its anti-spoof chain and its place in the bridge so.
    ///
    /// # Errors
    /// [`NetError::Taken`] when an interface of that name is somebody else's,
    /// [`NetError::NoBridge`] before [`Net::ensure_tenant`], otherwise what was refused. After an
    /// error the tap is not up with wrong rules.
    pub async fn ensure_port(&self, port: &Port) -> Result<(), NetError> {
        let rules = PortRules::of(port)?;
        let _lock = lock::take(&self.dir).await?;
        let bridge = self.own_bridge(port.net_id).await?;
        let link = self.ensure_tap(port).await?;
        self.ensure_guard(&link, &rules).await?;
        self.ensure_attached(&link.name, &bridge, port.isolation).await
    }

    /// Removes an instance's tap, its chain and what the connection tracker remembers of its
    /// address. What is not there, or not ours, is left alone.
    ///
    /// # Errors
    /// What the kernel or `nft` refused; calling again continues.
    pub async fn remove_port(
        &self,
        net_id: NetId,
        subnet: Subnet,
        offset: Offset,
    ) -> Result<(), NetError> {
        let _lock = lock::take(&self.dir).await?;
        self.remove_tap(&net_id.tap(offset)).await?;
        self.forget_mark(&net_id.tap(offset));
        conntrack::forget(subnet.address(offset)?).await;
        Ok(())
    }

    /// Removes all taps of a net id, known or not.
    pub(super) async fn remove_ports_of(
        &self,
        net_id: NetId,
        subnet: Subnet,
    ) -> Result<(), NetError> {
        let links = self.links.all().await?;
        let ports: Vec<(&Link, Offset)> = links
            .iter()
            .filter_map(|link| match self.owner(link) {
                Owner::Us(Owned::Port(net, offset)) if net == net_id => Some((link, offset)),
                _ => None,
            })
            .collect();
        let taps: Vec<&Link> = ports.iter().map(|(link, _)| *link).collect();
        self.remove_taps(&taps).await?;
        for address in ports.iter().filter_map(|(_, offset)| subnet.address(*offset).ok()) {
            conntrack::forget(address).await;
        }
        Ok(())
    }

    /// The tap as it should be, except for chain and bridge.
    pub(super) async fn ensure_tap(&self, port: &Port) -> Result<Link, NetError> {
        let name = port.tap();
        if let Some(link) = self.links.get(&name).await? {
            self.refuse_foreign(&link)?;
            if link.kind == (Kind::Tap { owner: port.owner_uid }) {
                return Ok(link);
            }
            // Another owner: nobody can change that while somebody is attached.
            self.remove_tap(&name).await?;
        }
        self.create_tap(port, &name).await
    }

    async fn create_tap(&self, port: &Port, name: &str) -> Result<Link, NetError> {
        let file = tap::create(name)?;
        let link = self.seen(name).await?;
        let alias = self.alias(Owned::Port(port.net_id, port.offset));
        self.links.dress(&link, &alias, None).await?;
        sysctl::close_ipv6(name)?;
        tap::keep(&file, name, port.owner_uid)?;
        self.seen(name).await
    }

    /// The tap's chain, listed back. A tap that lacked it is out of the bridge meanwhile.
    pub(super) async fn ensure_guard(
        &self,
        link: &Link,
        rules: &PortRules,
    ) -> Result<(), NetError> {
        if self.guard_difference(rules).await?.is_none() {
            return Ok(());
        }
        if link.up || link.controller.is_some() {
            self.links.detach(link).await?;
        }
        let chain = rules.chain();
        let mut commands = vec![rules::add_table(Family::Netdev)];
        // A chain left from an earlier tap of that name may have lost its device: made anew.
        commands.extend(rules::removal(Family::Netdev, &chain.name));
        commands.extend(chain.commands());
        self.nft.apply(&format!("guard tap {}", link.name), commands).await?;
        match self.guard_difference(rules).await? {
            None => Ok(()),
            Some(problem) => Err(NetError::NotAsWritten { object: link.name.clone(), problem }),
        }
    }

    /// How the chain in the kernel differs from what a port should have.
    pub(super) async fn guard_difference(
        &self,
        rules: &PortRules,
    ) -> Result<Option<String>, NetError> {
        let chain = rules.chain();
        let listing = self.nft.list(&["chain", "netdev", rules::TABLE, &chain.name]).await?;
        Ok(match listing {
            None => Some(format!("chain {} is missing", chain.name)),
            Some(objects) => chain.difference(&Listing::of(objects)),
        })
    }

    pub(super) async fn ensure_attached(
        &self,
        name: &str,
        bridge: &Link,
        isolation: Isolation,
    ) -> Result<(), NetError> {
        let link = self.seen(name).await?;
        if link.mtu != MTU {
            let alias = link.alias.clone().unwrap_or_default();
            self.links.dress(&link, &alias, None).await?;
        }
        if link.controller != Some(bridge.index) {
            self.links.enslave(&link, bridge).await?;
        }
        let isolated = isolation == Isolation::Isolated;
        if link.isolated != isolated {
            self.links.isolate(&link, isolated).await?;
        }
        if !link.up {
            self.links.set_up(&link).await?;
        }
        self.check_attached(name, bridge).await
    }

    async fn check_attached(&self, name: &str, bridge: &Link) -> Result<(), NetError> {
        let link = self.seen(name).await?;
        if link.up && link.controller == Some(bridge.index) {
            return Ok(());
        }
        let problem = format!("not up in {}", bridge.name);
        Err(NetError::NotAsWritten { object: name.to_owned(), problem })
    }

    async fn seen(&self, name: &str) -> Result<Link, NetError> {
        self.links.get(name).await?.ok_or_else(|| NetError::NotAsWritten {
            object: name.to_owned(),
            problem: "it vanished".to_owned(),
        })
    }

    fn refuse_foreign(&self, link: &Link) -> Result<(), NetError> {
        match self.owner(link) {
            Owner::Us(_) => Ok(()),
            Owner::Other | Owner::Nobody => Err(NetError::Taken {
                wanted: link.name.clone(),
                holder: Holder::Interface { name: link.name.clone(), alias: link.alias.clone() },
            }),
        }
    }

    pub(super) async fn remove_tap(&self, name: &str) -> Result<(), NetError> {
        match self.links.get(name).await? {
            Some(link) if matches!(self.owner(&link), Owner::Us(_)) => {
                self.remove_taps(&[&link]).await
            }
            Some(_) => Ok(()),
            None => self.remove_guards(&[name]).await,
        }
    }

    /// Down and out of the bridge first, then the chains, then the taps: at no moment can one
    /// send without its rules.
    async fn remove_taps(&self, taps: &[&Link]) -> Result<(), NetError> {
        for tap in taps {
            self.links.detach(tap).await?;
        }
        let names: Vec<&str> = taps.iter().map(|tap| tap.name.as_str()).collect();
        self.remove_guards(&names).await?;
        for tap in taps {
            self.links.delete(tap).await?;
        }
        Ok(())
    }

    async fn remove_guards(&self, taps: &[&str]) -> Result<(), NetError> {
        let chains = self.nft.list(&["chains", "netdev"]).await?.unwrap_or_default();
        let there: Vec<&str> = chains
            .iter()
            .filter(|object| object["chain"]["table"] == rules::TABLE)
            .filter_map(|object| object["chain"]["name"].as_str())
            .filter(|name| taps.contains(name))
            .collect();
        if there.is_empty() {
            return Ok(());
        }
        let removal = there.iter().flat_map(|name| rules::removal(Family::Netdev, name)).collect();
        self.nft.apply("remove guards of taps", removal).await
    }
}
