//! Where a pool's image comes from.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{FlakeRef, Profile, Role};
use crate::id::Digest;
use crate::name::ProfileName;

/// Where a pool's image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ImageSource {
    /// Built by Nix from a flake (or, for mvm's own image set, by the embedded builder).
    Flake {
        /// The flake; a path is absolute in a record.
        #[serde(rename = "ref")]
        reference: FlakeRef,
        /// Which of the flake's profiles.
        profile: ProfileName,
        /// The role the image is made for; the pool's own when `None`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<Role>,
    },
    /// Built by the embedded builder.
    Embedded {
        /// Which of its profiles.
        profile: Profile,
        /// The role the image is made for; the pool's own when `None`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<Role>,
    },
    /// A revision that is in the store already.
    Revision {
        /// Its digest.
        digest: Digest,
    },
    /// A container image. Reserved: nothing builds from it yet, and everything refuses it.
    Oci {
        /// Its reference.
        reference: String,
    },
}

impl ImageSource {
    /// A profile of the embedded builder, for the pool's own role.
    pub const fn embedded(profile: Profile) -> Self {
        Self::Embedded { profile, role: None }
    }

    /// A profile of a flake, for the pool's own role.
    pub const fn flake(reference: FlakeRef, profile: ProfileName) -> Self {
        Self::Flake { reference, profile, role: None }
    }

    /// The role its image is made for, in a pool of role `pool`.
    pub fn role<'a>(&'a self, pool: &'a Role) -> &'a Role {
        match self {
            Self::Flake { role: Some(role), .. } | Self::Embedded { role: Some(role), .. } => role,
            _ => pool,
        }
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flake { reference, profile, .. } => write!(f, "{reference}#{profile}"),
            Self::Embedded { profile, .. } => write!(f, "{profile}"),
            Self::Revision { digest } => write!(f, "revision {}", digest.short()),
            Self::Oci { reference } => write!(f, "oci {reference}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_every_version_are_read() {
        let read = |text: &str| serde_json::from_str::<ImageSource>(text).unwrap();
        let old = read(r#"{"kind":"flake","ref":".","profile":"minimal"}"#);
        let profile: ProfileName = "minimal".parse().unwrap();
        assert_eq!(old, ImageSource::flake(".".parse().unwrap(), profile));
        assert_eq!(old.role(&Role::Gateway), &Role::Gateway);
        let new = read(r#"{"kind":"embedded","profile":"hello","role":"worker"}"#);
        assert_eq!(new.role(&Role::Gateway), &Role::Worker);
        for source in [old, new] {
            assert_eq!(read(&serde_json::to_string(&source).unwrap()), source);
        }
    }

    #[test]
    fn a_stored_reference_is_checked_again() {
        let bad = r#"{"kind":"flake","ref":"--impure","profile":"minimal"}"#;
        assert!(serde_json::from_str::<ImageSource>(bad).is_err());
    }
}
