//! Installing Firecracker: from a directory somebody filled, or from its publisher.
//!
//! ```text
//! DIR/{firecracker,jailer} ──copy──▶ <state>/bin/.new/ ─ checked ─ renamed ─▶ <state>/bin/
//! its release's archive ── digest ── unpacked ──┘
//! ```
//!
//! What is checked is the copy, which nobody but root can change any more. An archive is fetched
//! only when its publisher's digest is known, and thrown away when it is another.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mvm_host::file;
use mvm_model::Digest;
use mvm_vmm::firecracker::{ALLOWED, Binaries, NotAllowed, Search};

use crate::error::{About, Classify, Error, Kind, Result};
use crate::service::Service;

/// Both programs.
const PROGRAMS: [&str; 2] = ["jailer", "firecracker"];
/// How long a download may take.
const FETCH: Duration = Duration::from_secs(300);
/// No release is larger.
const MAX_ARCHIVE: &str = "100000000";

/// An archive a publisher offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its address.
    pub url: String,
    /// Its digest, as the publisher states it.
    pub digest: Digest,
}

impl Release {
    /// The release this mvm was tested with; `None` while nobody has read its digest from its
    /// publisher: a digest made up from a download would prove nothing.
    pub fn pinned() -> Option<Self> {
        None
    }
}

impl Service {
    /// Installs both programs of a directory, if they are a build that is run.
    ///
    /// # Errors
    /// [`Kind::Refused`] for another version or build, [`Kind::NotFound`] where one is missing.
    pub async fn install_firecracker(&self, from: &Path) -> Result<Binaries> {
        let bin = self.dirs.bin();
        let new = bin.join(".new");
        let copy = || -> io::Result<()> {
            file::remove_dir(&new).map_err(io::Error::other)?;
            fs::create_dir_all(&new)?;
            for dir in [&bin, &new] {
                fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
            }
            PROGRAMS.iter().try_for_each(|name| copy_program(from, name, &new))
        };
        copy().map_err(|error| cannot_install(from, &error))?;
        let search = Search { dirs: vec![new.clone()], ..Search::default() };
        let checked = Binaries::find(&search).await;
        if let Err(error) = checked {
            let _ = file::remove_dir(&new);
            return Err(error).about("", "install Firecracker");
        }
        // The VMM last: until then the old pair, or a mixed one that is refused, is there.
        for name in PROGRAMS {
            file::rename_durably(&new.join(name), &bin.join(name))
                .about("", "install Firecracker")?;
        }
        file::remove_dir(&new).about("", "install Firecracker")?;
        let installed = Search { dirs: vec![bin], ..Search::default() };
        Binaries::find(&installed).await.about("", "use what was installed")
    }

    /// Fetches a release, and installs it if it is what its publisher says.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] without a network, [`Kind::Refused`] for another archive.
    pub async fn fetch_firecracker(&self, release: &Release) -> Result<Binaries> {
        let work = self.dirs.state.join("bin/.fetched");
        let prepared = file::remove_dir(&work).and_then(|()| file::create_dir(&work));
        prepared.about("", "fetch Firecracker")?;
        let fetched = self.fetch_into(release, &work).await;
        let removed = file::remove_dir(&work);
        let installed = fetched?;
        removed.about("", "tidy up after fetching Firecracker")?;
        Ok(installed)
    }

    async fn fetch_into(&self, release: &Release, work: &Path) -> Result<Binaries> {
        let archive = work.join("archive");
        let limit = FETCH.as_secs().to_string();
        let fetch = ["--fail", "--silent", "--show-error", "--location", "--max-time", &limit];
        let rest = ["--max-filesize", MAX_ARCHIVE, "--output", &archive.to_string_lossy()];
        run("curl", &[&fetch[..], &rest, &[&release.url]].concat()).await.map_err(|reason| {
            Error::new(Kind::Unavailable, "", "cannot fetch Firecracker")
                .because(reason)
                .hint("mvm bootstrap --firecracker DIR takes one that is there")
        })?;
        let digest = file::digest(&archive).about("", "read what was fetched")?;
        if digest != release.digest {
            let text = format!("{} is not what its publisher offers: sha256 {digest}", release.url);
            return Err(Error::new(Kind::Refused, "", text));
        }
        let (from, to) = (archive.to_string_lossy(), work.to_string_lossy());
        let unpack =
            ["--extract", "--gzip", "--no-same-owner", "--file", &from, "--directory", &to];
        run("tar", &unpack).await.map_err(|reason| {
            Error::new(Kind::Failed, "", "cannot unpack Firecracker's release").because(reason)
        })?;
        self.install_firecracker(&unpacked(work)).await
    }
}

/// A release is a directory of its own in its archive.
fn unpacked(work: &Path) -> PathBuf {
    let dirs = fs::read_dir(work).into_iter().flatten().flatten().map(|entry| entry.path());
    dirs.into_iter().find(|path| path.is_dir()).unwrap_or_else(|| work.to_owned())
}

/// Under its own name, or as a release names it: `firecracker-v1.15.1-x86_64`.
fn copy_program(from: &Path, name: &str, to: &Path) -> io::Result<()> {
    let released = ALLOWED.map(|version| format!("{name}-v{version}-{}", std::env::consts::ARCH));
    let names = std::iter::once(name).chain(released.iter().map(String::as_str));
    let found = names.map(|name| from.join(name)).find(|path| path.is_file());
    let found = found.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("there is no {name} in it"))
    })?;
    let to = to.join(name);
    fs::copy(found, &to)?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    fs::File::open(&to)?.sync_all()
}

fn cannot_install(from: &Path, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::StorageFull => Kind::DiskFull,
        _ => Kind::Failed,
    };
    let text = format!("cannot install Firecracker from {}", from.display());
    Error::new(kind, "", text)
        .because(error.to_string())
        .hint("DIR must hold the programs firecracker and jailer")
}

async fn run(program: &str, args: &[&str]) -> std::result::Result<(), String> {
    let output = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(FETCH, output).await;
    let output = output.map_err(|_| format!("{program} took too long"))?;
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

impl Classify for NotAllowed {
    fn classify(&self) -> (Kind, Option<String>) {
        match self {
            Self::NotFound { .. } => (Kind::NotFound, None),
            Self::Unreadable { .. } => (Kind::Failed, None),
            _ => {
                (Kind::Refused, Some(format!("mvm runs Firecracker {} only", ALLOWED.join(" or "))))
            }
        }
    }
}

#[cfg(test)]
mod tests;
