//! Remembers what probes found, for as long as everything they depended on stays the same.
//!
//! One JSON file. Digests of programs are remembered too, by inode, size and times, so that a
//! lookup reads no large file. A damaged or foreign file is an empty cache: the price is a probe.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mvm_model::Digest;
use mvm_model::snapshot::FileStamp;
use mvm_model::vm::{Accel, VmmKind};
use serde::{Deserialize, Serialize};

use super::Outcome;

/// Format of the file.
const VERSION: u32 = 1;
/// More entries than kernels and VMMs a host has at once; older ones are dropped.
const MAX_ENTRIES: usize = 32;
/// The file is never larger.
const MAX_FILE: u64 = 1 << 20;

/// Everything an outcome depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The program.
    pub vmm: VmmKind,
    /// The accelerator.
    pub accel: Accel,
    /// This boot of the host.
    pub boot_id: String,
    /// `uname -r` of the host.
    pub host_kernel: String,
    /// The host's CPU model.
    pub cpu: String,
    /// The VMM's binary.
    pub vmm_digest: Digest,
    /// The guest's kernel.
    pub kernel_digest: Digest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    key: Key,
    outcome: Outcome,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hashed {
    stamp: FileStamp,
    digest: Digest,
}

/// The cache's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cache {
    version: u32,
    entries: Vec<Entry>,
    files: BTreeMap<PathBuf, Hashed>,
    /// Whether it holds what the file does not.
    #[serde(skip)]
    changed: bool,
}

impl Default for Cache {
    fn default() -> Self {
        Self { version: VERSION, entries: Vec::new(), files: BTreeMap::new(), changed: false }
    }
}

impl Cache {
    /// Reads a cache; one that is missing, damaged or of another version is empty.
    pub fn load(path: &Path) -> Self {
        let small = fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_FILE);
        let bytes = if small { fs::read(path).unwrap_or_default() } else { Vec::new() };
        serde_json::from_slice::<Self>(&bytes)
            .ok()
            .filter(|cache| cache.version == VERSION)
            .unwrap_or_default()
    }

    /// Writes the cache, atomically.
    ///
    /// # Errors
    /// What writing said.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str());
        match (path.parent(), name) {
            (Some(dir), Some(name)) => crate::files::write_json(dir, name, self),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the cache's path has no name")),
        }
    }

    /// The outcome of an earlier probe of exactly this.
    pub fn get(&self, key: &Key) -> Option<&Outcome> {
        self.entries.iter().find(|entry| entry.key == *key).map(|entry| &entry.outcome)
    }

    /// Whether something was learnt that storing it keeps.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Remembers an outcome, the newest first.
    pub fn put(&mut self, key: Key, outcome: Outcome) {
        self.changed = true;
        self.entries.retain(|entry| entry.key != key);
        self.entries.insert(0, Entry { key, outcome });
        self.entries.truncate(MAX_ENTRIES);
    }

    /// The digest of a file, read again only when inode, size or modification time changed. The
    /// change time is that of the last link into a jail.
    ///
    /// # Errors
    /// What reading said.
    pub fn digest(&mut self, path: &Path) -> io::Result<Digest> {
        let path = path.canonicalize()?;
        let stamp = stamp(&path)?;
        if let Some(known) = self.files.get(&path)
            && known.stamp.same_content(&stamp)
        {
            return Ok(known.digest.clone());
        }
        let digest = Digest::of(&fs::read(&path)?);
        if self.files.len() >= MAX_ENTRIES {
            self.files.clear();
        }
        self.changed = true;
        self.files.insert(path, Hashed { stamp, digest: digest.clone() });
        Ok(digest)
    }

    /// The key of probing this program with this kernel on this host.
    ///
    /// # Errors
    /// What reading the program, the kernel or the host's facts said.
    pub fn key(
        &mut self,
        (vmm, accel): (VmmKind, Accel),
        program: &Path,
        kernel: &Path,
    ) -> io::Result<Key> {
        let host_kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
        Ok(Key {
            vmm,
            accel,
            boot_id: crate::process::boot_id()?,
            host_kernel,
            cpu: cpu_model()?,
            vmm_digest: self.digest(program)?,
            kernel_digest: self.digest(kernel)?,
        })
    }
}

