//! The one network interface, set up as the configuration says: address, route, MTU, resolver.
//!
//! Plain `ioctl`s on a socket; IPv6 is switched off, as the tenant's network has none.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use mvm_guest_proto::config::Network;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Where `/etc/resolv.conf` of an image points to.
const RESOLV_CONF: &str = "/run/resolv.conf";

/// A step of the set-up that failed.
#[derive(Debug)]
pub(crate) struct NetworkError {
    what: &'static str,
    error: io::Error,
}

impl std::fmt::Display for NetworkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "network: cannot {}: {}", self.what, self.error)
    }
}

fn step(what: &'static str, outcome: Result<(), impl Into<io::Error>>) -> Result<(), NetworkError> {
    outcome.map_err(|error| NetworkError { what, error: error.into() })
}

/// Brings loopback up and IPv6 down.
pub(crate) fn set_up_loopback() -> Result<(), NetworkError> {
    for which in ["all", "default"] {
        // A kernel without IPv6 has no such file.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
    }
    let control = control()?;
    step("bring up lo", set_up(&control, "lo"))
}

/// Sets the interface up; may be repeated with other values.
///
/// # Errors
/// [`NetworkError`], naming the step.
pub(crate) fn set_up_interface(network: &Network) -> Result<(), NetworkError> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "there is no network device");
    let name = interface()
        .ok_or_else(missing)
        .map_err(|error| NetworkError { what: "find the interface", error })?;
    let control = control()?;
    if let Some(mtu) = network.mtu {
        step("set the MTU", set_mtu(&control, &name, mtu))?;
    }
    step("set the address", set_address(&control, &name, libc::SIOCSIFADDR, network.address))?;
    let mask = netmask(network.prefix);
    step("set the netmask", set_address(&control, &name, libc::SIOCSIFNETMASK, mask))?;
    step("bring up the interface", set_up(&control, &name))?;
    if let Some(gateway) = network.gateway {
        step("set the default route", default_route(&control, gateway))?;
    }
    step("write /run/resolv.conf", fs::write(RESOLV_CONF, resolv_conf(network)))
}

fn control() -> Result<OwnedFd, NetworkError> {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|error| NetworkError { what: "open a socket", error: error.into() })
}

/// The first interface that is a device (loopback and tunnels are none).
fn interface() -> Option<String> {
    let entries = fs::read_dir("/sys/class/net").ok()?.flatten();
    let devices = entries.filter(|entry| entry.path().join("device").exists());
    devices.filter_map(|entry| entry.file_name().into_string().ok()).min()
}

fn netmask(prefix: u8) -> Ipv4Addr {
    let host_bits = 32 - u32::from(prefix.min(32));
    Ipv4Addr::from(u32::MAX.checked_shl(host_bits).unwrap_or(0))
}

fn resolv_conf(network: &Network) -> String {
    // One line each; whatever else is in the name is no search domain.
    let clean =
        |name: &&String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    let search = network.search.as_ref().filter(clean).map(|name| format!("search {name}\n"));
    let servers = network.dns.iter().map(|server| format!("nameserver {server}\n"));
    search.into_iter().chain(servers).collect()
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain data of the same size; the kernel reads it by its family.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: an all-zero `ifreq` is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from as libc::c_char;
    }
    request
}

fn call(control: &OwnedFd, number: libc::c_ulong, request: &mut libc::ifreq) -> nix::Result<()> {
    // SAFETY: every request here reads or writes one `ifreq`, which outlives the call.
    let outcome = unsafe { libc::ioctl(control.as_raw_fd(), number as _, &raw mut *request) };
    Errno::result(outcome).map(drop)
}

fn set_address(
    control: &OwnedFd,
    name: &str,
    number: libc::c_ulong,
    address: Ipv4Addr,
) -> nix::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_addr = socket_address(address);
    call(control, number, &mut request)
}

fn set_mtu(control: &OwnedFd, name: &str, mtu: u32) -> nix::Result<()> {
    let mut request = request(name);
    request.ifr_ifru.ifru_mtu = mtu as libc::c_int;
    call(control, libc::SIOCSIFMTU, &mut request)
}

fn set_up(control: &OwnedFd, name: &str) -> nix::Result<()> {
    let mut request = request(name);
    call(control, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the kernel just filled this field.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    call(control, libc::SIOCSIFFLAGS, &mut request)
}

fn default_route(control: &OwnedFd, gateway: Ipv4Addr) -> nix::Result<()> {
    // SAFETY: an all-zero `rtentry` is valid; its device pointer stays null.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: the request reads one `rtentry`, which outlives the call.
    let outcome =
        unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) };
    match Errno::result(outcome) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sets the host name; what is no host name is refused by the kernel or left alone.
pub(crate) fn set_hostname(name: &str) -> nix::Result<()> {
    if name.is_empty() || name.len() > 63 || Path::new(name).components().count() != 1 {
        return Err(Errno::EINVAL);
    }
    nix::unistd::sethostname(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netmasks_come_from_prefixes() {
        assert_eq!(netmask(24), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(netmask(0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(netmask(32), Ipv4Addr::BROADCAST);
        assert_eq!(netmask(200), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn a_search_domain_cannot_smuggle_lines() {
        let mut network = Network {
            address: Ipv4Addr::LOCALHOST,
            prefix: 24,
            gateway: None,
            dns: vec![Ipv4Addr::new(10, 240, 0, 1)],
            search: Some("pool.demo.mvm".into()),
            mtu: None,
        };
        assert_eq!(resolv_conf(&network), "search pool.demo.mvm\nnameserver 10.240.0.1\n");
        network.search = Some("x\nnameserver 6.6.6.6".into());
        assert_eq!(resolv_conf(&network), "nameserver 10.240.0.1\n");
    }
}
