//! System calls that have no safe wrapper: descriptor ranges and capabilities.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag};
use nix::libc;

/// The kernel's bit for "mark close-on-exec instead of closing".
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
/// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words per set.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Lets no descriptor from `first` on survive the exec.
pub(super) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers; descriptors stay valid until the exec, only their flag changes.
    let code = unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)
    };
    Errno::result(code).map(drop).map_err(io::Error::from)
}

/// Lets a descriptor survive the exec.
pub(super) fn keep_on_exec(fd: u32) -> io::Result<()> {
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: borrowed for one call; a number that is not open gives EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    nix::fcntl::fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Drops every capability but those in a mask from the bounding set, and the whole ambient set.
pub(super) fn drop_bounding_set(keep: u64) -> io::Result<()> {
    for capability in (0..64).filter(|capability| keep & (1 << capability) == 0) {
        // SAFETY: PR_CAPBSET_DROP takes a number.
        let code = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match Errno::result(code) {
            Ok(_) => {}
            // One past the last capability this kernel knows.
            Err(Errno::EINVAL) if capability > 0 => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    // SAFETY: PR_CAP_AMBIENT_CLEAR_ALL takes no further argument.
    let code =
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Errno::result(code).map(drop).map_err(io::Error::from)
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityWords {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Says it on stderr past all buffers and locks, which may be another thread's when there was a fork.
pub(super) fn say(line: &str) {
    // SAFETY: borrowed for one call; nobody is to be told when it is closed.
    let stderr = unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) };
    let _ = nix::unistd::write(stderr, line.as_bytes());
}

/// Ends the process at once: after a fork nothing that runs at an end is ours to run.
pub(super) fn end(code: u8) -> ! {
    // SAFETY: it takes a number.
    unsafe { libc::_exit(code.into()) }
}

/// Empties the effective, permitted and inheritable sets.
pub(super) fn drop_capabilities() -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let none = [CapabilityWords { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 reads one header and two word triples; both live across the call.
    let code =
        unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), none.as_ptr()) };
    Errno::result(code).map(drop).map_err(io::Error::from)
}
