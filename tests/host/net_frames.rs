//! Ethernet frames, honest and forged, byte by byte.

use std::net::Ipv4Addr;

use mvm_model::Mac;

pub const BROADCAST: Mac = Mac([0xff; 6]);

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;

/// A frame without checksum trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

/// What an IPv4 packet carries.
#[derive(Debug, Clone)]
pub enum Ip {
    Udp {
        from: u16,
        to: u16,
        data: Vec<u8>,
    },
    TcpSyn {
        from: u16,
        to: u16,
    },
    Ping {
        id: u16,
    },
    /// A later fragment: no transport header to look at.
    Fragment {
        offset: u16,
    },
}

impl Frame {
    pub fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.0[12], self.0[13]])
    }

    /// Source, destination and protocol, if it is IPv4.
    pub fn ipv4(&self) -> Option<(Ipv4Addr, Ipv4Addr, u8)> {
        let ip = self.0.get(14..34).filter(|_| self.ethertype() == IPV4)?;
        Some((address(&ip[12..16]), address(&ip[16..20]), ip[9]))
    }

    /// The UDP ports and data, if it is UDP.
    pub fn udp(&self) -> Option<(u16, u16, &[u8])> {
        let (_, _, 17) = self.ipv4()? else { return None };
        let udp = self.0.get(34..)?;
        let port = |at| u16::from_be_bytes([udp[at], udp[at + 1]]);
        Some((port(0), port(2), udp.get(8..usize::from(port(4)))?))
    }

    /// TCP ports and flags.
    pub fn tcp(&self) -> Option<(u16, u16, u8)> {
        let (_, _, 6) = self.ipv4()? else { return None };
        let tcp = self.0.get(34..54)?;
        let port = |at| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        Some((port(0), port(2), tcp[13]))
    }

    /// Who asks, if this is an ARP request for an address.
    pub fn arp_request_for(&self, wanted: Ipv4Addr) -> Option<(Mac, Ipv4Addr)> {
        let arp = self.0.get(14..42).filter(|_| self.ethertype() == ARP)?;
        if arp[6..8] != [0, 1] || address(&arp[24..28]) != wanted {
            return None;
        }
        Some((Mac(arp[8..14].try_into().unwrap()), address(&arp[14..18])))
    }

    /// The MAC an ARP reply gives for an address.
    pub fn arp_reply_of(&self, wanted: Ipv4Addr) -> Option<Mac> {
        let arp = self.0.get(14..42).filter(|_| self.ethertype() == ARP)?;
        (arp[6..8] == [0, 2] && address(&arp[14..18]) == wanted)
            .then(|| Mac(arp[8..14].try_into().unwrap()))
    }

    /// The same frame with tags in front of its type: `(0x8100, vlan)` or `(0x88a8, vlan)`.
    pub fn tagged(&self, tags: &[(u16, u16)]) -> Self {
        let tags = tags.iter().flat_map(|(kind, vlan)| [kind.to_be_bytes(), vlan.to_be_bytes()]);
        let mut bytes = self.0[..12].to_vec();
        bytes.extend(tags.flatten());
        bytes.extend_from_slice(&self.0[12..]);
        Self(bytes)
    }
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap())
}

pub fn ethernet(from: Mac, to: Mac, ethertype: u16, payload: &[u8]) -> Frame {
    let mut bytes = [to.0, from.0].concat();
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().max(60), 0);
    Frame(bytes)
}

fn arp(kind: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(kind.to_be_bytes());
    for (mac, ip) in [sender, target] {
        bytes.extend(mac.0);
        bytes.extend(ip.octets());
    }
    bytes
}

/// "Who has `wanted`?" claimed to come from `mac` at `ip`.
pub fn arp_request(mac: Mac, ip: Ipv4Addr, wanted: Ipv4Addr) -> Frame {
    ethernet(mac, BROADCAST, ARP, &arp(1, (mac, ip), (Mac([0; 6]), wanted)))
}

pub fn arp_reply(mac: Mac, ip: Ipv4Addr, to: Mac, to_ip: Ipv4Addr) -> Frame {
    ethernet(mac, to, ARP, &arp(2, (mac, ip), (to, to_ip)))
}

/// An ARP request whose Ethernet source and claimed sender differ.
pub fn arp_with_other_sender(mac: Mac, sender: Mac, ip: Ipv4Addr, wanted: Ipv4Addr) -> Frame {
    ethernet(mac, BROADCAST, ARP, &arp(1, (sender, ip), (Mac([0; 6]), wanted)))
}

pub fn ipv4(from: Mac, to: Mac, source: Ipv4Addr, target: Ipv4Addr, payload: Ip) -> Frame {
    let (protocol, fragment) = match &payload {
        Ip::Udp { .. } => (17, 0),
        Ip::TcpSyn { .. } => (6, 0),
        Ip::Ping { .. } => (1, 0),
        Ip::Fragment { offset } => (17, 0x2000 | offset),
    };
    let body = transport(source, target, payload);
    let mut ip = vec![0x45, 0];
    ip.extend((20 + body.len() as u16).to_be_bytes());
    ip.extend([0x12, 0x34]);
    ip.extend(u16::to_be_bytes(fragment));
    ip.extend([64, protocol, 0, 0]);
    ip.extend(source.octets());
    ip.extend(target.octets());
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    ip.extend(body);
    ethernet(from, to, IPV4, &ip)
}

fn transport(source: Ipv4Addr, target: Ipv4Addr, payload: Ip) -> Vec<u8> {
    match payload {
        Ip::Udp { from, to, data } => {
            let mut udp = [from.to_be_bytes(), to.to_be_bytes()].concat();
            udp.extend((8 + data.len() as u16).to_be_bytes());
            udp.extend([0, 0]);
            udp.extend(data);
            sealed(udp, 6, pseudo(source, target, 17))
        }
        Ip::TcpSyn { from, to } => {
            let mut tcp = [from.to_be_bytes(), to.to_be_bytes()].concat();
            tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
            sealed(tcp, 16, pseudo(source, target, 6))
        }
        Ip::Ping { id } => {
            let mut icmp = vec![8, 0, 0, 0];
            icmp.extend(id.to_be_bytes());
            icmp.extend([0, 1]);
            sealed(icmp, 2, Vec::new())
        }
        Ip::Fragment { .. } => vec![0x5a; 32],
    }
}

fn pseudo(source: Ipv4Addr, target: Ipv4Addr, protocol: u8) -> Vec<u8> {
    let mut bytes = [source.octets(), target.octets()].concat();
    bytes.extend([0, protocol]);
    bytes
}

/// Writes the checksum over `segment`, after a pseudo header where there is one.
fn sealed(mut segment: Vec<u8>, at: usize, mut pseudo: Vec<u8>) -> Vec<u8> {
    if !pseudo.is_empty() {
        pseudo.extend((segment.len() as u16).to_be_bytes());
    }
    pseudo.extend_from_slice(&segment);
    let sum = checksum(&pseudo).to_be_bytes();
    segment[at..at + 2].copy_from_slice(&sum);
    segment
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv6 router advertisement to all nodes.
pub fn router_advertisement(from: Mac) -> Frame {
    let mut packet = vec![0x60, 0, 0, 0, 0, 16, 58, 255];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([134, 0, 0x12, 0x34, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    ethernet(from, Mac([0x33, 0x33, 0, 0, 0, 1]), IPV6, &packet)
}
