//! Packages as files: downloaded by apt, checked against the signed lists, kept by name.
//!
//! A `.deb` in the cache was whole when it was renamed into place; its digest is compared again
//! each time it is unpacked, because what comes out of it runs in guests.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_model::Digest;
use sha2::{Digest as _, Sha256};

use super::catalog::PackageSet;
use super::error::PackageError;
use super::os::{Arch, Distro};
use super::process::{Interrupt, Job, command, run};
use super::resolve::{Apt, Package, Resolved, forget, io, resolve};
use super::{Control, apt, install};

const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);
const UNPACK_LIMIT: Duration = Duration::from_secs(120);

/// Brings packages into a cache directory.
#[derive(Debug, Clone)]
pub struct Fetcher {
    dir: PathBuf,
    distro: Distro,
    arch: Arch,
}

impl Fetcher {
    /// A fetcher that keeps its files in `dir`, which is created. One at a time per directory:
    /// the caller holds the image store's lock.
    pub fn open(dir: &Path, distro: Distro, arch: Arch) -> Result<Self, PackageError> {
        let debs = dir.join("debs");
        fs::create_dir_all(&debs).map_err(io("create", &debs))?;
        Ok(Self { dir: dir.into(), distro, arch })
    }

    /// The packages of `set` that apt would choose now. Refreshes the lists when they do not
    /// know the package; otherwise needs no network.
    pub fn resolve(&self, set: PackageSet, control: Control<'_>) -> Result<Resolved, PackageError> {
        let once = || resolve(&self.dir, self.distro, self.arch, set, control);
        match once() {
            Err(PackageError::NotFound { .. }) => {
                let complaint = install::update(None, control)?;
                once().map_err(|error| complaint.unwrap_or(error))
            }
            result => result,
        }
    }

    /// The packages of `set` as files, downloading those that are not there yet. When the
    /// archive has newer ones than the lists know, the lists are refreshed once, so the packages
    /// returned may differ from an earlier [`Self::resolve`].
    pub fn fetch(
        &self,
        set: PackageSet,
        control: Control<'_>,
    ) -> Result<(Resolved, Vec<PathBuf>), PackageError> {
        let resolved = self.resolve(set, control)?;
        let (resolved, files) = match self.files(&resolved, control) {
            Err(PackageError::Stale { .. }) => {
                let complaint = install::update(None, control)?;
                forget(&self.dir);
                let again = self.resolve(set, control)?;
                let files = self.files(&again, control);
                (again, files.map_err(|error| complaint.unwrap_or(error))?)
            }
            files => (resolved, files?),
        };
        Ok((resolved, files))
    }

