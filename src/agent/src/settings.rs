//! What this host's administrator decides about VMMs: `<config>/host.json`, and for a single
//! command the environment.
//!
//! ```text
//! {
//!   "vmm": "qemu",                     only this VMM        MVM_VMM
//!   "accel": "tcg",                    only this one        MVM_ACCEL
//!   "limits": "none",                  development only     MVM_LIMITS
//!   "prespawn": {"most": 16, "mem_percent": 5, "qemu": false},
//!                                      VMMs started ahead of wakes: MVM_PRESPAWN (0: none)
//!   "bring_up_at_once": 8,             starts and wakes on their way at the same time
//!   "probe_seconds": 10,               how long a guest may take that proves a VMM
//!   "waive": ["smt"],                  what 'bootstrap --production' does not insist on here
//!   "firecracker_digests": ["sha256…"] builds this host trusts
//! }
//! ```
//!
//! A file that cannot be read or says something else is an error, never the default: a limit that
//! was meant to hold must not vanish with a typing error.

use std::ffi::OsString;
use std::path::Path;

use mvm_model::Digest;
use mvm_model::vm::{Accel, VmmKind};
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};

use crate::doctor::Waiver;
use crate::error::{Error, Kind, Result};
use crate::service::Service;

/// The file's name in the configuration directory.
pub const FILE: &str = "host.json";

/// What is decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The only VMM that is used.
    pub vmm: Option<VmmKind>,
    /// The only accelerator that is used.
    pub accel: Option<Accel>,
    /// What VMs may use.
    pub limits: LimitsPolicy,
    /// VMMs that are started ahead of wakes.
    pub prespawn: Prespawn,
    /// How many starts and wakes are on their way at the same time, at least 1; as many as there
    /// are CPUs, and three, when nothing is said.
    pub bring_up_at_once: Option<u32>,
    /// How long the guest may take that proves a VMM: more where the host is a guest itself.
    pub probe_seconds: Option<u32>,
    /// What production does not insist on here.
    pub waive: Vec<Waiver>,
    /// Builds of Firecracker and of its jailer this host trusts.
    pub firecracker_digests: Vec<Digest>,
}

/// What may wait for instances that sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prespawn {
    /// At most so many VMMs wait; 0 turns it off.
    pub most: u32,
    /// All of them may take so much of the host's memory, percent.
    pub mem_percent: u8,
    /// Also QEMUs, of which each takes much more memory than a Firecracker.
    pub qemu: bool,
}

impl Default for Prespawn {
    fn default() -> Self {
        Self { most: 16, mem_percent: 5, qemu: false }
    }
}

impl Prespawn {
    /// Whether a VMM of this kind is started ahead here.
    pub fn admits(&self, vmm: VmmKind) -> bool {
        self.most > 0 && (self.qemu || vmm == VmmKind::Firecracker)
    }
}

/// Whether a VM may be started without limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitsPolicy {
    /// Never: without systemd and without control groups nothing is started.
    #[default]
    Required,
    /// It is, everywhere: for development, tests and measurements.
    None,
}

impl Settings {
    /// Reads the file, then what the environment says. `var` looks a variable up.
    ///
    /// # Errors
    /// When either is not understood.
    pub fn load(config: &Path, var: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let path = config.join(FILE);
        let bad = |error: String| {
            Error::new(Kind::Invalid, path.display().to_string(), "cannot use the host's settings")
                .because(error)
                .hint("mend the file, or move it away")
        };
        let mut settings: Self = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(bad(error.to_string())),
        };
        let var = |name| var(name).filter(|value| !value.is_empty());
        if let Some(vmm) = var("MVM_VMM") {
            settings.vmm = Some(word("MVM_VMM", &vmm)?);
        }
        if let Some(accel) = var("MVM_ACCEL") {
            settings.accel = Some(word("MVM_ACCEL", &accel)?);
        }
        if let Some(limits) = var("MVM_LIMITS") {
            settings.limits = word("MVM_LIMITS", &limits)?;
        }
        if let Some(most) = var("MVM_PRESPAWN") {
            settings.prespawn.most = number("MVM_PRESPAWN", &most)?;
        }
        match settings.bring_up_at_once {
            Some(0) => Err(bad("bring_up_at_once: nothing would ever be started".into())),
            _ => Ok(settings),
        }
    }

    /// Whether a pair may be used at all.
    pub fn allows(&self, vmm: VmmKind, accel: Accel) -> bool {
        self.vmm.is_none_or(|only| only == vmm) && self.accel.is_none_or(|only| only == accel)
    }
}

/// One of a closed set of words.
fn word<T: for<'de> Deserialize<'de>>(name: &str, value: &OsString) -> Result<T> {
    let text = value.to_string_lossy();
    T::deserialize(StrDeserializer::<ValueError>::new(&text))
        .map_err(|error| Error::new(Kind::Invalid, name, format!("{name}: {error}")))
}

fn number(name: &str, value: &OsString) -> Result<u32> {
    let text = value.to_string_lossy();
    text.parse().map_err(|error| Error::new(Kind::Invalid, name, format!("{name}: {error}")))
}

impl Service {
    /// This host's settings, read anew.
    ///
    /// # Errors
    /// When they are not understood.
    pub fn settings(&self) -> Result<Settings> {
        Settings::load(&self.dirs.config, |name| std::env::var_os(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: Option<&str>, vars: &[(&str, &str)]) -> Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(text) = file {
            std::fs::write(dir.path().join(FILE), text).unwrap();
        }
        let vars: Vec<(String, OsString)> =
            vars.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let var = move |name: &str| vars.iter().find(|(key, _)| key == name).map(|it| it.1.clone());
        Settings::load(dir.path(), var)
    }

    #[test]
    fn nothing_said_is_the_strict_default() {
        let settings = load(None, &[]).unwrap();
        assert_eq!(settings.limits, LimitsPolicy::Required);
        assert!(settings.allows(VmmKind::Firecracker, Accel::Kvm));
        assert_eq!(load(Some("{}"), &[]).unwrap(), settings);
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let file = r#"{"vmm": "firecracker", "limits": "none"}"#;
        let settings = load(Some(file), &[("MVM_VMM", "qemu"), ("MVM_ACCEL", "tcg")]).unwrap();
        assert!(settings.allows(VmmKind::Qemu, Accel::Tcg));
        assert!(!settings.allows(VmmKind::Firecracker, Accel::Kvm));
        assert_eq!(settings.limits, LimitsPolicy::None);
        let file = r#"{"prespawn": {"qemu": true}}"#;
        let prespawn = load(Some(file), &[("MVM_PRESPAWN", "2")]).unwrap().prespawn;
        assert_eq!(prespawn, Prespawn { most: 2, mem_percent: 5, qemu: true });
        assert!(prespawn.admits(VmmKind::Qemu) && !Prespawn::default().admits(VmmKind::Qemu));
    }

    #[test]
    fn what_is_not_understood_is_never_ignored() {
        for file in [
            "",
            "{",
            r#"{"limit": "none"}"#,
            r#"{"limits": "off"}"#,
            r#"{"vmm": "xen"}"#,
            r#"{"prespawn": {"many": 3}}"#,
            r#"{"bring_up_at_once": 0}"#,
        ] {
            assert_eq!(load(Some(file), &[]).unwrap_err().kind, Kind::Invalid, "{file}");
        }
        for (name, value) in [("MVM_LIMITS", "maybe"), ("MVM_PRESPAWN", "all")] {
            assert!(load(None, &[(name, value)]).is_err(), "{name}");
        }
    }
}
