//! One tenant's sockets: takes questions, answers or forwards them, within bounds.
//!
//! A tenant that asks too much loses its own questions: only what its [`Allowance`] has room for is
//! forwarded, and [`CONNECTIONS`] TCP clients are served at once; further ones are dropped.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::allowance::Allowance;
use super::answer::{Asked, Decision, decide, encode, udp_limit, unavailable};
use super::upstream::{Transport, Upstreams, read_framed, write_framed};
use super::zone::Zone;

/// TCP clients of one tenant at a time.
const CONNECTIONS: usize = 16;
/// The largest question.
const MAX_QUESTION: usize = 1452;
/// A TCP client that says nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(10);

/// The zone as it is now.
pub(super) type Current = watch::Receiver<Arc<Zone>>;

/// A tenant's pair of sockets.
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Takes over what root has bound.
    pub(super) fn from_fds(udp: OwnedFd, tcp: OwnedFd) -> io::Result<Self> {
        let (udp, tcp) = (std::net::UdpSocket::from(udp), std::net::TcpListener::from(tcp));
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? })
    }

    /// Serves until dropped; all its work ends with it.
    pub(super) async fn serve(self, zone: Current, upstreams: Upstreams) {
        let allowance = Arc::new(Allowance::default());
        let tcp = serve_tcp(self.tcp, zone.clone(), upstreams.clone(), allowance.clone());
        tokio::join!(serve_udp(self.udp, zone, upstreams, allowance), tcp);
    }
}

fn is_guest(zone: &Current, peer: SocketAddr) -> bool {
    matches!(peer.ip(), IpAddr::V4(ip) if zone.borrow().network.ipv4_subnet.net().contains(&ip))
}

async fn serve_udp(
    socket: UdpSocket,
    zone: Current,
    upstreams: Upstreams,
    allowance: Arc<Allowance>,
) {
    let socket = Arc::new(socket);
    let mut work = JoinSet::new();
    let mut buffer = [0; MAX_QUESTION];
    loop {
        while work.try_join_next().is_some() {}
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error of an earlier answer; the socket itself stays good.
            tokio::task::yield_now().await;
            continue;
        };
        if !is_guest(&zone, peer) {
            continue;
        }
        let decision = decide(&zone.borrow(), &buffer[..length]);
        match decision {
            Decision::Ignore => {}
            Decision::Answer(message) => {
                send(&socket, peer, encode(&message, limit(&message, &buffer[..length]))).await;
            }
            Decision::Forward(asked) => {
                let Some(permit) = allowance.take(Transport::Udp) else { continue };
                let (socket, upstreams) = (socket.clone(), upstreams.clone());
                work.spawn(async move {
                    let limit = udp_limit(asked.edns.map(|(payload, _)| payload));
                    let bytes = forward(&upstreams, &asked, Transport::Udp, limit).await;
                    send(&socket, peer, bytes).await;
                    drop(permit);
                });
            }
        }
    }
}

/// What the asker can take: only one with EDNS more than the old 512 bytes.
fn limit(answer: &Message, question: &[u8]) -> usize {
    let payload = answer.edns.is_some().then(|| {
        let asked = Message::from_vec(question).ok().and_then(|m| m.edns);
        asked.map_or(0, |edns| edns.max_payload())
    });
    udp_limit(payload)
}

async fn send(socket: &UdpSocket, peer: SocketAddr, bytes: Option<Vec<u8>>) {
    if let Some(bytes) = bytes {
        // A guest that is gone loses its answer.
        let _ = socket.send_to(&bytes, peer).await;
    }
}

async fn forward(
    upstreams: &Upstreams,
    asked: &Asked,
    transport: Transport,
    limit: usize,
) -> Option<Vec<u8>> {
    match upstreams.ask(asked, transport).await {
        Some(bytes) if bytes.len() <= limit => Some(bytes),
        Some(bytes) => encode(&Message::from_vec(&bytes).ok()?.truncate(), limit),
        None => encode(&unavailable(asked), limit),
    }
}

async fn serve_tcp(
    listener: TcpListener,
    zone: Current,
    upstreams: Upstreams,
    allowance: Arc<Allowance>,
) {
    let mut clients = JoinSet::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, or the client is gone already.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while clients.try_join_next().is_some() {}
        if is_guest(&zone, peer) && clients.len() < CONNECTIONS {
            clients.spawn(serve_client(stream, zone.clone(), upstreams.clone(), allowance.clone()));
        }
    }
}

async fn serve_client(
    mut stream: TcpStream,
    zone: Current,
    upstreams: Upstreams,
    allowance: Arc<Allowance>,
) {
    const WHOLE: usize = u16::MAX as usize;
    while let Ok(Ok(question)) = timeout(IDLE, read_framed(&mut stream, MAX_QUESTION)).await {
        let decision = decide(&zone.borrow(), &question);
        let answer = match decision {
            Decision::Ignore => return,
            Decision::Answer(message) => encode(&message, WHOLE),
            Decision::Forward(asked) => {
                let Some(_permit) = allowance.take(Transport::Tcp) else { return };
                forward(&upstreams, &asked, Transport::Tcp, WHOLE).await
            }
        };
        let Some(answer) = answer else { return };
        if write_framed(&mut stream, &answer).await.is_err() {
            return;
        }
    }
}
