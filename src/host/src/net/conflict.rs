//! Who already has a bridge name or a subnet.
//!
//! Asked before a net id is allocated (skip those taken), before a tenant is created with an
//! explicit one (refuse, naming the holder) and again before a bridge is made.

use ipnet::Ipv4Net;
use mvm_model::record::TenantNetwork;
use mvm_model::{NetId, Subnet, TenantName};

use super::Net;
use super::alias::{Owned, Owner};
use super::error::{Holder, NetError};
use super::link::{Kind, Link, Route};

/// Routes this short stand for "everything" (`0.0.0.0/0`, or a VPN's two halves), not for a
/// network somebody uses.
const CATCH_ALL_PREFIX: u8 = 7;

/// What is asked for.
struct Wanted<'a> {
    bridge: String,
    subnet: Subnet,
    tenant: Option<&'a TenantName>,
}

impl Net {
    /// Who would be in the way of a tenant with this net id and subnet; `None`: nobody. A bridge
    /// of ours with that net id counts as a holder too.
    ///
    /// # Errors
    /// [`NetError::Netlink`] when the kernel cannot be asked.
    pub async fn find_conflict(
        &self,
        net_id: NetId,
        subnet: Subnet,
    ) -> Result<Option<Holder>, NetError> {
        self.holder(&Wanted { bridge: net_id.bridge(), subnet, tenant: None }).await
    }

    /// As [`Net::find_conflict`], but the tenant's own bridge is no conflict.
    pub(super) async fn refuse_conflict(
        &self,
        tenant: &TenantName,
        network: &TenantNetwork,
    ) -> Result<(), NetError> {
        let bridge = network.tenant_net_id.bridge();
        let subnet = network.ipv4_subnet;
        let wanted = Wanted { bridge: bridge.clone(), subnet, tenant: Some(tenant) };
        match self.holder(&wanted).await? {
            None => Ok(()),
            Some(holder) => {
                let wanted = match &holder {
                    Holder::Interface { .. } => bridge,
                    _ => format!("subnet {subnet}"),
                };
                Err(NetError::Taken { wanted, holder })
            }
        }
    }

    async fn holder(&self, wanted: &Wanted<'_>) -> Result<Option<Holder>, NetError> {
        let links = self.links.all().await?;
        let named = links.iter().find(|link| link.name == wanted.bridge);
        if let Some(link) = named.filter(|link| !self.may_adopt(link, wanted)) {
            let (name, alias) = (link.name.clone(), link.alias.clone());
            return Ok(Some(Holder::Interface { name, alias }));
        }
        let others: Vec<&Link> = links.iter().filter(|link| link.name != wanted.bridge).collect();
        let addresses = self.links.addresses().await?;
        let routes = self.links.routes().await?;
        let own = named.map(|link| link.index);
        Ok(address_holder(wanted.subnet, &others, &addresses)
            .or_else(|| route_holder(wanted.subnet, own, &others, &routes)))
    }

    fn may_adopt(&self, link: &Link, wanted: &Wanted<'_>) -> bool {
        match (self.owner(link), wanted.tenant) {
            (Owner::Us(Owned::Tenant(tenant)), Some(expected)) => tenant == *expected,
            (Owner::Nobody, Some(_)) => half_made(link),
            _ => false,
        }
    }
}

/// A bridge of ours from before it got its alias: we died in between. Name and MAC are set
/// together, and only we give bridges this MAC.
pub(super) fn half_made(link: &Link) -> bool {
    let id = link.name.strip_prefix(mvm_model::network::BRIDGE_PREFIX);
    let mac = id.and_then(|id| id.parse::<NetId>().ok()).map(NetId::bridge_mac);
    link.kind == Kind::Bridge && !link.up && link.mac == mac
}

fn address_holder(
    subnet: Subnet,
    others: &[&Link],
    addresses: &[(u32, Ipv4Net)],
) -> Option<Holder> {
    addresses.iter().filter(|(_, address)| subnet.overlaps(*address)).find_map(
        |(index, address)| {
            let interface = others.iter().find(|link| link.index == *index)?.name.clone();
            Some(Holder::Address { interface, address: *address })
        },
    )
}

fn route_holder(
    subnet: Subnet,
    own: Option<u32>,
    others: &[&Link],
    routes: &[Route],
) -> Option<Holder> {
    let in_the_way = |route: &&Route| {
        route.destination.prefix_len() > CATCH_ALL_PREFIX
            && subnet.overlaps(route.destination)
            && (route.interface.is_none() || route.interface != own)
    };
    let route = routes.iter().find(in_the_way)?;
    let link = others.iter().find(|link| Some(link.index) == route.interface);
    Some(Holder::Route {
        interface: link.map(|link| link.name.clone()),
        destination: route.destination,
    })
}
