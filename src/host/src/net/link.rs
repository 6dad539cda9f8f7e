//! The only file that speaks netlink: interfaces, addresses and routes as plain values.
//!
//! `rtnetlink` changes often; everything it knows stays behind [`Links`].

use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::{TryStream, TryStreamExt};
use ipnet::Ipv4Net;
use mvm_model::Mac;
use mvm_model::failpoint::{self, Effect};
use mvm_model::network::MTU;
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoTun, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkGetRequest, LinkUnspec,
    RouteMessageBuilder,
};

use super::error::NetError;

const DEADLINE: Duration = Duration::from_secs(10);
/// Pause before a listing is asked for again.
const AGAIN: Duration = Duration::from_millis(2);
const ENODEV: i32 = libc::ENODEV;

/// An interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub kind: Kind,
    pub up: bool,
    pub mtu: u32,
    pub mac: Option<Mac>,
    /// The bridge it is a port of.
    pub controller: Option<u32>,
    /// Kept apart from other isolated ports of its bridge.
    pub isolated: bool,
    /// Somebody is at the other end: a tap that a process has open.
    pub carrier: bool,
}

/// The kinds of interfaces that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Bridge,
    /// With the user who may attach, when limited to one.
    Tap {
        owner: Option<u32>,
    },
    Other,
}

/// An IPv4 route by an interface or a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub destination: Ipv4Net,
    pub interface: Option<u32>,
    pub gateway: Option<Ipv4Addr>,
    pub table: u32,
}

/// A handle on the links of one network namespace.
#[derive(Clone)]
pub(super) struct Links(rtnetlink::Handle);

