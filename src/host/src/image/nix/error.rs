//! Why Nix did not build an image.

use crate::packages::process::RunError;

/// A failure of Nix.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    /// There is no `nix`.
    #[error("nix is not installed")]
    NotInstalled,
    /// The flake has no such image.
    #[error("{flake} provides neither {} nor {}", attributes[0], attributes[1])]
    NoAttribute {
        /// The flake.
        flake: String,
        /// What was looked for.
        attributes: [String; 2],
    },
    /// It tried and failed.
    #[error("Nix cannot build {what}: {detail}")]
    Failed {
        /// Flake and attribute.
        what: String,
        /// The part of its output that says why.
        detail: String,
    },
    /// It said something we do not understand.
    #[error("{what} is not understood: {detail}")]
    Output {
        /// What it was about.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// It did not run to its end.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl NixError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotInstalled => Some("check that Nix is installed: nix --version".into()),
            Self::NoAttribute { flake, .. } => {
                Some(format!("'nix flake show {flake}' lists what it provides"))
            }
            Self::Failed { .. } | Self::Run(RunError::Deadline { .. }) => Some(
                "check that Nix works here: nix --version, nix store ping; \
                 the whole output is in nix-build.log of the image cache"
                    .into(),
            ),
            Self::Output { .. } => {
                Some("check which Nix this is: nix --version (2.4 or later)".into())
            }
            Self::Run(error) => error.hint(),
        }
    }

    /// Whether it was killed at its deadline.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Run(RunError::Deadline { .. }))
    }

    /// Whether the caller asked for this by cancelling.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Run(RunError::Cancelled { .. }))
    }
}
