//! The VMM's root directory: a small read-only tmpfs with the system's libraries, the kernel and
//! the initrd in it. No /proc, no /etc, no /var, no other VM's anything.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::{ConfineError, Confinement, step};

/// Where programs and their libraries live; those that exist are shown read-only. A VMM elsewhere
/// is refused by the supervisor.
pub(crate) const SYSTEM_DIRS: [&str; 8] =
    ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/nix/store", "/gnu/store", "/opt"];

/// Lets the loader find libraries of distributions that list directories there.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// A file shown read-only in the new root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bind {
    /// The file outside.
    pub(crate) from: PathBuf,
    /// Its absolute path inside.
    pub(crate) to: PathBuf,
}

/// A character device made in the new root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    /// Its absolute path inside.
    pub(crate) path: PathBuf,
    /// Major number.
    pub(crate) major: u64,
    /// Minor number.
    pub(crate) minor: u64,
}

/// Builds the root over the mount point and makes it this process's only one.
pub(super) fn enter(plan: &Confinement) -> Result<(), ConfineError> {
    let root = &plan.mount_point;
    let none: Option<&Path> = None;
    step(
        "make mounts private",
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none),
    )?;
    step(
        "mount the VM's root",
        mount(
            Some("tmpfs"),
            root,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            Some("mode=0755,size=64k,nr_inodes=64"),
        ),
    )?;
    for dir in SYSTEM_DIRS {
        show_system(root, Path::new(dir))?;
    }
    let cache = Path::new(LOADER_CACHE);
    if cache.exists() {
        show_file(root, &Bind { from: cache.to_owned(), to: cache.to_owned() })?;
    }
    for bind in &plan.binds {
        show_file(root, bind)?;
    }
    for device in &plan.devices {
        make_device(root, device, plan)?;
    }
    switch(root)
}

/// A directory of the system, or the same symlink where it is one (`/lib` on merged-usr).
fn show_system(root: &Path, dir: &Path) -> Result<(), ConfineError> {
    let Ok(kind) = fs::symlink_metadata(dir) else { return Ok(()) };
    let inside = inside(root, dir);
    let what = format!("show {}", dir.display());
    if kind.is_symlink() {
        let target = step(&what, fs::read_link(dir))?;
        return step(&what, symlink(target, inside));
    }
    step(&what, fs::create_dir_all(&inside))?;
    step(&what, bind_read_only(dir, &inside, MsFlags::empty()))
}

fn show_file(root: &Path, bind: &Bind) -> Result<(), ConfineError> {
    let inside = inside(root, &bind.to);
    let what = format!("show {}", bind.from.display());
    step(&what, make_parent(&inside))?;
    step(&what, fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(&inside))?;
    step(&what, bind_read_only(&bind.from, &inside, MsFlags::MS_NOEXEC))
}

/// The node is the VM's own, so the host's may stay as closed as it is.
fn make_device(root: &Path, device: &Device, plan: &Confinement) -> Result<(), ConfineError> {
    let inside = inside(root, &device.path);
    let what = format!("make {}", device.path.display());
    step(&what, make_parent(&inside))?;
    let number = makedev(device.major, device.minor);
    step(&what, mknod(&inside, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, number))?;
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    step(&what, nix::unistd::chown(&inside, Some(uid), Some(gid)))
}

/// Mounts one file on another; it can be written as its mode says.
pub(super) fn bind_file(from: &Path, to: &Path) -> io::Result<()> {
    let none: Option<&Path> = None;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(none, to, none, flags, none)?)
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Not recursive: what is mounted below stays outside. Flags of a bind need the second call.
fn bind_read_only(from: &Path, to: &Path, more: MsFlags) -> io::Result<()> {
    let none: Option<&Path> = None;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)?;
    let flags = MsFlags::MS_BIND
        | MsFlags::MS_REMOUNT
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | more;
    Ok(mount(none, to, none, flags, none)?)
}

/// Stacks the old root under the new one and lets go of it: no path leads back.
fn switch(root: &Path) -> Result<(), ConfineError> {
    let none: Option<&Path> = None;
    let read_only =
        MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    step("seal the VM's root", mount(none, root, none, read_only, none))?;
    step("enter the VM's root", nix::unistd::chdir(root))?;
    step("switch the root", nix::unistd::pivot_root(".", "."))?;
    step("leave the host's root", umount2(".", MntFlags::MNT_DETACH))?;
    step("enter the VM's root", nix::unistd::chdir("/"))
}
