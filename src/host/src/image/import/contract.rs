//! `manifest.json` of an image made elsewhere: what its files cannot say themselves.

use std::collections::BTreeMap;

use mvm_model::image::{Health, Restart, Role, Workload};
use mvm_model::name::ProfileName;
use serde::Deserialize;

use super::bad;
use crate::image::error::ImageError;
use crate::image::store::MANIFEST;
use crate::packages::Arch;

/// What somebody else's image says about itself. People write it, so unknown fields are mistakes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contract {
    schema_version: u32,
    /// What was asked for, when it says nothing.
    profile: Option<ProfileName>,
    role: Option<Role>,
    /// Architecture of its files; the host's when it says nothing.
    arch: Option<String>,
    /// The guest protocol its `mvm-guest` speaks.
    pub(super) guest_proto: u32,
    /// `uname -r` of its kernel.
    pub(super) kernel_release: String,
    workload: Option<Program>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    argv: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    user: Option<String>,
    #[serde(default)]
    ports: Vec<u16>,
    health: Option<Health>,
    #[serde(default)]
    restart: Restart,
}

impl Contract {
    pub(super) fn read(text: &[u8]) -> Result<Self, ImageError> {
        serde_json::from_slice(text).map_err(|error| bad(MANIFEST, &format!("is wrong: {error}")))
    }

    /// Whether we can use what it describes.
    pub(super) fn check(&self, arch: Arch, newest: u32) -> Result<(), ImageError> {
        let wrong = |problem: String| Err(bad(MANIFEST, &problem));
        if self.schema_version != 1 {
            return wrong(format!("has schema_version {}, not 1", self.schema_version));
        }
        if self.arch.as_ref().is_some_and(|its| its != arch.as_str()) {
            return wrong(format!("is for {:?}, this host is {arch}", self.arch));
        }
        if !(1..=newest).contains(&self.guest_proto) {
            let its = self.guest_proto;
            return wrong(format!("asks for guest protocol {its}; this mvm speaks 1 to {newest}"));
        }
        let release = &self.kernel_release;
        if !(1..=64).contains(&release.len()) || !release.bytes().all(|b| b.is_ascii_graphic()) {
            return wrong("has no kernel_release of 1 to 64 letters".into());
        }
        if let Some(problem) = self.workload.as_ref().and_then(Program::problem) {
            return wrong(format!("has a workload that {problem}"));
        }
        Ok(())
    }

    /// Its profile and role: what it says, which must be what is wanted if that is known.
    pub(super) fn names(
        &self,
        wanted: Option<&(ProfileName, Role)>,
    ) -> Result<(ProfileName, Role), ImageError> {
        let (profile, role) = wanted.map(|(profile, role)| (profile, role)).unzip();
        match (self.profile.as_ref().or(profile), self.role.as_ref().or(role)) {
            (Some(profile), Some(role)) => {
                check_wanted(profile, role, wanted)?;
                Ok((profile.clone(), role.clone()))
            }
            _ => Err(bad(MANIFEST, "names no profile and role")),
        }
    }

    pub(super) fn workload(&self) -> Option<Workload> {
        let Program { argv, env, user, ports, health, restart } = self.workload.clone()?;
        Some(Workload { argv, env, user, ports, health, restart })
    }
}

impl Program {
    fn problem(&self) -> Option<&'static str> {
        let is_user = |user: &String| {
            let ids =
                user.split_once(':').map(|(uid, gid)| (uid.parse::<u32>(), gid.parse::<u32>()));
            matches!(ids, Some((Ok(_), Ok(_))))
        };
        let is_path = |path: &str| {
            path.starts_with('/') && path.len() <= 200 && path.bytes().all(|b| b.is_ascii_graphic())
        };
        match self {
            _ if !self.argv.first().is_some_and(|program| program.starts_with('/')) => {
                Some("names no program by its whole path")
            }
            _ if self.user.as_ref().is_some_and(|user| !is_user(user)) => {
                Some("has a user that is not UID:GID")
            }
            _ if self.ports.contains(&0) => Some("listens on port 0"),
            _ if self.health.as_ref().is_some_and(|health| !is_path(&health.path)) => {
                Some("has a health path that is not /…, printable and without blanks")
            }
            _ => None,
        }
    }
}

/// Whether it is the image that was asked for.
pub(super) fn check_wanted(
    profile: &ProfileName,
    role: &Role,
    wanted: Option<&(ProfileName, Role)>,
) -> Result<(), ImageError> {
    match wanted {
        Some((its, for_role)) if (its, for_role) != (profile, role) => {
            let text = format!("is for {profile}/{role}, not {its}/{for_role}");
            Err(bad(MANIFEST, &text))
        }
        _ => Ok(()),
    }
}
