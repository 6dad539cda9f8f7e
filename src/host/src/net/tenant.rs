//! A tenant's bridge and rules.
//!
//! Order: shared rules → bridge (down) → its alias → settings → address → the tenant's rules,
//! listed back → forwarding → up. A bridge is never up without rules; without its own entry the
//! base chains close it.

use ipnet::Ipv4Net;
use mvm_model::NetId;
use mvm_model::network::MTU;
use mvm_model::record::{Egress, TenantNetwork};

use super::alias::{Owned, Owner};
use super::conflict::half_made;
use super::error::{Holder, NetError};
use super::link::{Kind, Link};
use super::rules::Listing;
use super::{Net, TenantNet, forwarding, lock, rules, sysctl};

impl Net {
    /// Makes a tenant's bridge, address, rules and forwarding so.
    ///
    /// # Errors
    /// [`NetError::Taken`] when the bridge's name or the subnet is somebody else's (nothing was
    /// changed), otherwise what the kernel or `nft` refused.
    pub async fn ensure_tenant(&self, tenant: &TenantNet) -> Result<(), NetError> {
        let _lock = lock::take(&self.dir).await?;
        self.refuse_conflict(&tenant.tenant, &tenant.network).await?;
        self.ensure_tenant_rules(tenant).await?;
        let bridge = self.ensure_bridge(tenant).await?;
        sysctl::harden_bridge(&bridge.name)?;
        self.ensure_address(&bridge, tenant).await?;
        sysctl::ensure(&sysctl::ipv4(&bridge.name, "forwarding"), forwards(&tenant.egress))?;
        self.ensure_uplinks(tenant).await?;
        if !bridge.up {
            self.links.set_up(&bridge).await?;
        }
        Ok(())
    }

    /// Removes a tenant's bridge, its remaining taps and its rules, and undoes forwarding with
    /// the last tenant that needed it. What is not there, or not ours, is left alone.
    ///
    /// # Errors
    /// What the kernel or `nft` refused; calling again continues.
    pub async fn remove_tenant(&self, network: &TenantNetwork) -> Result<(), NetError> {
        let _lock = lock::take(&self.dir).await?;
        let net_id = network.tenant_net_id;
        self.remove_ports_of(net_id, network.ipv4_subnet).await?;
        if let Some(bridge) = self.links.get(&net_id.bridge()).await? {
            if !matches!(self.owner(&bridge), Owner::Us(_)) && !half_made(&bridge) {
                return Ok(());
            }
            self.links.detach(&bridge).await?;
            self.links.delete(&bridge).await?;
        }
        self.remove_tenant_rules(network).await?;
        self.release_uplinks(net_id).await?;
        self.remove_unused_tables().await
    }

    pub(super) async fn ensure_tenant_rules(&self, tenant: &TenantNet) -> Result<(), NetError> {
        let listing = self.inet_listing().await?.unwrap_or_default();
        if rules::tenant_difference(tenant, self.limits, &listing).is_none() {
            return Ok(());
        }
        let doing = format!("install the rules of tenant {}", tenant.tenant);
        self.nft.apply(&doing, rules::tenant_commands(tenant, self.limits, &listing)).await?;
        match self.tenant_rules_difference(tenant).await? {
            None => Ok(()),
            Some(problem) => Err(NetError::NotAsWritten {
                object: format!("the firewall of tenant {}", tenant.tenant),
                problem,
            }),
        }
    }

    /// How the rules in the kernel differ from what a tenant should have.
    pub(super) async fn tenant_rules_difference(
        &self,
        tenant: &TenantNet,
    ) -> Result<Option<String>, NetError> {
        let Some(listing) = self.inet_listing().await? else {
            return Ok(Some("table inet mvm is missing".to_owned()));
        };
        Ok(rules::tenant_difference(tenant, self.limits, &listing))
    }

    pub(super) async fn inet_listing(&self) -> Result<Option<Listing>, NetError> {
        let listing = self.nft.list(&["table", "inet", rules::TABLE]).await?;
        Ok(listing.map(Listing::of))
    }

    pub(super) async fn ensure_bridge(&self, tenant: &TenantNet) -> Result<Link, NetError> {
        let (name, mac) =
            (tenant.network.tenant_net_id.bridge(), tenant.network.tenant_net_id.bridge_mac());
        let alias = self.alias(Owned::Tenant(tenant.tenant.clone()));
        if self.links.get(&name).await?.is_none() {
            self.links.add_bridge(&name, mac).await?;
        }
        let bridge =
            self.links.get(&name).await?.ok_or_else(|| NetError::NoBridge(name.clone()))?;
        if bridge.kind != Kind::Bridge {
            let holder = Holder::Interface { name: name.clone(), alias: bridge.alias };
            return Err(NetError::Taken { wanted: name, holder });
        }
        let right =
            bridge.alias.as_deref() == Some(&alias) && bridge.mac == Some(mac) && bridge.mtu == MTU;
        if !right {
            self.links.dress(&bridge, &alias, Some(mac)).await?;
        }
        Ok(bridge)
    }

    async fn ensure_address(&self, bridge: &Link, tenant: &TenantNet) -> Result<(), NetError> {
        let address = gateway(&tenant.network);
        let all = self.links.addresses().await?;
        let on_bridge = all.iter().filter(|(index, _)| *index == bridge.index).map(|(_, a)| *a);
        for stray in on_bridge.filter(|there| *there != address) {
            self.links.remove_address(bridge, stray).await?;
        }
        if all.contains(&(bridge.index, address)) {
            return Ok(());
        }
        self.links.add_address(bridge, address).await
    }

    async fn remove_tenant_rules(&self, network: &TenantNetwork) -> Result<(), NetError> {
        let Some(listing) = self.inet_listing().await? else { return Ok(()) };
        let doing = format!("remove the rules of net {}", network.tenant_net_id);
        self.nft.apply(&doing, rules::tenant_removal(network, &listing)).await
    }

    /// With the last tenant our tables go too, unless another mvm in this namespace uses them.
    async fn remove_unused_tables(&self) -> Result<(), NetError> {
        let Some(listing) = self.inet_listing().await? else { return Ok(()) };
        let links = self.links.all().await?;
        let in_use = links.iter().any(|link| super::alias::is_any_mvm(link.alias.as_deref()));
        if in_use || listing.has_tenants() {
            return Ok(());
        }
        self.nft.apply("remove our tables", rules::table_removal()).await
    }

    /// Whether a net id's bridge is there and ours.
    pub(super) async fn own_bridge(&self, net_id: NetId) -> Result<Link, NetError> {
        let name = net_id.bridge();
        match self.links.get(&name).await? {
            Some(link) if matches!(self.owner(&link), Owner::Us(_)) => Ok(link),
            Some(link) => Err(NetError::Taken {
                wanted: name.clone(),
                holder: Holder::Interface { name, alias: link.alias },
            }),
            None => Err(NetError::NoBridge(name)),
        }
    }
}

/// The host's address on a tenant's bridge.
pub(super) fn gateway(network: &TenantNetwork) -> Ipv4Net {
    let subnet = network.ipv4_subnet;
    Ipv4Net::new(subnet.gateway(), subnet.prefix_len()).unwrap_or_default()
}

/// Whether packets from a tenant's bridge are forwarded at all.
pub(super) fn forwards(egress: &Egress) -> &'static str {
    if forwarding::needed(egress) { "1" } else { "0" }
}
