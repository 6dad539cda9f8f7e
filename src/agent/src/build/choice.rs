//! Who builds an image of a flake.
//!
//! | asked for | Nix can | mvm's own image set | outcome |
//! |---|---|---|---|
//! | nix | not asked | – | Nix (missing: unavailable) |
//! | embedded | – | yes, profile known | embedded builder |
//! | embedded | – | no | unavailable |
//! | auto | yes | – | Nix |
//! | auto | no | yes, profile known | embedded builder, said in one line |
//! | auto | no | no | unavailable |

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mvm_host::image::{Target, is_own_flake};
use mvm_model::ProfileName;
use mvm_model::image::{BuilderChoice, Profile};

use super::SharedSink;
use crate::error::{Error, Kind, Result};
use crate::service::Service;

/// Who builds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chosen {
    /// Nix.
    Nix,
    /// The embedded builder.
    Embedded {
        /// What.
        profile: Profile,
        /// Why not Nix, when that was thought of.
        note: Option<String>,
    },
}

/// Nobody can, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Nobody {
    /// Not our flake, and no Nix to ask.
    #[error("{reason}; the embedded builder makes mvm's own images only")]
    Foreign {
        /// Why Nix cannot.
        reason: String,
    },
    /// Our flake, but not a profile we make.
    #[error("{reason}; the embedded builder has no profile {profile} ({})", known())]
    NoProfile {
        /// Why Nix cannot, or was not asked.
        reason: String,
        /// The profile.
        profile: ProfileName,
    },
}

fn known() -> String {
    Profile::ALL.map(Profile::as_str).join(", ")
}

/// The decision. `can_nix` asks Nix, which may take a while: only when it matters.
pub(super) fn choose(
    asked: BuilderChoice,
    is_own: bool,
    profile: &ProfileName,
    can_nix: impl FnOnce() -> std::result::Result<(), String>,
) -> std::result::Result<Chosen, Nobody> {
    let embedded = |reason: String, note| match (is_own, Profile::known(profile)) {
        (true, Some(profile)) => Ok(Chosen::Embedded { profile, note }),
        (true, None) => Err(Nobody::NoProfile { reason, profile: profile.clone() }),
        (false, _) => Err(Nobody::Foreign { reason }),
    };
    match asked {
        BuilderChoice::Nix => Ok(Chosen::Nix),
        BuilderChoice::Embedded => embedded("Nix was not to be asked".into(), None),
        BuilderChoice::Auto => match can_nix() {
            Ok(()) => Ok(Chosen::Nix),
            Err(reason) => {
                let note = format!("{reason}: the embedded builder makes this image");
                embedded(reason, Some(note))
            }
        },
    }
}

impl Service {
    /// Decides who builds `target`, asking Nix where that decides it.
    ///
    /// # Errors
    /// [`Kind::ImageBuilderUnavailable`] naming the flake, the reason and the ways out.
    pub(super) async fn choose(
        &self,
        object: impl std::fmt::Display,
        asked: BuilderChoice,
        target: Target,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Chosen> {
        let is_own = target.flake.dir().is_some_and(|dir| is_own_flake(&dir));
        let can_nix = match asked {
            BuilderChoice::Auto => self.can_nix(&target, progress, cancel).await?,
            BuilderChoice::Nix => nix_is_here(),
            BuilderChoice::Embedded => Ok(()),
        };
        if let (BuilderChoice::Nix, Err(reason)) = (asked, &can_nix) {
            return Err(unavailable(object, &target, reason));
        }
        choose(asked, is_own, &target.profile, || can_nix)
            .map_err(|nobody| unavailable(object, &target, &nobody.to_string()))
    }
}

fn nix_is_here() -> std::result::Result<(), String> {
    mvm_host::image::Nix::find().map(drop).map_err(|error| error.to_string())
}

fn unavailable(object: impl std::fmt::Display, target: &Target, reason: &str) -> Error {
    let text = format!("nobody here can build an image of {}: {reason}", target.flake);
    Error::new(Kind::ImageBuilderUnavailable, object, text).hint(
        "check that Nix is installed and works (nix --version), or use an image of mvm's own \
         ('mvm pool create' without --flake), or take one in: 'mvm image import DIR'",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        asked: BuilderChoice,
        is_own: bool,
        profile: &str,
        nix: bool,
    ) -> Result<Chosen, Nobody> {
        let can = || if nix { Ok(()) } else { Err("nix is not installed".to_owned()) };
        choose(asked, is_own, &profile.parse().unwrap(), can)
    }

    #[test]
    fn auto_is_nix_wherever_it_can() {
        for is_own in [true, false] {
            assert_eq!(chosen(BuilderChoice::Auto, is_own, "minimal", true), Ok(Chosen::Nix));
        }
    }

    #[test]
    fn without_nix_only_our_own_set_is_built_and_it_is_said() {
        let built = chosen(BuilderChoice::Auto, true, "hello", false).unwrap();
        let Chosen::Embedded { profile, note: Some(note) } = built else { panic!("{built:?}") };
        assert_eq!(profile, Profile::Hello);
        assert!(note.starts_with("nix is not installed: the embedded builder"), "{note}");
        let foreign = chosen(BuilderChoice::Auto, false, "minimal", false).unwrap_err();
        assert!(matches!(&foreign, Nobody::Foreign { reason } if reason.contains("not installed")));
        let unknown = chosen(BuilderChoice::Auto, true, "web-shop", false).unwrap_err();
        assert!(unknown.to_string().contains("minimal, hello"), "{unknown}");
    }

    #[test]
    fn what_was_asked_for_by_name_is_not_replaced() {
        assert_eq!(chosen(BuilderChoice::Nix, true, "minimal", false), Ok(Chosen::Nix));
        let own = chosen(BuilderChoice::Embedded, true, "minimal", true);
        assert_eq!(own, Ok(Chosen::Embedded { profile: Profile::Minimal, note: None }));
        assert!(chosen(BuilderChoice::Embedded, false, "minimal", true).is_err());
    }
}
