//! The kernel's file systems and the ones in memory.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// A file system that is the same in every guest.
struct Mount {
    kind: &'static str,
    at: &'static str,
    options: &'static str,
    exec: Exec,
}

#[derive(PartialEq)]
enum Exec {
    Allowed,
    Denied,
}

const KERNEL: [Mount; 3] = [
    Mount { kind: "proc", at: "/proc", options: "", exec: Exec::Denied },
    Mount { kind: "sysfs", at: "/sys", options: "", exec: Exec::Denied },
    Mount { kind: "devtmpfs", at: "/dev", options: "mode=0755", exec: Exec::Denied },
];

/// Caps are shares of the guest's memory: no one of them can take all of it.
const ROOT: [Mount; 6] = [
    Mount {
        kind: "devpts",
        at: "/dev/pts",
        options: "gid=5,mode=0620,ptmxmode=0666",
        exec: Exec::Denied,
    },
    Mount { kind: "tmpfs", at: "/dev/shm", options: "mode=1777,size=50%", exec: Exec::Denied },
    Mount { kind: "tmpfs", at: "/run", options: "mode=0755,size=20%", exec: Exec::Allowed },
    Mount { kind: "tmpfs", at: "/tmp", options: "mode=1777,size=50%", exec: Exec::Allowed },
    Mount { kind: "tmpfs", at: "/root", options: "mode=0700,size=20%", exec: Exec::Allowed },
    Mount { kind: "cgroup2", at: "/sys/fs/cgroup", options: "nsdelegate", exec: Exec::Denied },
];

/// What stands in for a data drive nobody asked for.
const NO_DATA: Mount =
    Mount { kind: "tmpfs", at: "/data", options: "mode=0755,size=25%", exec: Exec::Allowed };

/// Mounts `/proc`, `/sys` and `/dev` where they are not yet.
pub(crate) fn kernel() -> Vec<String> {
    each(&KERNEL)
}

/// Mounts what the root stage needs besides.
pub(crate) fn root() -> Vec<String> {
    each(&ROOT)
}

/// Mounts a `/data` in memory.
pub(crate) fn data_in_memory() -> Vec<String> {
    each(&[NO_DATA])
}

/// Mounts each that is not mounted; returns what went wrong.
fn each(mounts: &[Mount]) -> Vec<String> {
    let before = table();
    let missing = mounts.iter().filter(|mount| !is_in(&before, Path::new(mount.at)));
    missing.filter_map(|mount| mount.ensure().err()).collect()
}

impl Mount {
    fn ensure(&self) -> Result<(), String> {
        ensure_dir(self.at);
        let mut flags = MsFlags::MS_NOSUID;
        if self.exec == Exec::Denied {
            flags |= MsFlags::MS_NOEXEC;
        }
        // Devices live in these two.
        if !matches!(self.kind, "devtmpfs" | "devpts") {
            flags |= MsFlags::MS_NODEV;
        }
        let options = Some(self.options).filter(|options| !options.is_empty());
        match mount(Some(self.kind), self.at, Some(self.kind), flags, options) {
            // The kernel, or the stage before, did it.
            Ok(()) | Err(Errno::EBUSY) => Ok(()),
            Err(error) => {
                Err(format!("cannot mount {} on {}: {}", self.kind, self.at, error.desc()))
            }
        }
    }
}

/// Makes a directory to mount on; on a read-only root it has to exist, and mounting says so.
pub(crate) fn ensure_dir(path: &str) {
    let _ = fs::create_dir_all(path);
}

/// True when `path` is a mount point.
pub(crate) fn is_mounted(path: &Path) -> bool {
    is_in(&table(), path)
}

/// What is mounted; empty while `/proc` is not.
fn table() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap_or_default()
}

fn is_in(table: &str, path: &Path) -> bool {
    table.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == path))
}