    /// Package files below `dir` that `keep` does not name, with their sizes in bytes.
    pub(crate) fn unused_in(dir: &Path, keep: impl Fn(&str) -> bool) -> Vec<(PathBuf, u64)> {
        let entries = fs::read_dir(dir.join("debs")).into_iter().flatten().flatten();
        let unused = entries.filter(|entry| !keep(&entry.file_name().to_string_lossy()));
        unused.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).collect()
    }

    /// Removes package files below `dir` that `keep` does not name; the bytes that were freed.
    pub(crate) fn prune_in(dir: &Path, keep: impl Fn(&str) -> bool) -> u64 {
        let unused = Self::unused_in(dir, keep).into_iter();
        unused.filter_map(|(file, size)| fs::remove_file(file).ok().map(|()| size)).sum()
    }

    fn files(&self, set: &Resolved, control: Control<'_>) -> Result<Vec<PathBuf>, PackageError> {
        let place = |package: &Package| self.dir.join("debs").join(&package.file);
        let absent = |package: &&Package| {
            fs::metadata(place(package)).map_or(true, |meta| meta.len() != package.size)
        };
        let missing: Vec<&Package> = set.packages.iter().filter(absent).collect();
        if !missing.is_empty() {
            self.download(&missing, control)?;
        }
        let files: Vec<PathBuf> = set.packages.iter().map(place).collect();
        for (package, file) in set.packages.iter().zip(&files) {
            check(package, file)?;
        }
        Ok(files)
    }

    fn download(&self, list: &[&Package], control: Control<'_>) -> Result<(), PackageError> {
        let total = list.iter().map(|package| package.size).sum::<u64>() >> 10;
        let names: Vec<&str> = list.iter().map(|package| package.name.as_str()).collect();
        let what = format!("downloading {}", names.join(", "));
        control.at(&what, 0, total);
        let temp = self.download_dir()?;
        let mut command = Apt::prepare(&self.dir, self.distro)?.command();
        command.arg("-oAPT::Status-Fd=1").arg("download").current_dir(temp.path());
        command.args(list.iter().map(|p| format!("{}={}", p.name, p.version)));
        let tell = |line: &str| {
            if let Some(percent) = apt::percent(line) {
                control.at(&what, total * percent / 100, total);
            }
        };
        let (deadline, cancel, interrupt) = (DOWNLOAD_LIMIT, control.cancel, Interrupt::Kill);
        let (log, on_line) = (None, Some(&tell as &dyn Fn(&str)));
        let job = Job { what: &what, command, deadline, cancel, interrupt, log, on_line };
        let output = run(job)?;
        if output.no_space() {
            return Err(PackageError::NoSpace { what, path: self.dir.clone() });
        }
        if !output.status.success() {
            return Err(apt::classify(&what, &output, None));
        }
        list.iter().try_for_each(|package| self.adopt(package, temp.path()))
    }

    /// A new directory apt's unprivileged downloader may write to. Where it cannot be reached
    /// by that user apt downloads as root, with a note.
    fn download_dir(&self) -> Result<tempfile::TempDir, PackageError> {
        let temp = tempfile::Builder::new().prefix("download-").tempdir_in(&self.dir);
        let temp = temp.map_err(io("create a directory in", &self.dir))?;
        if let (true, Ok(Some(user))) =
            (nix::unistd::geteuid().is_root(), nix::unistd::User::from_name("_apt"))
        {
            chown(temp.path(), Some(user.uid.as_raw()), None).map_err(io("chown", temp.path()))?;
        }
        Ok(temp)
    }

    fn adopt(&self, package: &Package, from: &Path) -> Result<(), PackageError> {
        let (from, to) = (from.join(&package.file), self.dir.join("debs").join(&package.file));
        check(package, &from)?;
        chown(&from, Some(nix::unistd::geteuid().as_raw()), Some(nix::unistd::getegid().as_raw()))
            .map_err(io("chown", &from))?;
        fs::set_permissions(&from, fs::Permissions::from_mode(0o644))
            .map_err(io("chmod", &from))?;
        File::open(&from).and_then(|file| file.sync_all()).map_err(io("sync", &from))?;
        fs::rename(&from, &to).map_err(io("create", &to))
    }
}

/// Compares a package file with what the signed lists say; a wrong one is removed.
fn check(package: &Package, path: &Path) -> Result<(), PackageError> {
    if digest(path).map_err(io("read", path))? == package.sha256 {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    Err(PackageError::WrongDigest { file: path.into() })
}

fn digest(path: &Path) -> std::io::Result<Digest> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_sha256(hash.finalize().into())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Unpacks a package's files into `into` (created); none of its scripts is run.
pub fn unpack(deb: &Path, into: &Path, control: Control<'_>) -> Result<(), PackageError> {
    let name = deb.file_name().unwrap_or_default().to_string_lossy();
    let what = format!("unpacking {name}");
    control.say(&what);
    let mut command = command("dpkg-deb");
    command.arg("-x").arg(deb).arg(into);
    let (deadline, cancel, interrupt) = (UNPACK_LIMIT, control.cancel, Interrupt::Kill);
    let (log, on_line) = (None, None);
    let output = run(Job { what: &what, command, deadline, cancel, interrupt, log, on_line })?;
    match (output.status.success(), output.no_space()) {
        (true, _) => Ok(()),
        (false, true) => Err(PackageError::NoSpace { what, path: into.into() }),
        (false, false) => Err(PackageError::Tool { what, detail: output.tail(), log: None }),
    }
}
