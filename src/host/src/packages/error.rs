//! Why packages could not be had, and what a person can do about it.

use std::io;
use std::path::PathBuf;

use super::process::RunError;

/// A failure to resolve, download, unpack or install packages.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Not a distribution whose package manager we drive.
    #[error("{os} is not a system mvm can install packages on; it needs: {packages}")]
    UnsupportedOs {
        /// What the system calls itself.
        os: String,
        /// What is needed, by program and package name.
        packages: String,
    },
    /// Installing and refreshing package lists is root's.
    #[error("{what} needs root")]
    NotRoot {
        /// What was about to be done.
        what: String,
        /// The command that does it.
        command: String,
    },
    /// Another package manager is at work.
    #[error("{lock} is held by {holder}; waited {seconds} s")]
    LockHeld {
        /// The lock file.
        lock: PathBuf,
        /// `pid 4321 (unattended-upgr)`.
        holder: String,
        /// How long we waited, in seconds.
        seconds: u64,
    },
    /// The archive cannot be reached.
    #[error("{what}: the package archive cannot be reached ({detail})")]
    NoNetwork {
        /// What was being done.
        what: String,
        /// What apt said.
        detail: String,
    },
    /// The package lists do not have it.
    #[error("{what}: no such package in the configured archives ({detail})")]
    NotFound {
        /// What was being done.
        what: String,
        /// What apt said.
        detail: String,
    },
    /// A list names a file that the archive replaced since.
    #[error("{what}: the package lists are out of date ({detail})")]
    Stale {
        /// What was being done.
        what: String,
        /// What apt said.
        detail: String,
    },
    /// A package is not what the signed lists say it is.
    #[error("{file} has not the digest the signed package list names")]
    WrongDigest {
        /// The package file.
        file: PathBuf,
    },
    /// The disk is full.
    #[error("{what}: no space left on the file system of {path}")]
    NoSpace {
        /// What was being done.
        what: String,
        /// Where the space is missing.
        path: PathBuf,
    },
    /// A tool failed for another reason.
    #[error("{what} failed: {detail}")]
    Tool {
        /// What was being done.
        what: String,
        /// The end of what the tool said.
        detail: String,
        /// Where all of it is.
        log: Option<PathBuf>,
    },
    /// The package is installed and its program is still not there.
    #[error("{package} was installed but {program} is not found")]
    StillMissing {
        /// The package.
        package: String,
        /// Its program.
        program: String,
    },
    /// A child process could not be run to its end.
    #[error(transparent)]
    Run(#[from] RunError),
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
}

impl PackageError {
    /// What a person can do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnsupportedOs { .. } => {
                Some("install them with your package manager, then run the command again".into())
            }
            Self::NotRoot { command, .. } => Some(format!("run: {command}")),
            Self::LockHeld { .. } => Some("wait for it to finish, then run this again".into()),
            Self::NoNetwork { .. } => {
                Some("check the network, the proxy and /etc/apt/sources.list*".into())
            }
            Self::NotFound { .. } => {
                Some("run apt-get update, and enable the distribution's main archive".into())
            }
            Self::Stale { .. } => Some("run: apt-get update".into()),
            Self::WrongDigest { file } => Some(format!("remove {} and retry", file.display())),
            Self::NoSpace { path, .. } => Some(format!("free space near {}", path.display())),
            Self::Tool { log: Some(log), .. } => Some(format!("all of it is in {}", log.display())),
            Self::Run(error) => error.hint(),
            Self::Tool { .. } | Self::StillMissing { .. } | Self::Io { .. } => None,
        }
    }

    /// Whether the caller asked for this by cancelling.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Run(RunError::Cancelled { .. }))
    }
}
