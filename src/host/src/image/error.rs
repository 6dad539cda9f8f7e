//! Why an image could not be built, found or trusted, and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};

use mvm_model::Digest;
use mvm_model::image::Profile;

use super::guest::GuestError;
use super::kernel::KernelError;
use super::nix::NixError;
use super::npm::NpmError;
use crate::packages::{Arch, PackageError, process::RunError};

/// A failure to build, open, verify or link an image revision.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The embedded builder needs a distribution it knows.
    #[error("the embedded image builder does not know {os} (it knows Debian 12/13, Ubuntu 24.04)")]
    UnsupportedOs {
        /// What the system calls itself.
        os: String,
    },
    /// Packages could not be had.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// npm packages could not be had.
    #[error(transparent)]
    Npm(#[from] NpmError),
    /// The profile's programs are not made for this architecture.
    #[error("there is no image profile {profile} for {arch}")]
    NoProfile {
        /// The profile.
        profile: Profile,
        /// The architecture.
        arch: Arch,
    },
    /// Nix did not build it.
    #[error(transparent)]
    Nix(#[from] NixError),
    /// An image made elsewhere is not what we can use.
    #[error("cannot use the image: {file} {problem}")]
    Import {
        /// The file within it.
        file: String,
        /// `is missing`, `is a link, not a file`.
        problem: String,
    },
    /// There is no guest agent to put into the image.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The distribution's kernel is not what we expect.
    #[error("cannot use the kernel {file}")]
    Kernel {
        /// The kernel file.
        file: PathBuf,
        /// Why.
        #[source]
        source: KernelError,
    },
    /// A package has not the content we expect.
    #[error("package content is not as expected: {what}")]
    Content {
        /// What is missing or wrong.
        what: String,
    },
    /// No program here writes a root file system this kernel can mount.
    #[error("no program to make a root file system: {detail}")]
    NoMkfs {
        /// What was looked for.
        detail: String,
    },
    /// A tool failed.
    #[error("{what} failed: {detail}")]
    Tool {
        /// What was being done.
        what: String,
        /// The end of what the tool said.
        detail: String,
    },
    /// A tool could not be run to its end.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The disk is full. What was there before is untouched.
    #[error("no space left for {path}; earlier images are untouched")]
    NoSpace {
        /// What was being written.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}")]
    Io {
        /// The verb: `create`, `read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process builds or collects, for too long.
    #[error("the image store is in use by {holder}")]
    Busy {
        /// `pid 4321 (mvm)`.
        holder: String,
    },
    /// The store does not have it.
    #[error("image revision {digest} is not in the store")]
    NotFound {
        /// The revision asked for.
        digest: Digest,
    },
    /// A file of a revision is not what its manifest says.
    #[error("image revision {revision}: {file} {problem}")]
    Damaged {
        /// The revision.
        revision: Digest,
        /// The file within it.
        file: String,
        /// `is missing`, `was changed …`.
        problem: String,
    },
    /// The revision has no files for this architecture.
    #[error("image revision {revision} has no files for {arch}")]
    NoArch {
        /// The revision.
        revision: Digest,
        /// The architecture asked for.
        arch: String,
    },
    /// The caller stopped it.
    #[error("{what}: cancelled")]
    Cancelled {
        /// What was being done.
        what: String,
    },
}

impl ImageError {
    /// What a person can do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnsupportedOs { .. } => Some("build the image with Nix: --builder nix".into()),
            Self::Package(error) => error.hint(),
            Self::Npm(error) => error.hint(),
            Self::Nix(error) => error.hint(),
            Self::Import { .. } => {
                Some("docs/reference/image-output.md says which files an image has".into())
            }
            Self::Guest(error) => error.hint(),
            Self::Run(error) => error.hint(),
            Self::NoMkfs { .. } => Some("install erofs-utils (or run: mvm bootstrap)".into()),
            Self::NoSpace { path } => {
                Some(format!("free space near {} (mvm image gc)", parent(path).display()))
            }
            Self::NotFound { .. } => Some("build it: mvm pool build <tenant>/<pool>".into()),
            Self::Damaged { .. } => {
                Some("build it again: mvm pool build <tenant>/<pool>; it replaces the files".into())
            }
            Self::Busy { .. } => Some("wait for it to finish, then run this again".into()),
            Self::NoProfile { .. }
            | Self::Kernel { .. }
            | Self::Content { .. }
            | Self::Tool { .. }
            | Self::Io { .. }
            | Self::NoArch { .. }
            | Self::Cancelled { .. } => None,
        }
    }

    /// Whether the caller asked for this by cancelling.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled { .. } | Self::Run(RunError::Cancelled { .. }) => true,
            Self::Package(error) => error.is_cancelled(),
            Self::Nix(error) => error.is_cancelled(),
            Self::Guest(error) => error.is_cancelled(),
            _ => false,
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Turns an I/O error into ours: `.map_err(io("create", path))`.
pub(super) fn io<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ImageError + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ImageError::NoSpace { path: path.into() }
        }
        _ => ImageError::Io { what, path: path.into(), source },
    }
}
