//! Where the guest agent's binary comes from.
//!
//! `$MVM_GUEST`; else beside the installed program (`../libexec/mvm/mvm-guest-<arch>`); else, in
//! a checkout, built by cargo (`checkout.rs`). Never by a build script: it is another program for
//! another machine.

mod checkout;

use std::fs;
use std::path::{Path, PathBuf};

use mvm_model::Digest;

use super::elf::{NotAGuest, check_static};
use crate::packages::process::RunError;
use crate::packages::{Arch, Control};

/// The guest agent's binary, read once: what is checked is what goes into the image.
#[derive(Debug, Clone)]
pub struct GuestBinary {
    /// Where it was read from.
    pub path: PathBuf,
    /// Its SHA-256.
    pub digest: Digest,
    pub(super) bytes: Vec<u8>,
}

/// Why there is no guest agent.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The file cannot be read.
    #[error("cannot read the guest agent {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot run in a guest.
    #[error("the guest agent {path} {source}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NotAGuest,
    },
    /// Neither installed nor in a checkout.
    #[error(
        "no guest agent: $MVM_GUEST is not set, {installed} is not there, and this is no checkout"
    )]
    Nowhere {
        /// Where an installed one would be.
        installed: PathBuf,
    },
    /// The checkout cannot be built without this.
    #[error("cannot build the guest agent: {program} is not found")]
    NoCargo {
        /// `cargo`.
        program: String,
    },
    /// Rust has no target that gives a static program.
    #[error("cannot build a static guest agent: Rust's target {target} is missing ({detail})")]
    NoTarget {
        /// The target.
        target: String,
        /// What was tried.
        detail: String,
    },
    /// cargo failed.
    #[error("building the guest agent failed: {detail}")]
    Build {
        /// The end of what cargo said.
        detail: String,
    },
    /// cargo could not be run to its end.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl GuestError {
    /// What a person can do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Nowhere { installed } => Some(format!(
                "run the mvm that is in a checkout's target directory once ('cargo run -- \
                 bootstrap' there): it builds one below target/*-linux-musl/guest/mvm-guest; copy \
                 that to {}, or name it with MVM_GUEST",
                installed.display()
            )),
            Self::Read { .. } | Self::Unusable { .. } => {
                Some("set MVM_GUEST to a static mvm-guest binary for this architecture".into())
            }
            Self::NoCargo { .. } => Some("install Rust with rustup, or set MVM_GUEST".into()),
            Self::NoTarget { target, .. } => {
                Some(format!("install rustup, then run: rustup target add {target}"))
            }
            Self::Build { .. } => None,
            Self::Run(error) => error.hint(),
        }
    }

    /// Whether the caller asked for this by cancelling.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Run(RunError::Cancelled { .. }))
    }
}

/// Finds the guest agent for `arch`, building it in a checkout as the invoking user.
pub fn find_guest(arch: Arch, control: Control<'_>) -> Result<GuestBinary, GuestError> {
    if let Some(path) = std::env::var_os("MVM_GUEST").filter(|path| !path.is_empty()) {
        return read(PathBuf::from(path), arch);
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let installed = installed(&exe, arch);
    if installed.is_file() {
        return read(installed, arch);
    }
    match checkout::find(&exe) {
        Some(root) => read(checkout::build(&root, arch, control)?, arch),
        None => Err(GuestError::Nowhere { installed }),
    }
}

/// The checkout this program lies in, if any.
pub(super) fn checkout_of_this_program() -> Option<PathBuf> {
    checkout::find(&std::env::current_exe().ok()?)
}

/// `<prefix>/bin/mvm` → `<prefix>/libexec/mvm/mvm-guest-<arch>`.
fn installed(exe: &Path, arch: Arch) -> PathBuf {
    let prefix = exe.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    prefix.join("libexec/mvm").join(format!("mvm-guest-{arch}"))
}

fn read(path: PathBuf, arch: Arch) -> Result<GuestBinary, GuestError> {
    match fs::read(&path) {
        Ok(bytes) => match check_static(&bytes, arch) {
            Ok(()) => Ok(GuestBinary { path, digest: Digest::of(&bytes), bytes }),
            Err(source) => Err(GuestError::Unusable { path, source }),
        },
        Err(source) => Err(GuestError::Read { path, source }),
    }
}

impl GuestBinary {
    /// Reads and checks a guest agent for `arch` at `path`.
    pub fn read(path: &Path, arch: Arch) -> Result<Self, GuestError> {
        read(path.into(), arch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_agent_is_beside_the_program() {
        let path = installed(Path::new("/opt/mvm/bin/mvm"), Arch::Aarch64);
        assert_eq!(path, Path::new("/opt/mvm/libexec/mvm/mvm-guest-aarch64"));
    }

    #[test]
    fn a_script_or_a_missing_file_is_refused_with_its_name() {
        let error = GuestBinary::read(Path::new("/nonexistent/guest"), Arch::HOST).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/guest"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "#!/bin/sh\n").unwrap();
        let error = GuestBinary::read(file.path(), Arch::HOST).unwrap_err();
        assert!(error.to_string().contains("is not a 64-bit ELF program"), "{error}");
        assert!(error.hint().is_some());
    }
}
