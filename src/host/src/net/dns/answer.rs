//! What to do with a guest's datagram: pure, so that every refusal can be tested as a value.
//!
//! Own names are answered here. All that must not leave the host is answered here too: other
//! tenants' names (as if they did not exist), addresses of private networks. The rest is forwarded
//! where the tenant may. Nothing of the guest's bytes goes on except the question itself.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::zone::{Forwarding, Zone};

/// Our top-level domain.
const TLD: &str = "mvm";
/// How long guests may keep an answer, in seconds: instances come and go.
const TTL: u32 = 5;
/// The largest datagram we send: fits the tenants' MTU without fragments.
pub(super) const MAX_UDP: u16 = 1232;
/// What a client without EDNS can take.
const PLAIN_UDP: u16 = 512;

/// A question that may go on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    /// The guest's own id of it.
    pub id: u16,
    pub query: Query,
    /// The guest's EDNS: payload it can take and whether it wants DNSSEC records.
    pub edns: Option<(u16, bool)>,
    /// The guest checks signatures itself.
    pub checking_disabled: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// Not a question; an answer would only feed loops.
    Ignore,
    /// Send this.
    Answer(Message),
    /// Ask upstream.
    Forward(Asked),
}

/// Decides about a datagram of a tenant's guest.
pub(super) fn decide(zone: &Zone, datagram: &[u8]) -> Decision {
    let message = match Message::from_vec(datagram) {
        Ok(message) => message,
        Err(_) => return malformed(datagram),
    };
    let refuse = |code| Decision::Answer(error(&message, code));
    if message.metadata.message_type != MessageType::Query {
        return Decision::Ignore;
    }
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [query] = &message.queries[..] else { return refuse(ResponseCode::FormErr) };
    let transfer =
        matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR | RecordType::ANY);
    if query.query_class() != DNSClass::IN || transfer {
        return refuse(ResponseCode::Refused);
    }
    match (local(zone, query), zone.forwarding) {
        (Some(found), _) => Decision::Answer(local_answer(&message, query, found)),
        (None, Forwarding::Refused) => refuse(ResponseCode::Refused),
        (None, Forwarding::Upstream) => Decision::Forward(asked(&message, query)),
    }
}

/// What a name is, when it is for us to say.
#[derive(Debug, Clone, PartialEq)]
enum Local {
    Address(Ipv4Addr),
    Pointer(Name),
    /// The name exists, nothing of this type.
    NoData,
    Missing,
}

fn local(zone: &Zone, query: &Query) -> Option<Local> {
    let name = query.name().to_lowercase();
    match name.parse_arpa_name() {
        Ok(IpNet::V4(net)) => return reverse(zone, query, net.addr(), net.prefix_len()),
        Ok(IpNet::V6(_)) | Err(_) => {}
    }
    let text = name.to_ascii();
    let text = text.trim_end_matches('.');
    let inner = match text.rsplit_once('.') {
        Some((inner, TLD)) => inner,
        _ if text == TLD => return Some(Local::NoData),
        _ => return None,
    };
    Some(own_name(zone, query.query_type(), inner))
}

/// `inner` is the name without `.mvm`.
fn own_name(zone: &Zone, kind: RecordType, inner: &str) -> Local {
    if inner == zone.tenant.as_str() {
        return Local::NoData;
    }
    let own = inner.strip_suffix(zone.tenant.as_str()).and_then(|rest| rest.strip_suffix('.'));
    let Some(own) = own else { return Local::Missing };
    match zone.names.get(own) {
        Some(address) if kind == RecordType::A => Local::Address(*address),
        Some(_) => Local::NoData,
        None if zone.names.keys().any(|name| is_below(name, own)) => Local::NoData,
        None => Local::Missing,
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}

/// Names of addresses: ours from the zone, other private ones of nobody. The host's upstreams
/// would tell a guest who lives in the host's own network.
fn reverse(zone: &Zone, query: &Query, address: Ipv4Addr, prefix: u8) -> Option<Local> {
    let hidden = address.is_private()
        || address.is_link_local()
        || address.is_loopback()
        || matches!(address.octets(), [100, 64..128, ..] | [0, ..]);
    if !hidden {
        return None;
    }
    let own = zone.names.iter().find(|(_, own)| **own == address && prefix == 32);
    let Some((name, _)) = own else { return Some(Local::Missing) };
    let full = Name::from_ascii(format!("{name}.{}.{TLD}.", zone.tenant));
    Some(match full {
        Ok(name) if query.query_type() == RecordType::PTR => Local::Pointer(name),
        _ => Local::NoData,
    })
}

fn local_answer(asked: &Message, query: &Query, found: Local) -> Message {
    let mut answer = error(asked, ResponseCode::NoError);
    answer.metadata.authoritative = true;
    let record = |data| Record::from_rdata(query.name().clone(), TTL, data);
    match found {
        Local::Address(address) => drop(answer.add_answer(record(RData::A(A(address))))),
        Local::Pointer(name) => drop(answer.add_answer(record(RData::PTR(PTR(name))))),
        Local::NoData => drop(answer.add_authorities(authority())),
        Local::Missing => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authorities(authority());
        }
    }
    answer
}

/// Lets resolvers in guests remember that there is nothing, but not for long.
fn authority() -> Option<Record> {
    let zone = Name::from_ascii("mvm.").ok()?;
    let mail = Name::from_ascii("nobody.mvm.").ok()?;
    let soa = SOA::new(zone.clone(), mail, 1, 3600, 600, 86_400, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

fn asked(message: &Message, query: &Query) -> Asked {
    Asked {
        id: message.metadata.id,
        query: query.clone(),
        edns: message.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
        checking_disabled: message.metadata.checking_disabled,
    }
}

/// An empty response to a question with a code.
pub(super) fn error(asked: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::error_msg(asked.metadata.id, asked.metadata.op_code, code);
    answer.metadata.recursion_desired = asked.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(asked.queries.iter().take(1).cloned());
    if asked.edns.is_some() {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(MAX_UDP);
        answer.set_edns(edns);
    }
    answer
}

/// The response when no upstream answered.
pub(super) fn unavailable(asked: &Asked) -> Message {
    let mut answer = Message::error_msg(asked.id, OpCode::Query, ResponseCode::ServFail);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.add_query(asked.query.clone());
    answer
}

fn malformed(datagram: &[u8]) -> Decision {
    match datagram {
        // Long enough for a header, and a question.
        [a, b, flags, ..] if datagram.len() >= 12 && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*a, *b]);
            Decision::Answer(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
        }
        _ => Decision::Ignore,
    }
}

/// The most a datagram to this client may hold.
pub(super) fn udp_limit(payload: Option<u16>) -> usize {
    payload.unwrap_or(PLAIN_UDP).clamp(PLAIN_UDP, MAX_UDP).into()
}

/// Bytes of a message, cut down to header and question when they exceed the limit.
pub(super) fn encode(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= limit { Some(bytes) } else { message.truncate().to_vec().ok() }
}

#[cfg(test)]
mod tests;
