//! What this host is like, as the kernel tells it. What cannot be read is not there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit};

/// What the checks judge.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Facts {
    /// `ksm/run`.
    pub ksm: Option<String>,
    /// `smt/active`.
    pub smt_active: Option<String>,
    /// Name and state of each vulnerability the kernel knows.
    pub vulnerabilities: Vec<(String, String)>,
    /// `uname -r`.
    pub release: String,
    /// KVM's parameter of that name.
    pub nx_huge_pages: Option<String>,
    /// KVM's shortest period of a guest's timer, microseconds.
    pub least_timer_us: Option<u32>,
    /// Whether cgroup2 is mounted with `favordynmods`.
    pub favours_dynamic_groups: bool,
    /// `kernel.core_pattern`.
    pub core_pattern: String,
    /// Our own limit of a core file, bytes.
    pub core_limit: u64,
    /// Whether systemd-coredump is told to keep nothing.
    pub coredump_keeps_nothing: bool,
    /// Kernel settings that are there.
    pub settings: Vec<(String, i64)>,
    /// Programs and directories of mvm's with all directories above.
    pub places: Vec<Place>,
    /// Whether something keeps the kernel's clock right.
    pub is_time_synced: bool,
}

/// A file or directory, and who can change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Place {
    /// Where.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its mode with the sticky bit.
    pub mode: u32,
}

impl Facts {
    /// Reads what is below `root`: settings by name, and who owns `paths`.
    pub(super) fn read<'a>(
        root: &Path,
        settings: impl Iterator<Item = &'static str>,
        paths: impl IntoIterator<Item = &'a Path>,
    ) -> Self {
        let text = |path: &str| {
            let text = fs::read_to_string(root.join(path)).ok()?;
            Some(text.trim().to_owned())
        };
        let setting = |name: &'static str| {
            let value = text(&format!("proc/sys/{}", name.replace('.', "/")))?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let mounts = text("proc/self/mounts").unwrap_or_default();
        let cgroup2 = mounts.lines().filter(|line| line.split(' ').nth(2) == Some("cgroup2"));
        Self {
            ksm: text("sys/kernel/mm/ksm/run"),
            smt_active: text("sys/devices/system/cpu/smt/active"),
            vulnerabilities: vulnerabilities(&root.join("sys/devices/system/cpu/vulnerabilities")),
            release: text("proc/sys/kernel/osrelease").unwrap_or_default(),
            nx_huge_pages: text("sys/module/kvm/parameters/nx_huge_pages"),
            least_timer_us: text("sys/module/kvm/parameters/min_timer_period_us")
                .and_then(|text| text.parse().ok()),
            favours_dynamic_groups: cgroup2.into_iter().any(|line| line.contains("favordynmods")),
            core_pattern: text("proc/sys/kernel/core_pattern").unwrap_or_default(),
            core_limit: getrlimit(Resource::RLIMIT_CORE).map_or(0, |(soft, _)| soft),
            coredump_keeps_nothing: keeps_nothing(
                &text("etc/systemd/coredump.conf").unwrap_or_default(),
            ),
            settings: settings.filter_map(setting).collect(),
            places: paths.into_iter().flat_map(way_to).collect(),
            is_time_synced: is_time_synced(),
        }
    }
}

fn vulnerabilities(dir: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries
        .filter_map(|entry| {
            let state = fs::read_to_string(entry.path()).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), state.trim().to_owned()))
        })
        .collect();
    all.sort();
    all
}

fn keeps_nothing(settings: &str) -> bool {
    let last = |name: &str| {
        let lines = settings.lines().filter_map(|line| line.trim().strip_prefix(name));
        lines.filter_map(|rest| rest.trim_start().strip_prefix('=')).next_back().map(str::trim)
    };
    last("Storage") == Some("none") && last("ProcessSizeMax") == Some("0")
}

/// A path and every directory above it, links followed.
fn way_to(path: &Path) -> Vec<Place> {
    let Ok(real) = path.canonicalize() else { return Vec::new() };
    let place = |path: &Path| {
        let meta = fs::symlink_metadata(path).ok()?;
        Some(Place { path: path.to_owned(), uid: meta.uid(), mode: meta.mode() & 0o7777 })
    };
    real.ancestors().filter_map(place).collect()
}

/// Whoever keeps the clock right tells the kernel so.
fn is_time_synced() -> bool {
    // SAFETY: all zero is a valid `timex` that asks and changes nothing; it outlives the call.
    let (code, asked) = unsafe {
        let mut asked: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut asked), asked)
    };
    code >= 0 && asked.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_a_host_says_is_read_and_what_it_does_not_have_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/kernel/mm/ksm/run", "1\n");
        write("sys/devices/system/cpu/vulnerabilities/mds", "Vulnerable\n");
        write("proc/sys/kernel/osrelease", "6.1.0-56\n");
        write("proc/sys/kernel/dmesg_restrict", "0\n");
        write("proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw,favordynmods 0 0\n");
        write(
            "etc/systemd/coredump.conf",
            "[Coredump]\n#Storage=x\nStorage=none\nProcessSizeMax=0\n",
        );
        let names = ["kernel.dmesg_restrict", "kernel.kptr_restrict"].into_iter();
        let facts = Facts::read(dir.path(), names, []);
        assert_eq!(facts.ksm.as_deref(), Some("1"));
        assert_eq!(facts.smt_active, None);
        assert_eq!(facts.vulnerabilities, [("mds".into(), "Vulnerable".into())]);
        assert_eq!(facts.release, "6.1.0-56");
        assert_eq!(facts.settings, [("kernel.dmesg_restrict".into(), 0)]);
        assert!(facts.favours_dynamic_groups && facts.coredump_keeps_nothing);
    }

    #[test]
    fn all_that_leads_to_a_file_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let (open, file) = (dir.path().join("open"), dir.path().join("open/program"));
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(&file, "").unwrap();
        let places = way_to(&file);
        assert!(places.iter().any(|place| place.path == open && place.mode == 0o777));
        assert_eq!(places.last().unwrap().path, Path::new("/"));
        assert!(way_to(&dir.path().join("nothing")).is_empty());
    }
}