fn stamp(path: &Path) -> io::Result<FileStamp> {
    let meta = fs::metadata(path)?;
    let nanos = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000) + rest;
    Ok(FileStamp {
        ino: meta.ino(),
        size: meta.size(),
        mtime_ns: nanos(meta.mtime(), meta.mtime_nsec()),
        ctime_ns: nanos(meta.ctime(), meta.ctime_nsec()),
    })
}

/// The host's CPU model with family and stepping, as `/proc/cpuinfo` has it.
///
/// # Errors
/// What reading said.
pub fn cpu_model() -> io::Result<String> {
    Ok(parse_cpu(&fs::read_to_string("/proc/cpuinfo")?))
}

/// The first processor's identifying lines; x86 and arm name them differently.
fn parse_cpu(text: &str) -> String {
    const WORDS: [&str; 9] = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "CPU implementer",
        "CPU variant",
        "CPU part",
        "CPU revision",
    ];
    let mut values: Vec<&str> = Vec::new();
    for line in text.lines().take_while(|line| !line.trim().is_empty()) {
        if let Some((name, value)) = line.split_once(':')
            && WORDS.contains(&name.trim())
        {
            values.push(value.trim());
        }
    }
    crate::text::printable(&values.join(" "), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            vmm: VmmKind::Qemu,
            accel: Accel::Tcg,
            boot_id: "b".into(),
            host_kernel: "6.1".into(),
            cpu: "c".into(),
            vmm_digest: Digest::of(b"qemu"),
            kernel_digest: Digest::of(b"kernel"),
        }
    }

    #[test]
    fn an_outcome_is_found_again_until_anything_it_depends_on_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("probes.json");
        let outcome = Outcome::Proven { version: "7.2".into(), millis: 1200 };
        let mut cache = Cache::load(&path);
        cache.put(key(), outcome.clone());
        cache.store(&path).unwrap();
        let cache = Cache::load(&path);
        assert_eq!(cache.get(&key()), Some(&outcome));
        let changes: [fn(&mut Key); 6] = [
            |k| k.accel = Accel::Kvm,
            |k| k.boot_id = "rebooted".into(),
            |k| k.host_kernel = "6.2".into(),
            |k| k.cpu = "other".into(),
            |k| k.vmm_digest = Digest::of(b"upgraded"),
            |k| k.kernel_digest = Digest::of(b"rebuilt"),
        ];
        for change in changes {
            let mut other = key();
            change(&mut other);
            assert_eq!(cache.get(&other), None);
        }
    }

    #[test]
    fn a_damaged_cache_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("probes.json");
        for damage in ["", "{", "[1]", r#"{"version":2,"entries":[],"files":{}}"#] {
            fs::write(&path, damage).unwrap();
            assert!(Cache::load(&path).entries.is_empty());
        }
    }

    #[test]
    fn the_cache_stays_small() {
        let mut cache = Cache::default();
        for number in 0..100 {
            let refused = Outcome::Refused { reason: number.to_string() };
            cache.put(Key { boot_id: number.to_string(), ..key() }, refused);
        }
        assert_eq!(cache.entries.len(), MAX_ENTRIES);
        assert!(cache.get(&Key { boot_id: "99".into(), ..key() }).is_some());
    }

    #[test]
    fn a_file_is_hashed_again_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu");
        let mut cache = Cache::default();
        fs::write(&path, "one").unwrap();
        assert_eq!(cache.digest(&path).unwrap(), Digest::of(b"one"));
        fs::write(&path, "other").unwrap();
        assert_eq!(cache.digest(&path).unwrap(), Digest::of(b"other"));
    }

    #[test]
    fn the_cpu_is_named_by_its_first_processor() {
        let text = "processor\t: 0\nvendor_id\t: X\ncpu family\t: 6\nmodel\t\t: 85\n\
                    model name\t: Y\nstepping\t: 7\ncpu MHz\t\t: 2500.1\n\nprocessor\t: 1\nmodel\t: 9\n";
        assert_eq!(parse_cpu(text), "X 6 85 Y 7");
        assert!(!cpu_model().unwrap().is_empty());
    }
}
