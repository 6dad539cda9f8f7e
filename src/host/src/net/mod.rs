//! The host's side of tenant networks: bridges, taps, firewall, forwarding and the resolver.
//!
//! Called by `mvm-agent` (and by `mvm net verify`, `mvm dns serve`). Callers say what should be;
//! every `ensure_*` makes it so, may be called again at any time, after a `kill -9` anywhere, and
//! changes nothing that is right. Everything happens in the network namespace of the thread that
//! called [`Net::open`], and only to interfaces whose alias carries this node's id.
//!
//! ```text
//!  guest ── tap tn<n>i<o> ─┬─ bridge br-tenant-<n> (.1/prefix, MTU 1450) ── forward ── uplink
//!           netdev ingress │       inet input: DNS only      inet forward, masquerade
//!           anti-spoof     └─ other guests of the tenant: plain bridging
//! ```
//!
//! A port's life: tap created down, without master → its anti-spoof chain in one transaction →
//! listed back → enslaved → up. Removal runs backwards. Nothing is ever up without its rules.
//!
//! ```text
//! let net = Net::open("node-1", Path::new("/run/mvm")).await?;
//! net.ensure_tenant(&TenantNet { tenant, network, egress: Egress::Internet }).await?;
//! net.ensure_port(&Port { net_id, subnet, offset, owner_uid: None, isolation: Isolation::Shared }).await?;
//! let fd = open_tap(&net_id.tap(offset))?;      // pass to QEMU: -netdev tap,fd=N,vhost=off
//! …
//! net.verify(&Expected { tenants, ports }).await?;   // all at once: cheaper than ensuring each
//! …
//! net.remove_port(net_id, subnet, offset).await?;
//! net.remove_tenant(&network).await?;           // takes its remaining ports with it
//! ```
//! The guests' resolver is in [`dns`]; [`document`] gives the rules for loading elsewhere.

mod alias;
mod conflict;
mod conntrack;
pub mod dns;
mod error;
mod forwarding;
mod link;
mod lock;
mod mark;
mod nft;
mod own;
mod port;
mod probe;
mod rules;
mod sysctl;
mod tap;
mod tenant;
mod verify;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use mvm_model::network::BadNetwork;
use mvm_model::record::{Egress, TenantNetwork};
use mvm_model::{Mac, NetId, Offset, Subnet, TenantName};
use serde::Serialize;

pub use error::{Holder, NetError};
pub use mark::Generation;
pub use own::OwnLink;
pub use probe::Spot;
pub use rules::{FlowLimits, TABLE, document};
pub use tap::open_tap;
pub use verify::{Expected, Finding, Report, Severity};

use alias::{Owned, Owner};
use link::Links;
use nft::Nft;

/// What a tenant's network should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantNet {
    /// Whose it is.
    pub tenant: TenantName,
    /// Its net id and subnet, its for life.
    pub network: TenantNetwork,
    /// What its guests may reach outside.
    pub egress: Egress,
}

/// Whether a port may talk to the other ports of its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// With all of them.
    #[default]
    Shared,
    /// With none that is isolated too.
    Isolated,
}

/// What an instance's port should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The tenant's net id.
    pub net_id: NetId,
    /// The tenant's subnet.
    pub subnet: Subnet,
    /// The instance's position in it.
    pub offset: Offset,
    /// The only user who may attach to the tap by name; `None` when it is opened by root and
    /// passed on as a descriptor.
    pub owner_uid: Option<u32>,
    /// Apart from its neighbours or not.
    pub isolation: Isolation,
}

impl Port {
    /// The tap's name.
    pub fn tap(&self) -> String {
        self.net_id.tap(self.offset)
    }

    /// The guest's MAC, the only one its tap accepts.
    pub fn mac(&self) -> Mac {
        Mac::new(self.net_id, self.offset)
    }

    /// The guest's address, the only one its tap accepts.
    ///
    /// # Errors
    /// [`BadNetwork::Offset`] when the offset is outside the subnet.
    pub fn address(&self) -> Result<Ipv4Addr, BadNetwork> {
        self.subnet.address(self.offset)
    }
}

/// One of our interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Interface {
    /// A tenant's bridge.
    Bridge {
        /// Its name.
        name: String,
        /// The tenant its alias names.
        tenant: TenantName,
    },
    /// An instance's tap.
    Tap {
        /// Its name.
        name: String,
        /// The tenant's net id.
        net_id: NetId,
        /// The instance's offset.
        offset: Offset,
    },
}

/// The network of one host, in one network namespace.
#[derive(Clone)]
pub struct Net {
    node_id: String,
    dir: PathBuf,
    links: Links,
    nft: Nft,
    limits: FlowLimits,
}

impl Net {
    /// Opens the network namespace of the calling thread. Notes that `remove_*` needs (what was
    /// forwarding before us) are kept in `<run_dir>/net`.
    ///
    /// # Errors
    /// [`NetError::Open`] when there is no netlink.
    pub async fn open(node_id: &str, run_dir: &Path) -> Result<Self, NetError> {
        Ok(Self {
            node_id: node_id.to_owned(),
            dir: run_dir.join("net"),
            links: Links::open()?,
            nft: Nft::find(),
            limits: FlowLimits::default(),
        })
    }

    /// The same host with other limits for what one guest may take of the connection tracker.
    #[must_use]
    pub fn with_limits(self, limits: FlowLimits) -> Self {
        Self { limits, ..self }
    }

    /// Our bridges and taps that exist now.
    ///
    /// # Errors
    /// [`NetError::Netlink`] when the kernel cannot be asked.
    pub async fn list(&self) -> Result<Vec<Interface>, NetError> {
        let links = self.links.all().await?;
        Ok(links.into_iter().filter_map(|link| self.interface(link)).collect())
    }

    fn interface(&self, link: link::Link) -> Option<Interface> {
        let name = link.name.clone();
        match self.owner(&link) {
            Owner::Us(Owned::Tenant(tenant)) => Some(Interface::Bridge { name, tenant }),
            Owner::Us(Owned::Port(net_id, offset)) => Some(Interface::Tap { name, net_id, offset }),
            Owner::Other | Owner::Nobody => None,
        }
    }

    fn owner(&self, link: &link::Link) -> Owner {
        alias::owner(&self.node_id, link.alias.as_deref())
    }

    fn alias(&self, owned: Owned) -> String {
        alias::Alias { node_id: &self.node_id, owned }.to_string()
    }
}
