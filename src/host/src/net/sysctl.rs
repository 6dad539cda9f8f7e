//! Kernel settings below /proc/sys/net, which show the network namespace of whoever opens them.

use std::io;
use std::path::{Path, PathBuf};

use mvm_model::failpoint::{self, Effect};

use super::error::NetError;

const ROOT: &str = "/proc/sys/net";

/// Per-interface IPv4 settings.
pub(super) fn ipv4(interface: &str, key: &str) -> PathBuf {
    Path::new(ROOT).join("ipv4/conf").join(interface).join(key)
}

/// Per-interface IPv6 settings; absent where the kernel has no IPv6.
pub(super) fn ipv6(interface: &str, key: &str) -> PathBuf {
    Path::new(ROOT).join("ipv6/conf").join(interface).join(key)
}

/// Reads a setting; `None` when the kernel does not have it.
pub(super) fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Writes a setting unless it already has that value. A setting that does not exist is fine:
/// the feature, or the interface, is not there.
pub(super) fn ensure(path: &Path, value: &str) -> Result<(), NetError> {
    if read(path).as_deref() == Some(value) {
        return Ok(());
    }
    failpoint::before(Effect::SetSysctl)?;
    match std::fs::write(path, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetError::Sysctl { path: path.to_owned(), source: error })
        }
        _ => Ok(failpoint::after(Effect::SetSysctl)?),
    }
}

/// No IPv6 of any kind on an interface: guests have none (D§5).
pub(super) fn close_ipv6(interface: &str) -> Result<(), NetError> {
    ensure(&ipv6(interface, "accept_ra"), "0")?;
    ensure(&ipv6(interface, "disable_ipv6"), "1")
}

/// A bridge answers for its own address only and believes no guest about routes.
pub(super) fn harden_bridge(interface: &str) -> Result<(), NetError> {
    close_ipv6(interface)?;
    for (key, value) in BRIDGE_SETTINGS {
        ensure(&ipv4(interface, key), value)?;
    }
    Ok(())
}

/// What [`harden_bridge`] sets; `verify` reads it back.
pub(super) const BRIDGE_SETTINGS: [(&str, &str); 7] = [
    // ARP answers only for the address of this very bridge, never for the host's others.
    ("arp_ignore", "1"),
    ("arp_announce", "2"),
    ("rp_filter", "1"),
    ("send_redirects", "0"),
    ("accept_redirects", "0"),
    ("route_localnet", "0"),
    ("proxy_arp", "0"),
];
