//! Which Firecracker is installed, and whether it is one we run.
//!
//! Only versions that were tested are run: every other one is known to break something mvm needs,
//! or nobody knows. An official build is static and carries a seccomp filter; that the filter is
//! there is seen after the start, on every thread. Who built a program shows in its digest alone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_model::Digest;
use serde::{Deserialize, Serialize};

/// The versions that are run.
pub const ALLOWED: [&str; 1] = ["1.15.1"];

/// Digests of official builds, as their publisher states them. Nobody has read one from the
/// publisher yet, and a digest taken from a file at hand would prove nothing.
const PUBLISHED: [&str; 0] = [];

/// How long `--version` may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where programs are looked for.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// `MVM_FIRECRACKER`: taken as it is, also when it is missing.
    pub firecracker: Option<PathBuf>,
    /// `MVM_JAILER`, likewise.
    pub jailer: Option<PathBuf>,
    /// Directories, the first that has it wins.
    pub dirs: Vec<PathBuf>,
}

impl Search {
    /// What the environment names, then `bin` (where `mvm bootstrap` installs), then `PATH`.
    /// `var` looks a variable up.
    pub fn from_env(bin: &Path, var: impl Fn(&str) -> Option<OsString>) -> Self {
        let named = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = var("PATH").unwrap_or_default();
        Self {
            firecracker: named("MVM_FIRECRACKER"),
            jailer: named("MVM_JAILER"),
            dirs: std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path)).collect(),
        }
    }

    /// Whether both programs are there; whether they can be used is [`Binaries::find`]'s to say.
    pub fn finds_both(&self) -> bool {
        self.find("firecracker", self.firecracker.as_ref()).is_ok()
            && self.find("jailer", self.jailer.as_ref()).is_ok()
    }

    fn find(&self, name: &'static str, named: Option<&PathBuf>) -> Result<PathBuf, NotAllowed> {
        let in_dirs = || self.dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
        let found = named.cloned().or_else(in_dirs).ok_or(NotAllowed::NotFound { name })?;
        found.canonicalize().map_err(|source| NotAllowed::Unreadable { path: found, source })
    }
}

/// Why there is no Firecracker that can be run.
#[derive(Debug, thiserror::Error)]
pub enum NotAllowed {
    /// Nowhere to be found.
    #[error("{name} is not installed")]
    NotFound {
        /// The program.
        name: &'static str,
    },
    /// It cannot be read or run.
    #[error("failed to read {}", path.display())]
    Unreadable {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than root can change it.
    #[error("{} or a directory above it can be changed by others than root", path.display())]
    Writable {
        /// The program.
        path: PathBuf,
    },
    /// It needs libraries, which an official build does not and a jail does not have.
    #[error("{} is no static build", path.display())]
    Dynamic {
        /// The program.
        path: PathBuf,
    },
    /// A program of that name that is something else, or broken.
    #[error("{} does not say a version", path.display())]
    NoVersion {
        /// The program.
        path: PathBuf,
    },
    /// The jailer is of another version.
    #[error("firecracker is {firecracker} and its jailer is {jailer}")]
    Mixed {
        /// Firecracker's version.
        firecracker: String,
        /// The jailer's.
        jailer: String,
    },
    /// A version that is not run.
    #[error("Firecracker {version} is not run: {}", known_problem(version))]
    Version {
        /// The version.
        version: String,
    },
}

/// An installed Firecracker with its jailer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binaries {
    /// The VMM.
    pub firecracker: PathBuf,
    /// The program that locks it in.
    pub jailer: PathBuf,
    /// Like `1.15.1`.
    pub version: String,
    /// Digest of the VMM.
    pub digest: Digest,
    /// Digest of the jailer, which runs as root.
    pub jailer_digest: Digest,
}

/// What is known of who built a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Its publisher states its digest.
    Published,
    /// This host's configuration names its digest.
    Configured,
    /// Nobody vouches for it.
    Unlisted,
}

