//! The few frames a live probe sends and understands.

use std::net::Ipv4Addr;

use mvm_model::Mac;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const ICMP: u8 = 1;
const UDP: u8 = 17;
/// Ethernet's shortest frame without its checksum.
const SHORTEST: usize = 60;

/// One end of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) mac: Mac,
    pub(super) address: Ipv4Addr,
}

fn ethernet(from: Mac, to: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend_from_slice(payload);
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// "Who has `wanted`?"
pub(super) fn arp_request(from: End, wanted: Ipv4Addr) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(from.mac.0);
    arp.extend(from.address.octets());
    arp.extend([0; 6]);
    arp.extend(wanted.octets());
    ethernet(from.mac, Mac([0xff; 6]), ARP, &arp)
}

/// Who an ARP reply says has `wanted`.
pub(super) fn arp_reply(frame: &[u8], wanted: Ipv4Addr) -> Option<Mac> {
    let arp = frame.get(14..42).filter(|_| kind(frame) == Some(ARP))?;
    let reply = arp[6..8] == [0, 2] && arp[14..18] == wanted.octets();
    reply.then(|| arp[8..14].try_into().ok().map(Mac)).flatten()
}

/// An echo request.
pub(super) fn ping(from: End, by: Mac, to: Ipv4Addr) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x6d, 0x76, 0, 1];
    icmp.extend_from_slice(b"mvm net verify");
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(from, by, to, ICMP, &icmp)
}

/// A datagram; its checksum is left out, which IPv4 allows.
pub(super) fn udp(from: End, by: Mac, to: Ipv4Addr, port: u16, data: &[u8]) -> Vec<u8> {
    let mut udp = SOURCE_PORT.to_be_bytes().to_vec();
    udp.extend(port.to_be_bytes());
    udp.extend((data.len() as u16 + 8).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend_from_slice(data);
    ipv4(from, by, to, UDP, &udp)
}

/// Where probes' datagrams come from.
pub(super) const SOURCE_PORT: u16 = 45_454;

fn ipv4(from: End, by: Mac, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((payload.len() as u16 + 20).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(from.address.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    ethernet(from.mac, by, IPV4, &packet)
}

/// Sender and receiver of an IPv4 packet.
pub(super) fn ends(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let packet = frame.get(14..34).filter(|_| kind(frame) == Some(IPV4))?;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).ok()?));
    Some((address(12)?, address(16)?))
}

/// Whether it is a datagram from `port` to a probe.
pub(super) fn is_answer_from(frame: &[u8], port: u16) -> bool {
    let is_udp = kind(frame) == Some(IPV4) && frame.get(23) == Some(&UDP);
    let ports = [port.to_be_bytes(), SOURCE_PORT.to_be_bytes()].concat();
    is_udp && frame.get(34..38) == Some(&ports[..])
}

fn kind(frame: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?))
}

fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: End = End { mac: Mac([2, 0, 0, 0, 0, 1]), address: Ipv4Addr::new(10, 240, 7, 254) };
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 240, 9, 254);

    #[test]
    fn a_checksum_over_itself_is_zero() {
        let frame = ping(ME, ME.mac, OTHER);
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(checksum(&frame[34..56]), 0);
        assert_eq!(ends(&frame), Some((ME.address, OTHER)));
    }

    #[test]
    fn only_replies_and_answers_are_taken_for_such() {
        let request = arp_request(ME, OTHER);
        assert_eq!((arp_reply(&request, OTHER), ends(&request)), (None, None));
        let mut reply = arp_request(End { address: OTHER, ..ME }, ME.address);
        reply[21] = 2;
        assert_eq!(arp_reply(&reply, OTHER), Some(ME.mac));
        assert_eq!(arp_reply(&reply, ME.address), None);
        assert!(!is_answer_from(&udp(ME, ME.mac, OTHER, 53, b""), 53));
        for len in 0..60 {
            let _ = (arp_reply(&reply[..len], OTHER), ends(&reply[..len]));
            assert!(!is_answer_from(&reply[..len], 53));
        }
    }
}
