//! apt's command line, and what its output means.
//!
//! Pure apart from building a [`Command`]: [`classify`] turns what apt said (in English, see
//! `process::command`) into an error a person can act on.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::PackageError;
use super::process::{self, Output};

/// `apt-get` that never asks, retries a little and gives up on a silent server.
pub(super) fn apt_get() -> Command {
    let mut command = process::command("apt-get");
    command.args(["-q", "-y", "--no-install-recommends"]).args(OPTIONS.map(|o| format!("-o{o}")));
    command.env("DEBIAN_FRONTEND", "noninteractive").env("DEBIAN_PRIORITY", "critical");
    command.env("NEEDRESTART_SUSPEND", "1").env("APT_LISTCHANGES_FRONTEND", "none");
    command
}

const OPTIONS: [&str; 6] = [
    "Dpkg::Use-Pty=0",
    "DPkg::Lock::Timeout=10",
    "Acquire::Retries=2",
    "Acquire::http::Timeout=20",
    "Acquire::https::Timeout=20",
    "Dpkg::Options::=--force-confold",
];

/// What apt said, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lock,
    NotRoot,
    Network,
    Stale,
    NotFound,
}

/// Looked for in this order: a stale list also says "failed to fetch", as a dead network does.
const MEANINGS: [(&str, Kind); 16] = [
    ("Could not get lock", Kind::Lock),
    ("Unable to acquire the dpkg frontend lock", Kind::Lock),
    ("are you root", Kind::NotRoot),
    ("404  Not Found", Kind::Stale),
    ("404 Not Found", Kind::Stale),
    ("Temporary failure resolving", Kind::Network),
    ("Could not resolve", Kind::Network),
    ("Could not connect", Kind::Network),
    ("Unable to connect", Kind::Network),
    ("Cannot initiate the connection", Kind::Network),
    ("Network is unreachable", Kind::Network),
    ("Connection timed out", Kind::Network),
    ("Connection failed", Kind::Network),
    ("Unable to locate package", Kind::NotFound),
    ("has no installation candidate", Kind::NotFound),
    // Last: apt also says it of its own unprivileged downloader, which is only a warning.
    ("Permission denied", Kind::NotRoot),
];

/// The error behind apt's output, for an apt that failed.
pub(super) fn classify(what: &str, output: &Output, log: Option<&Path>) -> PackageError {
    let what = what.to_owned();
    if output.no_space() {
        return PackageError::NoSpace { what, path: "/var".into() };
    }
    let said = [output.stderr.as_str(), output.stdout.as_str()].join("\n");
    match meaning(&said) {
        Some((Kind::Lock, detail)) => locked(&detail),
        Some((Kind::NotRoot, _)) => {
            PackageError::NotRoot { what, command: "sudo apt-get update".into() }
        }
        Some((Kind::Network, detail)) => PackageError::NoNetwork { what, detail },
        Some((Kind::Stale, detail)) => PackageError::Stale { what, detail },
        Some((Kind::NotFound, detail)) => PackageError::NotFound { what, detail },
        None => PackageError::Tool { what, detail: output.tail(), log: log.map(Into::into) },
    }
}

/// Whether an `apt-get update` that exited 0 could in truth not reach an archive, and why.
pub(super) fn complaint(what: &str, output: &Output) -> Option<PackageError> {
    match meaning(&output.stderr) {
        Some((Kind::Network, detail)) => {
            Some(PackageError::NoNetwork { what: what.into(), detail })
        }
        _ => None,
    }
}

fn meaning(said: &str) -> Option<(Kind, String)> {
    MEANINGS.iter().find_map(|(words, kind)| {
        let line = said.lines().find(|line| line.contains(words))?;
        let line = line.trim().trim_start_matches(['E', 'W', ':', ' ']);
        Some((*kind, line.chars().take(300).collect()))
    })
}

/// `Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 77 (apt-get)`.
fn locked(detail: &str) -> PackageError {
    let lock = detail.split_whitespace().find(|word| word.starts_with('/'));
    let lock = lock.unwrap_or("/var/lib/dpkg/lock-frontend").trim_end_matches('.');
    let holder = detail.split_once("held by process ").map(|(_, rest)| rest.trim());
    PackageError::LockHeld {
        lock: PathBuf::from(lock),
        holder: holder.map_or("another process".into(), |pid| format!("pid {pid}")),
        seconds: 10,
    }
}