impl Binaries {
    /// Finds both programs and checks them.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub async fn find(search: &Search) -> Result<Self, NotAllowed> {
        let firecracker = search.find("firecracker", search.firecracker.as_ref())?;
        let jailer = search.find("jailer", search.jailer.as_ref())?;
        for path in [&firecracker, &jailer] {
            check_file(path)?;
        }
        let version = version(&firecracker, "Firecracker v").await?;
        let of_jailer = self::version(&jailer, "Jailer v").await?;
        if version != of_jailer {
            return Err(NotAllowed::Mixed { firecracker: version, jailer: of_jailer });
        }
        if !ALLOWED.contains(&version.as_str()) {
            return Err(NotAllowed::Version { version });
        }
        let (digest, jailer_digest) = (digest_of(&firecracker)?, digest_of(&jailer)?);
        Ok(Self { firecracker, jailer, version, digest, jailer_digest })
    }

    /// Version and build: a snapshot of another one is not resumed.
    pub fn build(&self) -> String {
        format!("{} ({})", self.version, self.digest.short())
    }

    /// Who vouches for the VMM and who for its jailer; `configured` is what this host's
    /// configuration names.
    pub fn origins(&self, configured: &[Digest]) -> [Origin; 2] {
        [&self.digest, &self.jailer_digest].map(|digest| origin(digest, configured))
    }
}

fn origin(digest: &Digest, configured: &[Digest]) -> Origin {
    match PUBLISHED.contains(&digest.to_string().as_str()) {
        true => Origin::Published,
        false if configured.contains(digest) => Origin::Configured,
        false => Origin::Unlisted,
    }
}

fn digest_of(path: &Path) -> Result<Digest, NotAllowed> {
    let failed = |source| NotAllowed::Unreadable { path: path.to_owned(), source };
    fs::read(path).map(|bytes| Digest::of(&bytes)).map_err(failed)
}

/// Why a version is not run.
pub fn known_problem(version: &str) -> &'static str {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (1, 15, 1) => "nothing is known against it",
        (0, ..) | (1, 0..=13, _) | (1, 14, 0) => {
            "its jailer follows links a local user may have laid (CVE-2026-1386)"
        }
        (1, 14, _) => "its vsock reuses a port after a wake, which cuts a new connection",
        (1, 15, 0) => "a guest can make it take memory without end through its entropy device",
        (1, 16, 0) => "the guest's vsock is dead for good after a wake",
        (1, 16, 1) => "the way into the guest is dead for good after a bare pause and resume",
        _ => "it was not tested with mvm",
    }
}

/// A program that root runs must be root's, and so must be the whole way to it; and it needs
/// nothing but itself. `path` has no links in it. In a directory like `/tmp` nobody can rename what
/// is another's.
fn check_file(path: &Path) -> Result<(), NotAllowed> {
    const STICKY: u32 = 0o1000;
    let failed = |source| NotAllowed::Unreadable { path: path.to_owned(), source };
    for place in path.ancestors() {
        let meta = fs::metadata(place).map_err(failed)?;
        let shared = meta.is_dir() && meta.mode() & STICKY != 0;
        if meta.uid() != 0 || (meta.mode() & 0o022 != 0 && !shared) {
            return Err(NotAllowed::Writable { path: path.to_owned() });
        }
    }
    match is_static(path).map_err(failed)? {
        true => Ok(()),
        false => Err(NotAllowed::Dynamic { path: path.to_owned() }),
    }
}

/// Whether a 64-bit ELF program names no interpreter.
fn is_static(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(8192).read_to_end(&mut head)?;
    interpreter_free(&head).ok_or_else(|| io::Error::other("it is no 64-bit ELF program"))
}

fn interpreter_free(head: &[u8]) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    let bytes = |at: usize, count: usize| head.get(at..at.checked_add(count)?);
    let half = |at| Some(usize::from(u16::from_le_bytes(bytes(at, 2)?.try_into().ok()?)));
    if bytes(0, 5)? != b"\x7fELF\x02" {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(bytes(32, 8)?.try_into().ok()?)).ok()?;
    let (size, count) = (half(54)?, half(56)?);
    for index in 0..count {
        let kind = bytes(table.checked_add(index * size)?, 4)?;
        if u32::from_le_bytes(kind.try_into().ok()?) == INTERPRETER {
            return Some(false);
        }
    }
    Some(true)
}

