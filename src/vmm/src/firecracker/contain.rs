//! Reads back from `/proc` that a running Firecracker is confined: what was asked for is not
//! always what one has.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::placement::Limits;

/// The field that says whether a thread's system calls are filtered.
const FILTER: &str = "Seccomp";
/// How long a new thread may take until it runs.
const FIRST_RUN: Duration = Duration::from_secs(2);
/// How often it is looked again.
const LOOK: Duration = Duration::from_millis(1);

/// A Firecracker that is not as confined as it must be. It is ended.
#[derive(Debug, thiserror::Error)]
pub enum Uncontained {
    /// `/proc` does not tell.
    #[error("failed to read the confinement of process {pid}")]
    Unknown {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread has something it must not have.
    #[error("thread {tid} of the VMM has {field} {found} and must have {wanted}")]
    Thread {
        /// The thread.
        tid: String,
        /// A field of `/proc/<pid>/task/<tid>/status`.
        field: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        wanted: String,
    },
    /// It is not in the control group its limits are in.
    #[error("the VMM is in the control group {found} and must be in {wanted}")]
    Group {
        /// Where it is.
        found: String,
        /// The end of where it should be.
        wanted: String,
    },
    /// Its control group does not limit what it should: a controller is missing, or refused.
    #[error("the VMM's {file} is {found} and must be {wanted}")]
    Limit {
        /// A file of the control group.
        file: &'static str,
        /// What is there.
        found: String,
        /// What should be.
        wanted: String,
    },
}

/// Checks what holds as soon as the jailer is done: who it is and what it may not do.
pub(crate) fn check_process(pid: u32, uid: u32) -> Result<(), Uncontained> {
    check(pid, &of_process(uid))
}

/// Checks what holds once there is a virtual machine: every thread has its filter. A thread that
/// was just made takes its own before it does anything else, but it may not have run yet on a busy
/// host when the API says that it is there.
pub(crate) async fn check_vm(pid: u32, uid: u32) -> Result<(), Uncontained> {
    let mut wanted = of_process(uid);
    wanted.push((FILTER, "2".into()));
    let give_up = Instant::now() + FIRST_RUN;
    loop {
        match check(pid, &wanted) {
            Err(Uncontained::Thread { field: FILTER, .. }) if Instant::now() < give_up => {
                tokio::time::sleep(LOOK).await;
            }
            checked => return checked,
        }
    }
}

/// Checks that the process is in a control group whose path ends so, and that it has these limits.
pub(crate) fn check_group(pid: u32, wanted: &str, limits: Limits) -> Result<(), Uncontained> {
    let unknown = |source| Uncontained::Unknown { pid, source };
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(unknown)?;
    let found = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    if !found.ends_with(wanted) {
        return Err(Uncontained::Group { found: found.into(), wanted: wanted.into() });
    }
    check_limits(&Path::new("/sys/fs/cgroup").join(found.trim_start_matches('/')), limits)
}

fn check_limits(group: &Path, limits: Limits) -> Result<(), Uncontained> {
    for (file, wanted) in [
        ("memory.max", limits.memory.to_string()),
        ("cpu.max", limits.cpu_max()),
        ("pids.max", limits.tasks.to_string()),
    ] {
        // One that is not there is of a controller that is not.
        let found = fs::read_to_string(group.join(file)).unwrap_or_else(|_| "missing".into());
        let found = found.trim();
        if found != wanted {
            return Err(Uncontained::Limit { file, found: found.into(), wanted });
        }
    }
    Ok(())
}

/// The bounding set is not empty (the jailer needs its part of it), but with no new privileges
/// nothing can be had from it.
fn of_process(uid: u32) -> Vec<(&'static str, String)> {
    let none = || "0000000000000000".to_owned();
    let four = [uid; 4].map(|uid| uid.to_string()).join("\t");
    vec![
        ("Uid", four.clone()),
        ("Gid", four),
        ("CapInh", none()),
        ("CapPrm", none()),
        ("CapEff", none()),
        ("CapAmb", none()),
        ("NoNewPrivs", "1".into()),
    ]
}

fn check(pid: u32, wanted: &[(&'static str, String)]) -> Result<(), Uncontained> {
    let unknown = |source| Uncontained::Unknown { pid, source };
    for thread in fs::read_dir(format!("/proc/{pid}/task")).map_err(unknown)? {
        let thread = thread.map_err(unknown)?;
        let status = match fs::read_to_string(thread.path().join("status")) {
            // It ended while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            status => status.map_err(unknown)?,
        };
        check_thread(&thread.file_name().to_string_lossy(), &status, wanted)?;
    }
    Ok(())
}

fn check_thread(
    tid: &str,
    status: &str,
    wanted: &[(&'static str, String)],
) -> Result<(), Uncontained> {
    for (field, wanted) in wanted {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let found = line.unwrap_or_default().trim();
        if found != wanted {
            return Err(Uncontained::Thread {
                tid: tid.into(),
                field,
                found: found.into(),
                wanted: wanted.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uid: u32, capabilities: &str, seccomp: u8) -> String {
        format!(
            "Name:\tfc_vcpu 0\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\n\
             CapInh:\t0000000000000000\nCapPrm:\t{capabilities}\nCapEff:\t{capabilities}\n\
             CapBnd:\t00000000082400c3\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n\
             Seccomp:\t{seccomp}\n"
        )
    }

    #[test]
    fn a_thread_with_any_privilege_left_is_found_out() {
        let none = "0000000000000000";
        let mut wanted = of_process(7);
        wanted.push(("Seccomp", "2".into()));
        assert!(check_thread("1", &status(7, none, 2), &wanted).is_ok());
        for bad in [status(8, none, 2), status(7, "0000000000000001", 2), status(7, none, 0)] {
            assert!(check_thread("1", &bad, &wanted).is_err());
        }
        assert!(check_thread("1", "", &wanted).is_err());
    }

    #[tokio::test]
    async fn our_own_process_is_not_contained() {
        assert!(check_vm(std::process::id(), 1_900_000_000).await.is_err());
    }

    #[test]
    fn a_group_that_does_not_limit_is_none() {
        let group = tempfile::tempdir().unwrap();
        let limits = Limits { memory: 4096, cpu_percent: 125, cpu_weight: 100, tasks: 33 };
        let set = |file: &str, to: &str| fs::write(group.path().join(file), to).unwrap();
        set("cpu.max", "125000 100000\n");
        set("pids.max", "33\n");
        let lacking = check_limits(group.path(), limits).unwrap_err();
        assert!(lacking.to_string().contains("memory.max is missing"), "{lacking}");
        set("memory.max", "max\n");
        let other = check_limits(group.path(), limits).unwrap_err();
        assert!(other.to_string().contains("is max and must be 4096"), "{other}");
        set("memory.max", "4096\n");
        check_limits(group.path(), limits).unwrap();
    }
}
