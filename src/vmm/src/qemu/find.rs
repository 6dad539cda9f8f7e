//! Where QEMU is installed and which build it is.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::args::Arch;
use crate::confine::SYSTEM_DIRS;

/// Asking a program for its version takes milliseconds; a minute means it hangs.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// An installed QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuBinary {
    /// The program, without symlinks.
    pub path: PathBuf,
    /// What `--version` calls it, build included: a snapshot of another build is not resumed.
    pub version: String,
    /// What it emulates.
    pub arch: Arch,
}

/// Why there is no usable QEMU.
#[derive(Debug, thiserror::Error)]
pub enum QemuMissing {
    /// Not installed.
    #[error("{program} is not installed (Debian and Ubuntu: package {package})")]
    NotFound {
        /// The program looked for.
        program: &'static str,
        /// What to install.
        package: &'static str,
    },
    /// Installed where a confined VMM could not find its own libraries.
    #[error("{path} is outside the system's program directories, where QEMU is confined to")]
    Outside {
        /// The program.
        path: PathBuf,
    },
    /// It does not say its version.
    #[error("failed to run {path} --version")]
    Version {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl QemuBinary {
    /// The QEMU for this host's architecture, from `PATH`.
    ///
    /// # Errors
    /// [`QemuMissing`], with what to install.
    pub async fn find() -> Result<Self, QemuMissing> {
        Self::find_in(std::env::var_os("PATH").as_deref().unwrap_or_default(), Arch::HOST).await
    }

    /// The QEMU for an architecture, from a `PATH`-like list.
    ///
    /// # Errors
    /// [`QemuMissing`].
    pub async fn find_in(path: &OsStr, arch: Arch) -> Result<Self, QemuMissing> {
        let (program, package) = names(arch);
        let found = std::env::split_paths(path)
            .filter_map(|dir| dir.join(program).canonicalize().ok())
            .find(|path| path.is_file())
            .ok_or(QemuMissing::NotFound { program, package })?;
        if !SYSTEM_DIRS.iter().any(|dir| found.starts_with(dir)) {
            return Err(QemuMissing::Outside { path: found });
        }
        let version = version(&found)
            .await
            .map_err(|source| QemuMissing::Version { path: found.clone(), source })?;
        Ok(Self { path: found, version, arch })
    }
}

fn names(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Arch::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
    }
}

async fn version(program: &Path) -> io::Result<String> {
    let run = tokio::process::Command::new(program)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_DEADLINE, run)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    parse_version(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
        io::Error::other(format!("it said no version and ended with {}", output.status))
    })
}

/// `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)` without its first three words.
fn parse_version(text: &str) -> Option<String> {
    let (_, version) = text.lines().next()?.split_once("version ")?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| crate::text::printable(version, 120))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_part_of_the_version() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(parse_version(text).unwrap(), "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)");
        for not_qemu in ["", "hello", "QEMU emulator version ", "version x"] {
            assert_eq!(parse_version(not_qemu), None);
        }
    }

    #[tokio::test]
    async fn a_missing_qemu_names_the_package() {
        let dir = tempfile::tempdir().unwrap();
        let error = QemuBinary::find_in(dir.path().as_os_str(), Arch::X86_64).await.unwrap_err();
        assert!(error.to_string().contains("package qemu-system-x86"), "{error}");
    }

    #[tokio::test]
    async fn a_qemu_outside_the_system_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("qemu-system-x86_64"), "").unwrap();
        let error = QemuBinary::find_in(dir.path().as_os_str(), Arch::X86_64).await.unwrap_err();
        assert!(matches!(error, QemuMissing::Outside { .. }), "{error}");
    }
}