impl Links {
    /// Opens a socket in the current network namespace; its task ends with the last clone.
    pub(super) fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::Open)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Without counters, which are most of an answer.
    fn question(&self) -> LinkGetRequest {
        let mask = vec![LinkExtentMask::SkipStats];
        self.0.link().get().set_filter_mask(AddressFamily::Unspec, mask)
    }

    pub(super) async fn get(&self, name: &str) -> Result<Option<Link>, NetError> {
        let request = self.question().match_name(name.to_string());
        let mut stream = Box::pin(request.execute());
        match deadline("look at", name, stream.try_next()).await {
            Ok(message) => Ok(message.map(Link::from)),
            Err(error) if raw_code(&error) == Some(-ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn all(&self) -> Result<Vec<Link>, NetError> {
        let all: Vec<LinkMessage> = dump("interfaces", || self.question().execute()).await?;
        Ok(all.into_iter().map(Link::from).collect())
    }

    /// Creates a bridge, down and without alias. The MAC marks it as ours from its first moment.
    pub(super) async fn add_bridge(&self, name: &str, mac: Mac) -> Result<(), NetError> {
        // `new` means up; a bridge comes up when it has its alias and its rules. Its MTU is given
        // with the alias: only a *change* of it lasts, one it begins with goes with the last port.
        let bridge = LinkBridge::new(name)
            .down()
            .address(mac.0.to_vec())
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            // Flooding within a tenant is allowed; a snooping bridge would keep state for guests.
            .mcast_snooping(false)
            .build();
        apply("create bridge", name, self.0.link().add(bridge).execute()).await
    }

    /// Sets alias, MAC and MTU together.
    pub(super) async fn dress(
        &self,
        link: &Link,
        alias: &str,
        mac: Option<Mac>,
    ) -> Result<(), NetError> {
        let mut change = LinkUnspec::new_with_index(link.index).alias(alias).mtu(MTU);
        if let Some(mac) = mac {
            change = change.address(mac.0.to_vec());
        }
        apply("mark", &link.name, self.0.link().set(change.build()).execute()).await
    }

    pub(super) async fn set_up(&self, link: &Link) -> Result<(), NetError> {
        let change = LinkUnspec::new_with_index(link.index).up().build();
        apply("start", &link.name, self.0.link().set(change).execute()).await
    }

    /// Down and out of its bridge.
    pub(super) async fn detach(&self, link: &Link) -> Result<(), NetError> {
        let change = LinkUnspec::new_with_index(link.index).down().nocontroller().build();
        apply("detach", &link.name, self.0.link().set(change).execute()).await
    }

    pub(super) async fn enslave(&self, link: &Link, bridge: &Link) -> Result<(), NetError> {
        let change = LinkUnspec::new_with_index(link.index).controller(bridge.index).build();
        apply("attach", &link.name, self.0.link().set(change).execute()).await
    }

    pub(super) async fn isolate(&self, link: &Link, isolated: bool) -> Result<(), NetError> {
        let change = LinkBridgePort::new(link.index).isolated(isolated).build();
        apply("isolate", &link.name, self.0.link().set_port(change).execute()).await
    }

    /// Deletes a link; one that is already gone is fine.
    pub(super) async fn delete(&self, link: &Link) -> Result<(), NetError> {
        match apply("delete", &link.name, self.0.link().del(link.index).execute()).await {
            Err(error) if raw_code(&error) == Some(-ENODEV) => Ok(()),
            other => other,
        }
    }

    /// All IPv4 addresses with the index of their interface.
    pub(super) async fn addresses(&self) -> Result<Vec<(u32, Ipv4Net)>, NetError> {
        let all: Vec<_> = dump("addresses", || self.0.address().get().execute()).await?;
        Ok(all
            .into_iter()
            .filter_map(|message| {
                let address = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(std::net::IpAddr::V4(ip)) => Some(*ip),
                    _ => None,
                })?;
                let net = Ipv4Net::new(address, message.header.prefix_len).ok()?;
                Some((message.header.index, net))
            })
            .collect())
    }

    /// Adds an address; one that is already there is fine.
    pub(super) async fn add_address(&self, link: &Link, address: Ipv4Net) -> Result<(), NetError> {
        let (ip, prefix) = (address.addr().into(), address.prefix_len());
        let request = self.0.address().add(link.index, ip, prefix).execute();
        match apply("give an address to", &link.name, request).await {
            Err(error) if raw_code(&error) == Some(-libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Takes an address away; one that is already gone is fine.
    pub(super) async fn remove_address(
        &self,
        link: &Link,
        address: Ipv4Net,
    ) -> Result<(), NetError> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(link.index)
            .address(address.addr(), address.prefix_len())
            .build();
        let request = self.0.address().del(message).execute();
        match apply("take an address from", &link.name, request).await {
            Err(error) if raw_code(&error) == Some(-libc::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// All IPv4 unicast routes, of every table but `local`.
    pub(super) async fn routes(&self) -> Result<Vec<Route>, NetError> {
        let question = || RouteMessageBuilder::<Ipv4Addr>::default().build();
        let all: Vec<_> = dump("routes", || self.0.route().get(question()).execute()).await?;
        Ok(all.iter().filter_map(route).collect())
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    const LOCAL_TABLE: u32 = 255;
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut found = Route {
        destination: Ipv4Net::default(),
        interface: None,
        gateway: None,
        table: message.header.table.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => {
                found.destination =
                    Ipv4Net::new(*ip, message.header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Oif(index) => found.interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => found.gateway = Some(*ip),
            RouteAttribute::Table(table) => found.table = *table,
            RouteAttribute::MultiPath(hops) => {
                found.interface = hops.first().map(|hop| hop.interface_index);
            }
            _ => {}
        }
    }
    (found.table != LOCAL_TABLE).then_some(found)
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: None,
            kind: Kind::Other,
            up: message.header.flags.contains(LinkFlags::Up),
            mtu: 0,
            mac: None,
            controller: None,
            isolated: false,
            carrier: false,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Carrier(carrier) => link.carrier = carrier != 0,
                LinkAttribute::Address(mac) => link.mac = <[u8; 6]>::try_from(mac).ok().map(Mac),
                LinkAttribute::LinkInfo(infos) => link.read_infos(infos),
                _ => {}
            }
        }
        link
    }
}

impl Link {
    fn read_infos(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(InfoKind::Bridge) => self.kind = Kind::Bridge,
                LinkInfo::Kind(InfoKind::Tun) => self.kind = Kind::Tap { owner: None },
                LinkInfo::Data(InfoData::Tun(details)) => {
                    self.kind = Kind::Tap { owner: details.iter().find_map(tap_owner) };
                }
                LinkInfo::PortData(InfoPortData::BridgePort(details)) => {
                    self.isolated = details.contains(&InfoBridgePort::Isolated(true));
                }
                _ => {}
            }
        }
    }
}

fn tap_owner(info: &InfoTun) -> Option<u32> {
    const IFLA_TUN_OWNER: u16 = 1;
    if info.kind() != IFLA_TUN_OWNER || info.value_len() != 4 {
        return None;
    }
    let mut value = [0; 4];
    info.emit_value(&mut value);
    Some(u32::from_ne_bytes(value))
}

/// Something that changes the kernel's network.
async fn apply(
    doing: &'static str,
    object: &str,
    call: impl Future<Output = Result<(), rtnetlink::Error>>,
) -> Result<(), NetError> {
    failpoint::before(Effect::ChangeLink)?;
    deadline(doing, object, call).await?;
    Ok(failpoint::after(Effect::ChangeLink)?)
}

async fn deadline<T>(
    doing: &'static str,
    object: &str,
    call: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetError> {
    let object = object.to_owned();
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(outcome) => outcome.map_err(|source| NetError::Netlink { doing, object, source }),
        Err(_) => Err(NetError::Silent { doing, object }),
    }
}

/// Lists everything of a kind. The kernel says EBUSY while the listing before on this socket has
/// not quite ended: then, and only then, it is asked again.
async fn dump<T, S>(object: &str, ask: impl Fn() -> S) -> Result<Vec<T>, NetError>
where
    S: TryStream<Ok = T, Error = rtnetlink::Error>,
{
    let give_up = tokio::time::Instant::now() + DEADLINE;
    loop {
        match deadline("list", object, ask().try_collect()).await {
            Err(error)
                if raw_code(&error) == Some(-libc::EBUSY)
                    && tokio::time::Instant::now() < give_up =>
            {
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}

/// The kernel's error number, negative, when the kernel refused.
fn raw_code(error: &NetError) -> Option<i32> {
    match error {
        NetError::Netlink { source: rtnetlink::Error::NetlinkError(message), .. } => {
            Some(message.raw_code())
        }
        _ => None,
    }
}
