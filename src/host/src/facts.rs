//! Facts about this host, read fresh when asked.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use libsystemd::id128;
use mvm_model::Digest;

use crate::file::{self, Context, FileError};

/// The application id the node id is derived with, so that it reveals nothing of the machine id.
const APPLICATION: &str = "6d766d00c0de4f1e8a1dfeed5eed0001";

/// What of this host matters to snapshots and messages.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Facts {
    /// Architecture, `x86_64` or `aarch64`.
    pub arch: String,
    /// `uname -r`.
    pub kernel: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// CPU model and a digest of its feature flags.
    pub cpu_class: String,
    /// CPUs online.
    pub cpus: u32,
    /// Memory, MiB.
    pub mem_mib: u64,
}

impl Facts {
    /// Reads them from `/proc`. What cannot be read is empty and equals nothing that was recorded.
    pub fn read() -> Self {
        let text = |path| Ok(fs::read_to_string(path).unwrap_or_default());
        let Ok(facts) = Self::gather(text) as Result<_, Infallible>;
        facts
    }

    /// The same, for what is decided by them and cannot be taken back.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn all() -> Result<Self, FileError> {
        Self::gather(|path| fs::read_to_string(path).doing("read", Path::new(path)))
    }

    fn gather<E>(text: impl Fn(&'static str) -> Result<String, E>) -> Result<Self, E> {
        Ok(Self {
            arch: std::env::consts::ARCH.to_owned(),
            kernel: text("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            boot_id: text("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            cpu_class: cpu_class(&text("/proc/cpuinfo")?),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            mem_mib: total_mib(&text("/proc/meminfo")?),
        })
    }
}

impl Facts {
    /// Changes with every boot; all that this fact costs is reading it.
    pub fn boot_id() -> String {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    }
}

fn field<'a>(text: &'a str, names: &[&str]) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        names.contains(&name.trim()).then(|| value.trim())
    })
}

fn cpu_class(cpuinfo: &str) -> String {
    let model = field(cpuinfo, &["model name", "CPU part"]).unwrap_or("unknown");
    let flags = field(cpuinfo, &["flags", "Features"]).unwrap_or_default();
    format!("{model} #{}", Digest::of(flags.as_bytes()).short())
}

fn total_mib(meminfo: &str) -> u64 {
    let kib = field(meminfo, &["MemTotal"])
        .and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// This host's id: derived from the machine id, else drawn once; kept in `<state>/node-id`.
///
/// # Errors
/// When it cannot be kept.
pub fn node_id(state_dir: &Path, draw: impl FnOnce() -> String) -> Result<String, FileError> {
    let path = state_dir.join("node-id");
    if let Ok(text) = fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let id = derived().unwrap_or_else(draw);
    // Two first commands at once must agree: the name is given once, by a link.
    // Two of one process, too.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let mine = state_dir.join(format!(".node-id.{}.{call}", std::process::id()));
    file::write_durably(&mine, format!("{id}\n").as_bytes())?;
    let linked = fs::hard_link(&mine, &path);
    file::remove_file(&mine)?;
    match linked {
        Ok(()) => file::sync_dir(state_dir).map(|()| id),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(&path).doing("read", &path)?;
            Ok(text.trim().to_owned())
        }
        Err(error) => Err(error).doing("write", &path),
    }
}

fn derived() -> Option<String> {
    let application = id128::Id128::parse_str(APPLICATION).ok()?;
    id128::get_machine_app_specific(&application).ok().map(|id| id.dashed_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_class_changes_with_a_flag() {
        let cpu = |flags| format!("processor : 0\nmodel name : EPYC\nflags : {flags}\n");
        assert!(cpu_class(&cpu("sse avx")).starts_with("EPYC #"));
        assert_ne!(cpu_class(&cpu("sse avx")), cpu_class(&cpu("sse")));
    }

    #[test]
    fn a_node_id_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = node_id(dir.path(), || "drawn".into()).unwrap();
        assert_eq!(node_id(dir.path(), || "other".into()).unwrap(), first);
        fs::write(dir.path().join("node-id"), "given\n").unwrap();
        assert_eq!(node_id(dir.path(), || "other".into()).unwrap(), "given");
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = Facts::read();
        assert!(facts.mem_mib > 0 && facts.cpus > 0 && !facts.boot_id.is_empty());
        assert_eq!(Facts::all().unwrap(), facts);
    }
}
