//! Our interfaces as they are, for who looks for those that nothing needs any more, and taking
//! away one that no record leads to.

use mvm_model::network::BRIDGE_PREFIX;
use mvm_model::record::TenantNetwork;
use mvm_model::{NetId, Offset, Subnet, TenantName};

use super::Net;
use super::alias::{Owned, Owner};
use super::error::NetError;
use super::lock;

/// An interface with our alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnLink {
    /// A tap.
    Tap {
        /// Its name.
        name: String,
        /// The net id its alias names.
        net_id: NetId,
        /// The offset its alias names.
        offset: Offset,
        /// Whether a process has it open.
        attached: bool,
    },
    /// A bridge.
    Bridge {
        /// Its name.
        name: String,
        /// The net id in its name.
        net_id: NetId,
        /// The tenant its alias names.
        tenant: TenantName,
        /// Whether a process has one of its ports open.
        attached: bool,
    },
}

impl Net {
    /// Our bridges and taps, with whether somebody is attached.
    ///
    /// # Errors
    /// [`NetError::Netlink`] when the kernel cannot be asked.
    pub async fn own_links(&self) -> Result<Vec<OwnLink>, NetError> {
        let links = self.links.all().await?;
        let own = links.iter().filter_map(|link| {
            let name = link.name.clone();
            match self.owner(link) {
                Owner::Us(Owned::Port(net_id, offset)) => {
                    Some(OwnLink::Tap { name, net_id, offset, attached: link.carrier })
                }
                Owner::Us(Owned::Tenant(tenant)) => {
                    let net_id = name.strip_prefix(BRIDGE_PREFIX)?.parse().ok()?;
                    let mut ports = links.iter().filter(|port| port.controller == Some(link.index));
                    let attached = ports.any(|port| port.carrier);
                    Some(OwnLink::Bridge { name, net_id, tenant, attached })
                }
                Owner::Other | Owner::Nobody => None,
            }
        });
        Ok(own.collect())
    }

    /// Takes a tap away that no instance has, unless a process has it open.
    ///
    /// # Errors
    /// What the kernel or `nft` refused; calling again continues.
    pub async fn remove_own_tap(&self, net_id: NetId, offset: Offset) -> Result<bool, NetError> {
        let _lock = lock::take(&self.dir).await?;
        let name = net_id.tap(offset);
        if self.links.get(&name).await?.is_none_or(|link| link.carrier) {
            return Ok(false);
        }
        self.remove_tap(&name).await.map(|()| true)
    }

    /// Takes a bridge away that no tenant has, with its ports and rules.
    ///
    /// # Errors
    /// What the kernel or `nft` refused; calling again continues.
    pub async fn remove_own_bridge(&self, net_id: NetId) -> Result<(), NetError> {
        let ipv4_subnet = self.subnet_of(net_id).await?;
        self.remove_tenant(&TenantNetwork { tenant_net_id: net_id, ipv4_subnet }).await
    }

    /// The subnet a bridge has an address in; its record is gone.
    async fn subnet_of(&self, net_id: NetId) -> Result<Subnet, NetError> {
        let bridge = self.links.get(&net_id.bridge()).await?;
        let addresses = self.links.addresses().await?;
        let here = |link: super::link::Link| {
            let address = addresses.iter().find(|(index, _)| *index == link.index)?.1;
            address.trunc().to_string().parse().ok()
        };
        Ok(bridge.and_then(here).unwrap_or_else(|| net_id.default_subnet()))
    }
}
