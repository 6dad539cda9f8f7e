//! The processes of this host that are ours: VMMs and their supervisors.
//!
//! A name proves nothing. A VMM is one of ours when it runs as a VM's user and what it prints goes
//! into a pipe in our run directory, which nobody but root may enter; a supervisor, when its
//! messages go to the log it holds locked there. Both say whose VM it is. They are found so even
//! when somebody removed that directory: the kernel still knows the names.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use mvm_model::InstanceId;
use mvm_model::record::FIRST_VMM_UID;
use mvm_model::vm::ProcessId;
use mvm_vmm::process;

use super::judge::{Part, Thing, What};
use crate::shim::SUBCOMMAND;

/// Clock ticks of a second, as `/proc` counts them on every architecture we run on.
const TICKS: u64 = 100;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// Those of instances.
    pub(super) things: Vec<Thing>,
    /// Roots of processes that run as some VM's user: device and inode.
    pub(super) roots: BTreeSet<(u64, u64)>,
}

/// Looks through all processes. `run` is where the run directories of VMs are.
pub(super) fn find(run: &Path) -> Processes {
    let mut found = Processes::default();
    let up = uptime();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        let dir = entry.path();
        let part = match uid(&dir) {
            Some(uid) if uid >= FIRST_VMM_UID => {
                found.roots.extend(inode(&dir.join("root")));
                Part::Vm
            }
            Some(0) if is_shim(&dir) => Part::Supervisor,
            _ => continue,
        };
        found.things.extend(one(run, &dir, pid, part, up));
    }
    found
}

fn one(run: &Path, dir: &Path, pid: u32, part: Part, up: Duration) -> Option<Thing> {
    let process = process::identify(pid).ok()?;
    let (fd, stem) = match part {
        Part::Vm => ("fd/1", None),
        Part::Supervisor => ("fd/2", Some(".log")),
    };
    let target = fs::read_link(dir.join(fd)).ok()?;
    let of = whose(run, &target, stem)?;
    // The pid may have changed hands while its files were looked at.
    if process::identify(pid).ok()? != process {
        return None;
    }
    let age = up.saturating_sub(started(&process));
    Some(Thing { what: What::Process { of, part, process }, age })
}

/// The instance a path in our run directory belongs to; the kernel says so when it was removed.
fn whose(run: &Path, target: &Path, suffix: Option<&str>) -> Option<InstanceId> {
    let target = target.to_str()?;
    let target = Path::new(target.strip_suffix(" (deleted)").unwrap_or(target));
    let mut below = target.strip_prefix(run).ok()?.components();
    let first = below.next()?.as_os_str().to_str()?;
    match (suffix, below.next()) {
        (None, Some(_)) => first.parse().ok(),
        (Some(suffix), None) => first.strip_suffix(suffix)?.parse().ok(),
        _ => None,
    }
}

fn uid(dir: &Path) -> Option<u32> {
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn is_shim(dir: &Path) -> bool {
    let line = fs::read(dir.join("cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(SUBCOMMAND.as_bytes())
}

/// Device and inode of what a path leads to.
pub(super) fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(0.0))
}

fn started(process: &ProcessId) -> Duration {
    Duration::from_millis(process.start_ticks * 1000 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_place_in_our_run_directory_says_whose_a_process_is() {
        let id = InstanceId::from_bits(0xbeef);
        let run = Path::new("/run/mvm/vm");
        let vm = |path: &str| whose(run, Path::new(path), None);
        assert_eq!(vm("/run/mvm/vm/i-0000beef/console.fifo"), Some(id));
        assert_eq!(vm("/run/mvm/vm/i-0000beef/console.fifo (deleted)"), Some(id));
        assert_eq!(vm("/run/other/vm/i-0000beef/console.fifo"), None);
        assert_eq!(vm("/run/mvm/vm/i-0000beef"), None);
        assert_eq!(vm("/run/mvm/vm/i-0000beef.log"), None);
        assert_eq!(vm("/run/mvm/vm/../i-0000beef/x"), None);
        let log = |path: &str| whose(run, Path::new(path), Some(".log"));
        assert_eq!(log("/run/mvm/vm/i-0000beef.log"), Some(id));
        assert_eq!(log("/run/mvm/vm/i-0000beef/console.log"), None);
    }

    #[test]
    fn a_process_of_somebody_else_is_none_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        assert!(find(dir.path()).things.is_empty());
        let us = process::identify(std::process::id()).unwrap();
        assert!(uptime() >= started(&us));
    }
}
