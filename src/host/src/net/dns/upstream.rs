//! Asks the host's own resolvers.
//!
//! Each question goes out under a fresh random id from a fresh random port, over a connected
//! socket (only that server's datagrams arrive), and an answer counts only if id and question
//! match. A server that is silent or refuses the connection gives way to the next.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Asked, MAX_UDP};

/// One server's time to answer.
const PER_SERVER: Duration = Duration::from_secs(2);
/// All servers' time together: guests give up after five seconds themselves.
const ALTOGETHER: Duration = Duration::from_millis(4500);
const MAX_SERVERS: usize = 3;
const MAX_FILE: u64 = 64 * 1024;

/// Where systemd-resolved lists the servers behind its stub.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// How the guest asked, and so how upstream is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The host's resolvers, as of now.
#[derive(Debug, Clone)]
pub(super) struct Upstreams {
    path: PathBuf,
}

impl Upstreams {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads them again: a host changes networks. The file is small and in the page cache.
    fn servers(&self) -> Vec<SocketAddr> {
        let servers = parse(&read(&self.path));
        let stub = |server: &IpAddr| matches!(server, IpAddr::V4(ip) if matches!(ip.octets(), [127, 0, 0, 53 | 54]));
        let behind = parse(&read(Path::new(BEHIND_STUB)));
        let chosen = if servers.iter().all(stub) && !behind.is_empty() { behind } else { servers };
        chosen.into_iter().take(MAX_SERVERS).map(|ip| SocketAddr::new(ip, 53)).collect()
    }

    /// Asks one server after the other. The answer carries the guest's id; `None`: nobody knew.
    pub(super) async fn ask(&self, asked: &Asked, transport: Transport) -> Option<Vec<u8>> {
        let deadline = Instant::now() + ALTOGETHER;
        let mut last = None;
        for server in self.servers() {
            let until = deadline.min(Instant::now() + PER_SERVER);
            let attempt = match transport {
                Transport::Udp => timeout_at(until, ask_udp(server, asked)).await,
                Transport::Tcp => timeout_at(until, ask_tcp(server, asked)).await,
            };
            let Ok(Ok((mut bytes, code))) = attempt else { continue };
            bytes[..2].copy_from_slice(&asked.id.to_be_bytes());
            if !matches!(code, ResponseCode::ServFail | ResponseCode::Refused) {
                return Some(bytes);
            }
            last = Some(bytes);
        }
        last
    }
}

fn read(path: &Path) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).map(|file| file.take(MAX_FILE));
    let _ = file.and_then(|mut file| file.read_to_string(&mut text));
    text
}

fn parse(resolv_conf: &str) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

fn question(asked: &Asked, id: u16) -> io::Result<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = asked.checking_disabled;
    message.add_query(asked.query.clone());
    if let Some((payload, dnssec_ok)) = asked.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(payload.clamp(512, MAX_UDP)).set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
    }
    message.to_vec().map_err(io::Error::other)
}

/// The answer's code, if it is the answer to this question.
fn accepted(asked: &Asked, id: u16, bytes: &[u8]) -> Option<ResponseCode> {
    let message = Message::from_vec(bytes).ok()?;
    let ours = message.metadata.message_type == MessageType::Response
        && message.metadata.id == id
        && message.queries == [asked.query.clone()];
    ours.then_some(message.metadata.response_code)
}

fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u16::from_ne_bytes(id))
}

async fn ask_udp(server: SocketAddr, asked: &Asked) -> io::Result<(Vec<u8>, ResponseCode)> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let id = random_id()?;
    socket.send(&question(asked, id)?).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(code) = accepted(asked, id, &buffer[..length]) {
            return Ok((buffer[..length].to_vec(), code));
        }
    }
}

async fn ask_tcp(server: SocketAddr, asked: &Asked) -> io::Result<(Vec<u8>, ResponseCode)> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_id()?;
    write_framed(&mut stream, &question(asked, id)?).await?;
    let bytes = read_framed(&mut stream, usize::from(u16::MAX)).await?;
    match accepted(asked, id, &bytes) {
        Some(code) => Ok((bytes, code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Writes a message with the length DNS over TCP puts before it.
pub(super) async fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    timeout(PER_SERVER, stream.write_all(&framed)).await?
}

/// Reads a message of at most `cap` bytes.
pub(super) async fn read_framed(stream: &mut TcpStream, cap: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > cap {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_glibc_does() {
        let text = "# nameserver 9.9.9.9\nsearch example.org\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver fe80::1%eth0\n";
        let expected: Vec<IpAddr> =
            ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!(parse(text), expected);
        assert_eq!(parse(""), Vec::<IpAddr>::new());
    }
}
