//! Taps, by ioctl: netlink cannot make them (EOPNOTSUPP).
//!
//! A tap is created non-persistent, given its alias while the descriptor is open, and made
//! persistent last: if we die in between, it vanishes with the descriptor and leaves nothing
//! whose owner would be unclear.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mvm_model::failpoint::{self, Effect};

use super::error::NetError;

const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF as libc::c_ulong, libc::ifreq);
nix::ioctl_write_int_bad!(tun_set_persist, libc::TUNSETPERSIST as libc::c_ulong);
nix::ioctl_write_int_bad!(tun_set_owner, libc::TUNSETOWNER as libc::c_ulong);

/// Attaches to an existing tap. Frames written to the descriptor appear on the host as sent by
/// the guest; each is preceded by a 10 byte `virtio_net_hdr`. One holder at a time.
///
/// # Errors
/// [`NetError::Tap`]: no such tap, somebody else is attached, or not permitted.
pub fn open_tap(name: &str) -> Result<OwnedFd, NetError> {
    let fail = |source| NetError::Tap { doing: "open", name: name.to_owned(), source };
    // Without this look TUNSETIFF would quietly create a new, unguarded tap.
    if nix::net::if_::if_nametoindex(name).is_err() {
        return Err(fail(io::ErrorKind::NotFound.into()));
    }
    let file = attach(name, FLAGS).map_err(fail)?;
    Ok(file.into())
}

/// Creates a tap that lives as long as the returned file, until [`keep`] is called.
pub(super) fn create(name: &str) -> Result<File, NetError> {
    failpoint::before(Effect::MakeTap)?;
    let tap = attach(name, FLAGS | libc::IFF_TUN_EXCL).map_err(|source| NetError::Tap {
        doing: "create",
        name: name.to_owned(),
        source,
    })?;
    failpoint::after(Effect::MakeTap)?;
    Ok(tap)
}

/// Lets only this user attach (besides root), then makes the tap outlive the descriptor.
pub(super) fn keep(file: &File, name: &str, owner_uid: Option<u32>) -> Result<(), NetError> {
    let fail = |doing, source: nix::Error| NetError::Tap {
        doing,
        name: name.to_owned(),
        source: source.into(),
    };
    let fd = file.as_raw_fd();
    failpoint::before(Effect::KeepTap)?;
    if let Some(uid) = owner_uid {
        // SAFETY: `fd` is an open tun descriptor for the duration of the call; the argument is a
        // plain integer.
        unsafe { tun_set_owner(fd, uid as libc::c_int) }.map_err(|e| fail("give away", e))?;
    }
    // SAFETY: as above.
    unsafe { tun_set_persist(fd, 1) }.map_err(|e| fail("keep", e))?;
    Ok(failpoint::after(Effect::KeepTap)?)
}

fn attach(name: &str, flags: libc::c_int) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let request = interface_request(name, flags)?;
    // SAFETY: the descriptor is open and `request` is a fully initialised ifreq that outlives the
    // call; TUNSETIFF only reads and writes within it.
    unsafe { tun_set_iff(file.as_raw_fd(), &request) }?;
    Ok(file)
}

fn interface_request(name: &str, flags: libc::c_int) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['%', '\0', '/']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: ifreq is plain old data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    Ok(request)
}
