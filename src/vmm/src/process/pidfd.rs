//! What the kernel offers about a process by its descriptor and no library wraps yet.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// A descriptor of the process that has this pid now.
pub(super) fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(Errno::ESRCH))?;
    // SAFETY: no pointers; the result is checked before it is used.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just made this descriptor (close-on-exec) and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// The part of the kernel's `pidfd_info` that exists since 6.13.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// "The exit status, too": answered since 6.15, once the parent has collected the process.
const EXIT: u64 = 1 << 3;

nix::ioctl_readwrite!(get_info, 0xff, 11, Info);

/// How a collected process ended, if the kernel kept it.
pub(super) fn kept_status(pidfd: &OwnedFd) -> Option<i32> {
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the descriptor is open, and `info` is as large as the request's number says.
    unsafe { get_info(pidfd.as_raw_fd(), &mut info) }.ok()?;
    (info.mask & EXIT != 0).then_some(info.exit_code)
}
