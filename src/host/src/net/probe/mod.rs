//! Live probes: do the rules hold when somebody tries? Called by `mvm net verify` after the
//! static checks; needs no guest.
//!
//! ```text
//!  each tenant: a tap at a free place in its network, made and guarded as any instance's
//!    1  asks for its gateway                       must be answered (ARP)
//!    2  asks the resolver, where one should be     must be answered (DNS)
//!    3  sends to every other tenant, its gateway, the host and the metadata address:
//!         what arrives at another tenant's tap, or comes back, is a leak
//!    4  asks for its gateway once more: everything sent before has been dealt with
//!  all taps removed
//! ```
//!
//! A probe that is killed leaves a tap behind that `verify` names; the next one takes it away.

mod frame;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::join_all;
use mvm_model::{Mac, TenantName};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::error::NetError;
use super::tap::open_tap;
use super::verify::{Finding, error};
use super::{Net, Port};
use frame::End;

/// How long an answer may take; an idle host needs microseconds, a kernel that is late to notice a
/// carrier seconds.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long until a question is asked again.
const AGAIN: Duration = Duration::from_millis(50);
/// And one to the resolver, which may have much to do.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long is listened for what should not come, after the gateway's last answer.
const SILENCE: Duration = Duration::from_millis(60);
/// `virtio_net_hdr`, all zeros: nothing to offload.
const HEADER: usize = 10;
/// Where clouds tell machines their secrets.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// A port nobody listens on: a host that answers says "unreachable".
const DISCARD: u16 = 9;
const DNS: u16 = 53;

/// Where a tenant is probed from.
#[derive(Debug, Clone)]
pub struct Spot {
    /// The tenant.
    pub tenant: TenantName,
    /// A port no instance has or will have while the probe lasts.
    pub port: Port,
    /// Whether the resolver should answer here.
    pub resolver: bool,
}

/// A spot while it is probed.
struct Probe<'a> {
    spot: &'a Spot,
    me: End,
    gateway: Ipv4Addr,
    tap: AsyncFd<File>,
    /// The gateway's, once it answered.
    by: Option<Mac>,
    heard: Vec<Vec<u8>>,
}

impl Net {
    /// Tries what must work and what must not from a place in each tenant's network. The tenants'
    /// bridges must be up.
    ///
    /// # Errors
    /// When a probe's own tap cannot be made or removed; what the network does wrong is a finding.
    pub async fn probe(&self, spots: &[Spot]) -> Result<Vec<Finding>, NetError> {
        let probed = self.probe_from(spots).await;
        let mut removed = Ok(());
        for spot in spots {
            let port = &spot.port;
            // All of them, whatever happens with one.
            removed = removed.and(self.remove_port(port.net_id, port.subnet, port.offset).await);
        }
        let findings = probed?;
        removed.map(|()| findings)
    }

    async fn probe_from(&self, spots: &[Spot]) -> Result<Vec<Finding>, NetError> {
        let mut probes = Vec::new();
        for spot in spots {
            self.ensure_port(&spot.port).await?;
            probes.push(Probe::open(spot)?);
        }
        join_all(probes.iter_mut().map(Probe::find_gateway)).await;
        let resolvers = join_all(probes.iter_mut().map(Probe::ask_resolver)).await;
        let others: Vec<_> = probes.iter().map(|probe| (probe.me.address, probe.gateway)).collect();
        for probe in &probes {
            probe.trespass(&others);
        }
        join_all(probes.iter_mut().map(Probe::listen)).await;
        let mut findings = Vec::new();
        for (probe, resolver) in probes.iter().zip(resolvers) {
            findings.extend(probe.judge(resolver, &probes));
        }
        Ok(findings)
    }
}

