//! Images built by Nix from a flake.
//!
//! ```text
//! Nix::find ─► dry_run (20 s): can it?   nix build --dry-run REF#packages.<system>.tenant-…
//!          └─► build (hours): do it      nix build --no-link --json REF#…  ─► store path
//!                                          │ lines of its output ─► progress, log
//!                                          └► image::import: files checked and copied
//! ```
//!
//! `nix` gets an argument vector, never a shell; it runs as the person behind us (see
//! [`super::person`]), in a process group that is killed at the deadline, with nothing on its
//! standard input, and may neither write a lock file nor take the flake's own settings.
//!
//! The output's files are described in `docs/reference/image-output.md`; what is in it is copied
//! into the image store, so no link keeps it in Nix's.

mod error;
mod output;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mvm_model::image::{FlakeRef, Role};
use mvm_model::name::ProfileName;

pub use error::NixError;

use super::error::{ImageError, io};
use super::person::Person;
use crate::packages::process::{Interrupt, Job, Output, command, run};
use crate::packages::{Arch, Control, find_program};

/// How long finding out whether Nix can build something may take.
const DRY_RUN_LIMIT: Duration = Duration::from_secs(20);
/// How long a build may take: a kernel from source on a slow machine does.
const BUILD_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// Where Nix is when `PATH` (sudo's, a unit's) does not say.
const PLACES: [&str; 3] = [
    "/nix/var/nix/profiles/default/bin/nix",
    "/run/current-system/sw/bin/nix",
    "/root/.nix-profile/bin/nix",
];

/// A Nix on this host.
pub struct Nix {
    program: PathBuf,
    person: Person,
}

/// What of a flake is wanted.
#[derive(Debug, Clone)]
pub struct Target {
    /// The flake.
    pub flake: FlakeRef,
    /// Which of its profiles.
    pub profile: ProfileName,
    /// For which role.
    pub role: Role,
    /// For which architecture.
    pub arch: Arch,
}

impl Target {
    /// The attributes that may be it, in the order they are tried: the second is the older form,
    /// one image for every role.
    pub fn attributes(&self) -> [String; 2] {
        let Self { profile, role, arch, .. } = self;
        [
            format!("packages.{arch}-linux.tenant-{role}-{profile}"),
            format!("packages.{arch}-linux.tenant-{profile}"),
        ]
    }
}

/// What Nix built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The attribute of the flake.
    pub attribute: String,
    /// The directory in Nix's store.
    pub path: PathBuf,
}

impl Nix {
    /// Finds it.
    ///
    /// # Errors
    /// [`NixError::NotInstalled`].
    pub fn find() -> Result<Self, NixError> {
        let person = Person::invoking();
        let own = person.home().map(|home| home.join(".nix-profile/bin/nix"));
        let places = own.into_iter().chain(PLACES.map(PathBuf::from));
        let program = find_program("nix").or_else(|| places.into_iter().find(|p| p.is_file()));
        Ok(Self { program: program.ok_or(NixError::NotInstalled)?, person })
    }

    /// Whether it could build this, without building anything: the attribute it would build.
    ///
    /// # Errors
    /// Why it could not, or that it did not say within 20 s.
    pub fn dry_run(&self, target: &Target, control: Control<'_>) -> Result<String, NixError> {
        let what = format!("asking Nix about {}", target.flake);
        control.say(&what);
        let started = Instant::now();
        let found = self.first(target, |attribute| {
            let mut nix = self.build_command(target, attribute);
            nix.arg("--dry-run");
            let left = DRY_RUN_LIMIT.saturating_sub(started.elapsed());
            self.run(&what, nix, left, None, control)
        })?;
        Ok(found.0)
    }

    /// Builds it. All of Nix's output goes to `log`, which is written anew.
    ///
    /// # Errors
    /// [`NixError`] with the end of what Nix said.
    pub fn build(
        &self,
        target: &Target,
        log: &Path,
        control: Control<'_>,
    ) -> Result<Built, ImageError> {
        let what = format!("building {} of {} with Nix", target.profile, target.flake);
        control.say(&what);
        fs::write(log, "").map_err(io("write", log))?;
        let (attribute, output) = self.first(target, |attribute| {
            let mut nix = self.build_command(target, attribute);
            nix.args(["--json", "--print-build-logs"]);
            self.run(&what, nix, BUILD_LIMIT, Some(log), control)
        })?;
        let path = output::store_path(&output.stdout).map_err(|detail| {
            let what = format!("Nix's answer about {attribute}");
            NixError::Output { what, detail }
        })?;
        Ok(Built { attribute, path })
    }

    /// The outcome for the first attribute that the flake has.
    fn first(
        &self,
        target: &Target,
        run: impl Fn(&str) -> Result<Output, NixError>,
    ) -> Result<(String, Output), NixError> {
        for attribute in target.attributes() {
            let output = run(&attribute)?;
            if output.status.success() {
                return Ok((attribute, output));
            }
            if !output::lacks_attribute(&output.stderr) {
                let (what, detail) =
                    (format!("{}#{attribute}", target.flake), output::said(&output));
                return Err(NixError::Failed { what, detail });
            }
        }
        let flake = target.flake.to_string();
        Err(NixError::NoAttribute { flake, attributes: target.attributes() })
    }

    fn build_command(&self, target: &Target, attribute: &str) -> Command {
        let mut nix = self.command();
        nix.args(["--extra-experimental-features", "nix-command flakes"]);
        nix.args(["build", "--no-link", "--no-write-lock-file"]);
        nix.args(["--option", "accept-flake-config", "false"]);
        // After the last option; a reference never starts with '-' either.
        nix.arg(format!("{}#{attribute}", target.flake));
        nix
    }

    /// The small environment of every child, and what Nix needs of the person's.
    fn command(&self) -> Command {
        let mut nix = command(&self.program.display().to_string());
        nix.current_dir("/").env("PATH", self.person.path());
        if let Some(home) = self.person.home() {
            nix.env("HOME", home);
        }
        self.person.become_them(&mut nix);
        for (name, value) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("NIX_") || ["SSL_CERT_FILE", "SSH_AUTH_SOCK"].contains(&&*text) {
                nix.env(name, value);
            }
        }
        nix
    }

    fn run(
        &self,
        what: &str,
        command: Command,
        deadline: Duration,
        log: Option<&Path>,
        control: Control<'_>,
    ) -> Result<Output, NixError> {
        let tell = |line: &str| {
            if let Some(progress) = output::progress(line) {
                control.say(progress);
            }
        };
        let (cancel, interrupt) = (control.cancel, Interrupt::Kill);
        Ok(run(Job { what, command, deadline, cancel, interrupt, log, on_line: Some(&tell) })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_names_role_and_profile_and_then_the_older_form() {
        let target = Target {
            flake: "github:o/r".parse().unwrap(),
            profile: "web-shop".parse().unwrap(),
            role: Role::Capability("pg".into()),
            arch: Arch::X86_64,
        };
        let [new, old] = target.attributes();
        assert_eq!(new, "packages.x86_64-linux.tenant-capability-pg-web-shop");
        assert_eq!(old, "packages.x86_64-linux.tenant-web-shop");
    }
}
