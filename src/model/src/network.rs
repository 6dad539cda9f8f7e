//! Addressing rules: from a tenant's net id, subnet and an instance's offset follow the names of
//! bridge and tap, the MAC and the address. Nothing is stored that can be derived.
//!
//! `.1` is the tenant's gateway address on the host's bridge, `.2` belongs to the tenant's
//! gateway instance for life, all other instances start at `.3`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The MTU of every bridge, tap and guest interface: leaves room for a VXLAN header (50 bytes),
/// so that a tenant can span hosts later without changing its guests.
pub const MTU: u32 = 1450;

/// Where tenant subnets are allocated from when none is asked for.
pub const CLUSTER_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 240, 0, 0), 12);

/// Prefix of every tenant bridge; the firewall rules match on it.
pub const BRIDGE_PREFIX: &str = "br-tenant-";

/// Why a network value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    /// Outside 0–4095.
    #[error("net id {0:?} is not a number from 0 to 4095")]
    NetId(String),
    /// Not CIDR notation, or host bits set.
    #[error("subnet {0:?} is not a network in CIDR notation, like 10.240.7.0/24")]
    Subnet(String),
    /// Prefix too long or too short.
    #[error("subnet {0} has a prefix outside /16 to /28")]
    Prefix(Ipv4Net),
    /// Not within RFC 1918.
    #[error("subnet {0} is not private (10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16)")]
    Public(Ipv4Net),
    /// Not an address of the subnet an instance may have.
    #[error("offset {offset} is outside {subnet} (2 to {max})")]
    Offset {
        /// What was asked for.
        offset: u16,
        /// The subnet it should be in.
        subnet: Subnet,
        /// The last usable offset.
        max: u16,
    },
}

/// A tenant network's number, 0–4095, its for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct NetId(u16);

impl NetId {
    /// The largest net id.
    pub const MAX: u16 = 4095;

    /// A net id from a number.
    ///
    /// # Errors
    /// [`BadNetwork::NetId`] above 4095.
    pub fn new(id: u16) -> Result<Self, BadNetwork> {
        if id <= Self::MAX { Ok(Self(id)) } else { Err(BadNetwork::NetId(id.to_string())) }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The tenant's bridge: `br-tenant-<net id>`.
    pub fn bridge(self) -> String {
        format!("{BRIDGE_PREFIX}{}", self.0)
    }

    /// The bridge's MAC, so that guests keep their ARP entry of `.1` across host restarts.
    pub fn bridge_mac(self) -> Mac {
        Mac::new(self, Offset(1))
    }

    /// The tap of an instance: `tn<net id>i<offset>`, its for life.
    pub fn tap(self, offset: Offset) -> String {
        format!("tn{}i{}", self.0, offset.0)
    }

    /// The subnet a tenant gets when it asks for none: the /24 numbered by the net id.
    pub fn default_subnet(self) -> Subnet {
        let base = u32::from(CLUSTER_CIDR.network()) + (u32::from(self.0) << 8);
        Subnet(Ipv4Net::new_assert(Ipv4Addr::from(base), 24))
    }
}

impl TryFrom<u16> for NetId {
    type Error = BadNetwork;
    fn try_from(id: u16) -> Result<Self, BadNetwork> {
        Self::new(id)
    }
}

impl From<NetId> for u16 {
    fn from(id: NetId) -> u16 {
        id.0
    }
}

impl FromStr for NetId {
    type Err = BadNetwork;
    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork::NetId(text.chars().take(40).collect());
        text.parse::<u16>().map_err(|_| bad()).and_then(|id| Self::new(id).map_err(|_| bad()))
    }
}

impl fmt::Display for NetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An instance's position in its tenant's subnet: the host part of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u16);

impl Offset {
    /// The tenant's gateway instance.
    pub const GATEWAY_INSTANCE: Self = Self(2);
    /// The first offset of all other instances.
    pub const FIRST: Self = Self(3);
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A tenant's IPv4 subnet: private, /16 to /28.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(Ipv4Net);

impl Subnet {
    /// The network as CIDR.
    pub fn net(self) -> Ipv4Net {
        self.0
    }

    /// Prefix length, 16 to 28.
    pub fn prefix_len(self) -> u8 {
        self.0.prefix_len()
    }

    /// The host's address on the bridge, `.1`: the guests' router and resolver.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.network()) + 1)
    }

    /// The last offset an instance may have (the broadcast address is above it).
    pub fn max_offset(self) -> Offset {
        Offset(((1u32 << (32 - self.prefix_len())) - 2) as u16)
    }

