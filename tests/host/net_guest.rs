//! A guest stand-in: the open tap of a port. What it writes arrives on the host as sent by a
//! guest; what it reads is what a guest would see. It answers ARP for its own address.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mvm_host::net::{Port, open_tap};
use mvm_model::Mac;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::frames::{self, Frame};
use crate::world::ip;

const VNET_HEADER: usize = 10;

/// How long an expected frame may take; only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(5);

pub struct Guest {
    tap: File,
    pub mac: Mac,
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub gateway_mac: Mac,
}

/// The bridge takes frames from a port once it noticed the carrier, up to a second later.
fn wait_for_carrier(tap: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !ip(&format!("-d link show {tap}")).contains("state forwarding") {
        assert!(Instant::now() < deadline, "{tap} never forwards");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Guest {
    pub fn open(port: &Port) -> Self {
        let tap = File::from(open_tap(&port.tap()).unwrap());
        wait_for_carrier(&port.tap());
        Self {
            tap,
            mac: port.mac(),
            address: port.address().unwrap(),
            gateway: port.subnet.gateway(),
            gateway_mac: port.net_id.bridge_mac(),
        }
    }

    /// Puts a frame on the wire, whatever is in it.
    pub fn send(&self, frame: &Frame) {
        let mut bytes = vec![0; VNET_HEADER];
        bytes.extend_from_slice(&frame.0);
        (&self.tap).write_all(&bytes).unwrap();
    }

    /// An honest IPv4 packet from this guest by way of its router.
    pub fn send_routed(&self, to: Ipv4Addr, payload: frames::Ip) {
        self.send(&self.packet(self.gateway_mac, to, payload));
    }

    /// An honest IPv4 frame from this guest.
    pub fn packet(&self, mac: Mac, to: Ipv4Addr, payload: frames::Ip) -> Frame {
        frames::ipv4(self.mac, mac, self.address, to, payload)
    }

    /// The next frame within the deadline, ARP answered on the way.
    pub fn receive(&self, deadline: Instant) -> Option<Frame> {
        loop {
            let frame = self.raw(deadline)?;
            match frame.arp_request_for(self.address) {
                Some((mac, ip)) => self.send(&frames::arp_reply(self.mac, self.address, mac, ip)),
                None => return Some(frame),
            }
        }
    }

    /// The next ARP request for this guest's address, unanswered.
    pub fn expect_arp(&self) -> (Mac, Ipv4Addr) {
        let deadline = Instant::now() + PATIENCE;
        std::iter::from_fn(|| self.raw(deadline))
            .find_map(|frame| frame.arp_request_for(self.address))
            .expect("an ARP request")
    }

    fn raw(&self, deadline: Instant) -> Option<Frame> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap();
        let mut waiting = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, timeout).unwrap() == 0 {
            return None;
        }
        let mut buffer = [0; 4096];
        let length = (&self.tap).read(&mut buffer).unwrap();
        Some(Frame(buffer[VNET_HEADER..length].to_vec()))
    }

    /// Waits for a frame that satisfies `wanted`; returns it.
    pub fn expect(&self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let deadline = Instant::now() + PATIENCE;
        while let Some(frame) = self.receive(deadline) {
            if wanted(&frame) {
                return frame;
            }
        }
        panic!("{what} never arrived at {}", self.address);
    }

    /// All frames up to one that satisfies `last`, which must arrive.
    pub fn until(&self, last: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Some(frame) = self.receive(deadline) {
            if last(&frame) {
                return seen;
            }
            seen.push(frame);
        }
        panic!("the marker frame never arrived at {}", self.address);
    }

    /// Whatever has arrived by now.
    pub fn pending(&self) -> Vec<Frame> {
        std::iter::from_fn(|| self.receive(Instant::now())).collect()
    }
}