impl<'a> Probe<'a> {
    fn open(spot: &'a Spot) -> Result<Self, NetError> {
        let name = spot.port.tap();
        let failed = |source| NetError::Tap { doing: "probe", name: name.clone(), source };
        let fd = open_tap(&name)?;
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed(e.into()))?;
        // SAFETY: the file owns its open descriptor, and nothing takes it out of the probe.
        let tap = unsafe { AsyncFd::register(File::from(fd)) };
        Ok(Self {
            spot,
            me: End { mac: spot.port.mac(), address: spot.port.address()? },
            gateway: spot.port.subnet.gateway(),
            tap: tap.map_err(|error| failed(error.into()))?,
            by: None,
            heard: Vec::new(),
        })
    }

    /// A frame that cannot be sent is missed where it should arrive.
    fn send(&self, frame: &[u8]) {
        let _ = self.tap.get_ref().write(&[&[0; HEADER][..], frame].concat());
    }

    async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        loop {
            let mut ready = self.tap.readable().await?;
            if let Ok(read) = ready.try_io(|tap| tap.get_ref().read(&mut buffer)) {
                let length = read?;
                return Ok(buffer[HEADER.min(length)..length].to_vec());
            }
        }
    }

    /// Receives until a frame is wanted; what it hears meanwhile is kept.
    async fn until<T>(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        while let Ok(Ok(frame)) = tokio::time::timeout_at(deadline, self.receive()).await {
            if let Some(found) = wanted(&frame) {
                return Some(found);
            }
            self.heard.push(frame);
        }
        None
    }

    /// Asked again and again: a bridge forwards for a new port only when the kernel has noticed
    /// its carrier, which can take a second.
    async fn find_gateway(&mut self) {
        let gateway = self.gateway;
        let give_up = Instant::now() + PATIENCE;
        self.by = None;
        while self.by.is_none() && Instant::now() < give_up {
            self.send(&frame::arp_request(self.me, gateway));
            self.by = self.until(AGAIN, |frame| frame::arp_reply(frame, gateway)).await;
        }
    }

    /// Whether the resolver answers, where one should.
    async fn ask_resolver(&mut self) -> bool {
        let (Some(by), true) = (self.by, self.spot.resolver) else { return true };
        // A question for the address of "mvm.": any answer will do.
        let question =
            [0x6d, 0x76, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'm', b'v', b'm', 0, 0, 1, 0, 1];
        let give_up = Instant::now() + PATIENCE;
        let mut answer = None;
        while answer.is_none() && Instant::now() < give_up {
            self.send(&frame::udp(self.me, by, self.gateway, DNS, &question));
            let is_answer = |frame: &[u8]| frame::is_answer_from(frame, DNS).then_some(());
            answer = self.until(ASK_AGAIN, is_answer).await;
        }
        answer.is_some()
    }

    /// Sends what must arrive nowhere and be answered by nobody.
    fn trespass(&self, everyone: &[(Ipv4Addr, Ipv4Addr)]) {
        let Some(by) = self.by else { return };
        let mut forbidden = vec![METADATA, self.gateway];
        let others = everyone.iter().filter(|(address, _)| *address != self.me.address);
        forbidden.extend(others.flat_map(|(address, gateway)| [*address, *gateway]));
        for to in forbidden {
            self.send(&frame::ping(self.me, by, to));
            self.send(&frame::udp(self.me, by, to, DISCARD, b"mvm net verify"));
            if to != self.gateway {
                self.send(&frame::arp_request(self.me, to));
            }
        }
    }

    async fn listen(&mut self) {
        if self.by.is_some() {
            self.find_gateway().await;
        }
        let never = |_: &[u8]| None::<()>;
        self.until(SILENCE, never).await;
    }

    fn judge(&self, resolver: bool, everyone: &[Self]) -> Vec<Finding> {
        let bridge = self.spot.port.net_id.bridge();
        let finding = |problem: String| error(&bridge, problem, REMEDY);
        let mut findings = Vec::new();
        if self.by.is_none() {
            findings.push(finding(format!("its gateway {} does not answer", self.gateway)));
        }
        if !resolver {
            findings.push(finding("the resolver does not answer its guests".into()));
        }
        for other in everyone.iter().filter(|other| other.me != self.me) {
            if self.hears_from(other.me.address) || self.is_told_of(other) {
                let tenant = &other.spot.tenant;
                findings.push(finding(format!("traffic of tenant {tenant} reaches it")));
            }
        }
        let hosts = [self.gateway, METADATA];
        if let Some(host) = hosts.into_iter().find(|host| self.hears_from(*host)) {
            findings.push(finding(format!("{host} answers guests beyond DNS")));
        }
        findings
    }

    /// A late answer of the resolver is no news.
    fn hears_from(&self, address: Ipv4Addr) -> bool {
        let other = self.heard.iter().filter(|frame| !frame::is_answer_from(frame, DNS));
        let mut ends = other.filter_map(|frame| frame::ends(frame));
        ends.any(|(from, to)| from == address && to == self.me.address)
    }

    /// Whether another tenant's gateway, an address of this host, answered.
    fn is_told_of(&self, other: &Self) -> bool {
        let shown = |frame: &Vec<u8>| frame::arp_reply(frame, other.gateway).is_some();
        self.hears_from(other.gateway) || self.heard.iter().any(shown)
    }
}

const REMEDY: &str = "start an instance of the tenant: that writes its network again; if it stays, report it with the output of `nft list ruleset`";
