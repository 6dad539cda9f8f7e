//! Which package versions an image is made from.
//!
//! apt itself resolves, against an *empty* system (no package installed) and preferring the
//! distribution's own archives over third parties', so the answer depends on the signed lists
//! alone and not on what this host happens to have. The answer is kept until the lists change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mvm_model::Digest;
use serde::{Deserialize, Serialize};

use super::Control;
use super::apt;
use super::catalog::PackageSet;
use super::error::PackageError;
use super::os::{Arch, Distro};
use super::process::{Interrupt, Job, run};

const LIMIT: Duration = Duration::from_secs(60);
/// Part of the key: answers of another resolver are not used.
const VERSION: u32 = 1;

/// One package file as the signed lists describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The file name of its `.deb`.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Digest,
}

/// The packages of one set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// What the answer depends on.
    key: Digest,
    /// The packages, sorted by name.
    pub packages: Vec<Package>,
}

/// Asks apt for the packages of `set`, or takes the kept answer while the lists are the same.
pub(super) fn resolve(
    dir: &Path,
    distro: Distro,
    arch: Arch,
    set: PackageSet,
    control: Control<'_>,
) -> Result<Resolved, PackageError> {
    let key = key(distro, arch, set);
    let kept = dir.join(format!("resolved-{}-{arch}.json", set.as_str()));
    if let Some(known) = read(&kept).filter(|known| known.key == key) {
        return Ok(known);
    }
    control.say(format!("choosing {} packages", set.as_str()));
    let apt = Apt::prepare(dir, distro)?;
    let packages = ask(&apt, distro, arch, set, control)?;
    let resolved = Resolved { key, packages };
    keep(&kept, &resolved)?;
    Ok(resolved)
}

fn read(path: &Path) -> Option<Resolved> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// A lost answer is asked for again, so it need not be durable, only whole.
fn keep(path: &Path, resolved: &Resolved) -> Result<(), PackageError> {
    let temp = path.with_extension("new");
    let text = serde_json::to_vec(resolved).unwrap_or_default();
    fs::write(&temp, text).and_then(|()| fs::rename(&temp, path)).map_err(io("write", path))
}

pub(super) fn io<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl Fn(std::io::Error) -> PackageError + 'a {
    move |source| match source.kind() {
        std::io::ErrorKind::StorageFull => {
            PackageError::NoSpace { what: format!("to {what} files"), path: path.into() }
        }
        _ => PackageError::Io { what, path: path.into(), source },
    }
}

/// Changes with the package lists and where they come from.
fn key(distro: Distro, arch: Arch, set: PackageSet) -> Digest {
    let mut text = format!("{VERSION} {distro:?} {arch} {}\n", set.as_str());
    let places = ["/var/lib/apt/lists", "/etc/apt", "/etc/apt/sources.list.d"];
    for place in places.map(Path::new) {
        let mut lines: Vec<String> =
            fs::read_dir(place).into_iter().flatten().flatten().filter_map(|e| stamp(&e)).collect();
        lines.sort();
        text.extend(lines);
    }
    Digest::of(text.as_bytes())
}

fn stamp(entry: &fs::DirEntry) -> Option<String> {
    let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
    let name = entry.file_name();
    // The lock changes without the lists changing.
    let named = name != "lock";
    named.then(|| format!("{name:?} {} {}.{}\n", meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// apt with an empty system of its own; shares only the signed lists and the sources.
pub(super) struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// Writes what apt needs below `dir`.
    pub(super) fn prepare(dir: &Path, distro: Distro) -> Result<Self, PackageError> {
        let own = dir.join("apt");
        fs::create_dir_all(&own).map_err(io("create", &own))?;
        let preferences = own.join("preferences");
        let origin = distro.origin();
        let pin = format!("Package: *\nPin: release o={origin}\nPin-Priority: 990\n");
        fs::write(&preferences, pin).map_err(io("write", &preferences))?;
        let file = |name: &str| own.join(name).display().to_string();
        let options = vec![
            "Dir::State::status=/dev/null".into(),
            format!("Dir::Etc::preferences={}", file("preferences")),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            format!("Dir::Cache::pkgcache={}", file("pkgcache.bin")),
            format!("Dir::Cache::srcpkgcache={}", file("srcpkgcache.bin")),
            "APT::Install-Suggests=false".into(),
        ];
        Ok(Self { options })
    }

    /// `apt-get` with this configuration.
    pub(super) fn command(&self) -> Command {
        let mut command = apt::apt_get();
        command.args(self.options.iter().map(|option| format!("-o{option}")));
        command
    }
}

fn ask(
    apt: &Apt,
    distro: Distro,
    arch: Arch,
    set: PackageSet,
    control: Control<'_>,
) -> Result<Vec<Package>, PackageError> {
    let what = format!("resolving {}", set.root(distro, arch));
    let mut command = apt.command();
    command.args(["--simulate", "install", set.root(distro, arch)]);
    let mut wanted = apt::simulated(&said(&what, command, control)?);
    wanted.retain(|(name, _)| set.wants(name));
    wanted.sort();
    if wanted.is_empty() {
        return Err(PackageError::NotFound { what, detail: "apt chose nothing".into() });
    }
    let mut command = apt.command();
    // Ubuntu's lists name SHA-512 too, and apt would print that.
    command.args(["-oAcquire::ForceHash=SHA256", "download", "--print-uris"]).current_dir("/");
    command.args(wanted.iter().map(|(name, version)| format!("{name}={version}")));
    let uris = apt::uris(&said(&what, command, control)?);
    wanted.into_iter().map(|(name, version)| describe(&what, name, version, &uris)).collect()
}

fn describe(
    what: &str,
    name: String,
    version: String,
    uris: &[apt::Uri],
) -> Result<Package, PackageError> {
    let ours = |uri: &&apt::Uri| uri.file.split('_').next() == Some(name.as_str());
    let uri = uris.iter().find(ours).and_then(|uri| Some((uri, uri.sha256.parse().ok()?)));
    match uri {
        Some((uri, sha256)) => {
            Ok(Package { name, version, file: uri.file.clone(), size: uri.size, sha256 })
        }
        None => Err(PackageError::NotFound {
            what: what.into(),
            detail: format!("{name} {version} has no file with a digest"),
        }),
    }
}

fn said(what: &str, command: Command, control: Control<'_>) -> Result<String, PackageError> {
    let (cancel, interrupt) = (control.cancel, Interrupt::Kill);
    let job = Job { what, command, deadline: LIMIT, cancel, interrupt, log: None, on_line: None };
    let output = run(job)?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(apt::classify(what, &output, None)),
    }
}

/// Forgets kept answers, so that the next one is apt's.
pub(super) fn forget(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("resolved-") {
            let _: Result<(), _> = fs::remove_file::<PathBuf>(entry.path());
        }
    }
}
