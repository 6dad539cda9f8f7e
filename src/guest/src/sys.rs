//! The few system calls `nix` has no safe form for. All `unsafe` of the agent that is not
//! between `fork` and `exec` is here.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `openat2` resolve flags of every path a host names: `..` and absolute links stay below the
/// root directory, and `/proc/*/fd`-like links are not followed.
const RESOLVE: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

/// Opens `path` below `root`, which stands for `/`.
///
/// # Errors
/// The system call's.
pub(crate) fn open_in_root(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
) -> nix::Result<OwnedFd> {
    // SAFETY: an all-zero `open_how` is valid; its fields are plain integers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = RESOLVE;
    // SAFETY: `path` is NUL-terminated and `how` lives through the call, with its true size.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            std::mem::size_of::<libc::open_how>(),
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Loads a kernel module; one that is loaded already is fine.
///
/// # Errors
/// The kernel's.
pub(crate) fn load_module(file: &File) -> nix::Result<()> {
    // SAFETY: a valid descriptor, an empty NUL-terminated parameter string, no flags.
    let outcome =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match Errno::result(outcome) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
/// Largest amount of entropy credited at once, bytes.
pub(crate) const MAX_ENTROPY: usize = 256;

/// Credits `entropy` to the kernel's generator and reseeds it from the pool.
///
/// # Errors
/// Without the privilege, or without `/dev/urandom`.
pub(crate) fn reseed(entropy: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct PoolInfo {
        entropy_count: libc::c_int,
        buf_size: libc::c_int,
        buf: [u8; MAX_ENTROPY],
    }
    let n = entropy.len().min(MAX_ENTROPY);
    let mut info =
        PoolInfo { entropy_count: n as i32 * 8, buf_size: n as i32, buf: [0; MAX_ENTROPY] };
    info.buf[..n].copy_from_slice(&entropy[..n]);
    let random = File::options().write(true).open("/dev/urandom")?;
    // SAFETY: `info` has the layout of `struct rand_pool_info` and outlives the call.
    let credited = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, &raw const info) };
    // SAFETY: this request takes no argument.
    let reseeded = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _) };
    info.buf.fill(0);
    std::hint::black_box(&info.buf);
    Errno::result(credited).and(Errno::result(reseeded)).map(drop).map_err(io::Error::from)
}

const BLKFLSBUF: libc::c_ulong = 0x1261;

/// Drops what the kernel remembers of a block device's content.
///
/// # Errors
/// Without the privilege, or when it is none.
pub(crate) fn forget_device(device: &File) -> nix::Result<()> {
    // SAFETY: this request takes no argument.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF as _, 0) }).map(drop)
}

const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Lets a mounted ext4 grow to so many blocks; one that has them is fine.
///
/// # Errors
/// The kernel's: without the privilege, or when it has more already.
pub(crate) fn grow_file_system(root: &File, blocks: u64) -> nix::Result<()> {
    let fd = root.as_raw_fd();
    // SAFETY: the request reads one number, which outlives the call.
    let outcome = unsafe { libc::ioctl(fd, EXT4_IOC_RESIZE_FS as _, &raw const blocks) };
    Errno::result(outcome).map(drop)
}

/// Sets a terminal's size.
///
/// # Errors
/// When `terminal` is none.
pub(crate) fn set_tty_size(terminal: impl AsFd, rows: u16, cols: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: `size` is what the request reads, and outlives the call.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCSWINSZ as _, &raw const size) }).map(drop)
}

/// 16 random bytes for a session.
pub(crate) fn fresh_nonce() -> [u8; 16] {
    let mut nonce = [0_u8; 16];
    // SAFETY: the buffer is valid for its length. At most 256 bytes are never cut short.
    let got = unsafe { libc::getrandom(nonce.as_mut_ptr().cast(), nonce.len(), 0) };
    assert!(got == 16, "the kernel has no random bytes");
    nonce
}

/// An error in words, without the number `std` appends.
pub(crate) fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// A new terminal: our end and the program's.
///
/// # Errors
/// The system's.
pub(crate) fn open_terminal() -> nix::Result<(OwnedFd, OwnedFd)> {
    use nix::fcntl::OFlag;
    use nix::pty::{grantpt, posix_openpt, unlockpt};
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    // By descriptor, not by name: this works whatever is mounted on /dev/pts.
    // SAFETY: the request takes flags and returns a descriptor.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags.bits()) };
    let slave = Errno::result(slave)?;
    // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    // SAFETY: `into_raw_fd` gave up the ownership that is taken here.
    let master = unsafe { OwnedFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(master)) };
    Ok((master, slave))
}
