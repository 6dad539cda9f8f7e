//! What a VMM asks the kernel for: its tap, and a filter of its own system calls.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

mod tun {
    #![allow(missing_docs)]
    nix::ioctl_write_int!(set_iff, b'T', 202);
}

/// Attaches to the tap, which belongs to our uid.
pub fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // A zeroed request: name first, flags behind it.
    let mut request = [0_u8; 40];
    let length = name.len().min(15);
    request[..length].copy_from_slice(&name.as_bytes()[..length]);
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the kernel reads and writes one `struct ifreq` (40 bytes) at the pointer, which
    // lives across the call.
    unsafe { tun::set_iff(tun.as_raw_fd(), request.as_mut_ptr() as u64) }?;
    Ok(tun.into())
}

/// A filter that allows everything, on every thread: what is looked for is that there is one.
pub fn filter_system_calls() -> io::Result<()> {
    const SET_FILTER: libc::c_uint = 1;
    const ALL_THREADS: libc::c_uint = 1;
    const ALLOW: u32 = 0x7fff_0000;
    let mut code = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: ALLOW };
    let program = libc::sock_fprog { len: 1, filter: &mut code };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the program and its one instruction live across the call.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, SET_FILTER, ALL_THREADS, &program) };
    nix::errno::Errno::result(done).map(drop).map_err(io::Error::from)
}