    /// The address of an instance.
    ///
    /// # Errors
    /// [`BadNetwork::Offset`] when the offset is reserved or outside.
    pub fn address(self, offset: Offset) -> Result<Ipv4Addr, BadNetwork> {
        let max = self.max_offset();
        if offset < Offset::GATEWAY_INSTANCE || offset > max {
            return Err(BadNetwork::Offset { offset: offset.0, subnet: self, max: max.0 });
        }
        Ok(Ipv4Addr::from(u32::from(self.0.network()) + u32::from(offset.0)))
    }

    /// Whether two subnets share an address.
    pub fn overlaps(self, other: Ipv4Net) -> bool {
        self.0.contains(&other.network()) || other.contains(&self.0.network())
    }
}

impl FromStr for Subnet {
    type Err = BadNetwork;
    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork::Subnet(text.chars().take(60).collect());
        let net: Ipv4Net = text.parse().map_err(|_| bad())?;
        if net.trunc() != net {
            return Err(bad());
        }
        if !(16..=28).contains(&net.prefix_len()) {
            return Err(BadNetwork::Prefix(net));
        }
        if !(net.network().is_private() && net.broadcast().is_private()) {
            return Err(BadNetwork::Public(net));
        }
        Ok(Self(net))
    }
}

impl TryFrom<String> for Subnet {
    type Error = BadNetwork;
    fn try_from(text: String) -> Result<Self, BadNetwork> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

/// A MAC address: locally administered, `02:6d:<net id>:<offset>`; `6d` is "m" for mvm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The MAC of an instance's interface.
    pub fn new(net: NetId, offset: Offset) -> Self {
        let [n1, n2] = net.0.to_be_bytes();
        let [o1, o2] = offset.0.to_be_bytes();
        Self([0x02, 0x6d, n1, n2, o1, o2])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parts: Vec<u8> =
            text.split(':').map_while(|part| u8::from_str_radix(part, 16).ok()).collect();
        <[u8; 6]>::try_from(parts).map(Self).map_err(|_| format!("{text:?} is not a MAC address"))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_documents_example_has_the_documented_names() {
        let net: NetId = "99".parse().unwrap();
        let subnet: Subnet = "10.240.99.0/24".parse().unwrap();
        assert_eq!(net.bridge(), "br-tenant-99");
        assert_eq!(net.tap(Offset(3)), "tn99i3");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 240, 99, 1));
        assert_eq!(subnet.address(Offset(3)).unwrap(), Ipv4Addr::new(10, 240, 99, 3));
        assert_eq!(Mac::new(net, Offset(3)).to_string(), "02:6d:00:63:00:03");
        assert_eq!(net.default_subnet(), subnet);
    }

    #[test]
    fn subnets_that_cannot_work_are_refused() {
        for bad in [
            "",
            "10.240.1.1/24",
            "10.0.0.0/8",
            "10.0.0.0/29",
            "8.8.8.0/24",
            "10.1/16",
            "fd00::/64",
            "172.16.0.0/11",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn net_ids_end_at_4095() {
        assert!("4095".parse::<NetId>().is_ok());
        for bad in ["4096", "-1", "", "1.5", "99999999999"] {
            assert!(bad.parse::<NetId>().is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn names_fit_the_kernel_and_addresses_stay_inside(id in 0u16..=4095, prefix in 16u8..=28, offset: u16) {
            let net = NetId::new(id).unwrap();
            prop_assert!(net.bridge().len() <= 15 && net.tap(Offset(offset)).len() <= 15);
            let subnet: Subnet = Ipv4Net::new(Ipv4Addr::new(10, 240, 0, 0), prefix).unwrap().trunc().to_string().parse().unwrap();
            match subnet.address(Offset(offset)) {
                Ok(address) => {
                    prop_assert!(subnet.net().contains(&address));
                    prop_assert_ne!(address, subnet.gateway());
                    prop_assert_ne!(address, subnet.net().broadcast());
                }
                Err(_) => prop_assert!(offset < 2 || offset > subnet.max_offset().0),
            }
        }

        #[test]
        fn macs_are_unique_local_unicast(a in 0u16..=4095, b in 0u16..=4095, x: u16, y: u16) {
            let (left, right) = (Mac::new(NetId::new(a).unwrap(), Offset(x)), Mac::new(NetId::new(b).unwrap(), Offset(y)));
            prop_assert_eq!(left == right, (a, x) == (b, y));
            prop_assert_eq!(left.0[0] & 0b11, 0b10);
            prop_assert_eq!(Mac::try_from(left.to_string()).unwrap(), left);
        }

        #[test]
        fn default_subnets_never_overlap(a in 0u16..=4095, b in 0u16..=4095) {
            let (left, right) = (NetId::new(a).unwrap().default_subnet(), NetId::new(b).unwrap().default_subnet());
            prop_assert!(CLUSTER_CIDR.contains(&left.net()));
            prop_assert_eq!(left.overlaps(right.net()), a == b);
        }
    }
}