async fn version(program: &Path, words: &str) -> Result<String, NotAllowed> {
    let run = tokio::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, run).await.ok().and_then(Result::ok);
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = text.and_then(|text| parse_version(&text, words));
    version.ok_or_else(|| NotAllowed::NoVersion { path: program.to_owned() })
}

/// `Firecracker v1.15.1` on the first line.
fn parse_version(text: &str, words: &str) -> Option<String> {
    let version = text.lines().next()?.trim().strip_prefix(words)?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| crate::text::printable(version, 40))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_firecrackers_own_words_count() {
        let parse = |text| parse_version(text, "Firecracker v");
        assert_eq!(parse("Firecracker v1.15.1\n\nexit"), Some("1.15.1".into()));
        for other in ["", "Firecracker", "bash 5", "Firecracker vX", "Jailer v1.15.1"] {
            assert_eq!(parse(other), None);
        }
    }

    #[test]
    fn every_refused_version_has_its_reason() {
        for version in ["0.25.0", "1.13.1", "1.14.0", "1.14.4", "1.15.0", "1.16.0", "1.16.1"] {
            assert!(!ALLOWED.contains(&version));
            assert!(!known_problem(version).contains("not tested"), "{version}");
        }
        assert_eq!(known_problem("1.17.0"), "it was not tested with mvm");
    }

    #[test]
    fn a_named_program_hides_all_others() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("firecracker"), "").unwrap();
        let var = |name: &str| (name == "MVM_FIRECRACKER").then(|| OsString::from("/missing"));
        let search = Search::from_env(dir.path(), var);
        let named = search.find("firecracker", search.firecracker.as_ref());
        assert!(matches!(named, Err(NotAllowed::Unreadable { .. })));
        let found = search.find("firecracker", None).unwrap();
        assert_eq!(found, dir.path().join("firecracker").canonicalize().unwrap());
        assert!(matches!(search.find("jailer", None), Err(NotAllowed::NotFound { .. })));
    }

    #[test]
    fn a_program_others_can_change_or_that_needs_libraries_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("firecracker");
        fs::copy("/proc/self/exe", &path).unwrap();
        if nix::unistd::geteuid().is_root() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            assert!(matches!(check_file(&path), Err(NotAllowed::Dynamic { .. })));
        }
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&path, 0o777);
        assert!(matches!(check_file(&path), Err(NotAllowed::Writable { .. })));
        // Also through a directory further up.
        let deep = dir.path().join("open/closed");
        fs::create_dir_all(&deep).unwrap();
        fs::copy("/proc/self/exe", deep.join("firecracker")).unwrap();
        mode(&deep.join("firecracker"), 0o755);
        mode(&dir.path().join("open"), 0o777);
        assert!(matches!(check_file(&deep.join("firecracker")), Err(NotAllowed::Writable { .. })));
        assert_eq!(interpreter_free(b"#!/bin/sh\n"), None);
        assert_eq!(interpreter_free(b"\x7fELF\x02"), None);
    }

    #[test]
    fn nobody_vouches_for_a_build_that_is_not_listed() {
        let (digest, jailer_digest) = (Digest::of(b"built here"), Digest::of(b"and its jailer"));
        let binaries = Binaries {
            firecracker: "/f".into(),
            jailer: "/j".into(),
            version: "1.15.1".into(),
            digest: digest.clone(),
            jailer_digest: jailer_digest.clone(),
        };
        let (unlisted, configured) = (Origin::Unlisted, Origin::Configured);
        assert_eq!(binaries.origins(&[]), [unlisted, unlisted]);
        assert_eq!(binaries.origins(std::slice::from_ref(&digest)), [configured, unlisted]);
        assert_eq!(binaries.origins(&[jailer_digest, digest]), [configured, configured]);
    }
}