/// `Inst name (version Origin:12/suite [arch])` lines of a simulation.
pub(super) fn simulated(stdout: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let mut words = line.strip_prefix("Inst ")?.split_whitespace();
        let name = words.next()?;
        // An upgrade would say `[old] (new …`; on an empty system there is nothing to upgrade.
        let version = words.find_map(|word| word.strip_prefix('('))?;
        Some((name.to_owned(), version.trim_end_matches(')').to_owned()))
    };
    stdout.lines().filter_map(line).collect()
}

/// A line of `--print-uris`: `'uri' file size SHA256:hex`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uri {
    /// The file name apt gives it.
    pub(super) file: String,
    /// Its size in bytes.
    pub(super) size: u64,
    /// Its SHA-256, 64 lower-case hex digits.
    pub(super) sha256: String,
}

/// The files a download would bring, as the signed lists describe them.
pub(super) fn uris(stdout: &str) -> Vec<Uri> {
    let line = |line: &str| {
        let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split_whitespace();
        let (file, size, hash) = (words.next()?, words.next()?, words.next()?);
        let sha256 = hash.strip_prefix("SHA256:")?.to_owned();
        let plain = !file.contains('/') && file.ends_with(".deb") && sha256.len() == 64;
        plain.then_some(Uri { file: file.to_owned(), size: size.parse().ok()?, sha256 })
    };
    stdout.lines().filter_map(line).collect()
}

/// Percent done of a `dlstatus:1:42.5:Retrieving file 2 of 9` or `pmstatus:…` line.
pub(super) fn percent(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("dlstatus:").or_else(|| line.strip_prefix("pmstatus:"))?;
    let percent: f64 = rest.split(':').nth(1)?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn failed(stderr: &str) -> PackageError {
        let status = std::process::ExitStatus::from_raw(100 << 8);
        let output = Output { status, stdout: String::new(), stderr: stderr.into() };
        classify("installing", &output, None)
    }

    #[test]
    fn a_held_lock_names_its_holder() {
        let error = failed(
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 77 (apt-get)",
        );
        let text = error.to_string();
        assert!(text.contains("pid 77 (apt-get)") && text.contains("lock-frontend"), "{text}");
    }

    #[test]
    fn a_dead_network_a_stale_list_and_an_unknown_package_are_told_apart() {
        let network = failed("W: Failed to fetch http://x/  Temporary failure resolving 'x'");
        assert!(matches!(network, PackageError::NoNetwork { .. }));
        let stale = failed("E: Failed to fetch http://x/a.deb  404  Not Found [IP: 1.2.3.4 80]");
        assert!(matches!(stale, PackageError::Stale { .. }));
        let unknown = failed("E: Unable to locate package qemu-system-x86");
        assert!(matches!(unknown, PackageError::NotFound { .. }));
        let full = failed("E: You don't have enough free space in /var/cache/apt/archives/.");
        assert!(matches!(full, PackageError::NoSpace { .. }));
        assert!(matches!(failed("E: Sub-process died"), PackageError::Tool { .. }));
    }

    #[test]
    fn a_simulation_yields_names_and_versions() {
        let text = "Reading...\nInst libgcc-s1 (12.2.0-14 Debian:12.15/oldstable [amd64]) []\n\
                    Inst nodejs [1] (18.2~deb12u3 Debian-Security:12 [amd64])\nConf x (1 y)\nInst";
        let found = simulated(text);
        assert_eq!(found[0], ("libgcc-s1".into(), "12.2.0-14".into()));
        assert_eq!(found[1].1, "18.2~deb12u3");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn uris_with_a_path_or_without_a_digest_are_dropped() {
        let hash = "a".repeat(64);
        let text = format!(
            "'http://x/a%2b.deb' a_1%3a2_amd64.deb 928188 SHA256:{hash}\n'http://x/b.deb' \
             ../b.deb 1 SHA256:{hash}\n'http://x/c.deb' c.deb 1 MD5Sum:{hash}\nnoise"
        );
        assert_eq!(uris(&text).len(), 1);
        assert_eq!(
            (uris(&text)[0].file.as_str(), uris(&text)[0].size),
            ("a_1%3a2_amd64.deb", 928188)
        );
    }

    #[test]
    fn progress_lines_give_a_percentage() {
        assert_eq!(percent("dlstatus:1:42.5:Retrieving file 2 of 9"), Some(42));
        assert_eq!(percent("pmstatus:qemu:99.9:Installing"), Some(99));
        for other in ["Get:1 http://x", "dlstatus:1", "dlstatus:1:x:y", "dlstatus:1:-3:y"] {
            assert_eq!(percent(other), None);
        }
    }
}
