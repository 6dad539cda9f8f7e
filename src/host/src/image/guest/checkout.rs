//! The guest agent built from a checkout, by cargo.
//!
//! cargo runs as the person who invoked us: a root process started by sudo gives up its rights
//! for it, so no root-owned file appears in `target/` and no build script runs as root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::super::person::Person;
use super::GuestError;
use crate::packages::process::{Interrupt, Job, Output, run};
use crate::packages::{Arch, Control};

const QUERY_LIMIT: Duration = Duration::from_secs(30);
const BUILD_LIMIT: Duration = Duration::from_secs(900);

/// The checkout this program was built in, if any: found from where the program lies, or from
/// what cargo tells the programs it runs (a target directory may be elsewhere).
pub(super) fn find(exe: &Path) -> Option<PathBuf> {
    let told = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let starts = [Some(exe.to_path_buf()), told];
    let mut places = starts.iter().flatten().flat_map(|start| start.ancestors());
    let is_checkout = |dir: &&Path| {
        dir.join("Cargo.toml").is_file() && dir.join("src/guest/Cargo.toml").is_file()
    };
    places.find(is_checkout).map(Path::to_path_buf)
}

/// A program of Rust's in the checkout, in a person's environment.
fn cargo_as(person: &Person, program: &str, root: &Path) -> Command {
    let mut command = person.command(program, root);
    // What cargo told *us* about ourselves is not about the agent.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    if person.is_other() {
        command.env_remove("CARGO_HOME").env_remove("RUSTUP_HOME");
    }
    command
}

/// How to get a static program out of Rust here.
enum Target {
    /// musl is static by itself.
    Musl(String),
    /// glibc, told to be static.
    Gnu(String),
}

impl Target {
    fn name(&self) -> &str {
        match self {
            Self::Musl(name) | Self::Gnu(name) => name,
        }
    }
}

/// Builds the guest agent; where it lies afterwards.
pub(super) fn build(root: &Path, arch: Arch, control: Control<'_>) -> Result<PathBuf, GuestError> {
    let person = Person::invoking();
    let target = target(&person, root, arch, control)?;
    control.say("building the guest agent");
    let mut cargo = cargo_as(&person, &person.cargo(), root);
    cargo.args(["build", "--quiet", "-p", "mvm-guest", "--profile", "guest"]);
    cargo.args(["--message-format", "json-render-diagnostics", "--target", target.name()]);
    if let Target::Gnu(name) = &target {
        let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", name.to_uppercase().replace('-', "_"));
        cargo.env(variable, "-C target-feature=+crt-static").env_remove("RUSTFLAGS");
    }
    let output = child("building the guest agent", cargo, BUILD_LIMIT, control)?;
    let built = output.stdout.lines().filter_map(executable).next_back();
    match (output.status.success(), built) {
        (true, Some(path)) => Ok(path),
        _ => Err(GuestError::Build { detail: output.tail() }),
    }
}

/// The program a line of cargo's JSON says it made.
fn executable(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let ours = message.pointer("/target/name")?.as_str()? == "mvm-guest";
    let path = message.get("executable")?.as_str()?;
    ours.then(|| PathBuf::from(path))
}

/// The musl target when Rust has it or rustup can add it, else glibc linked statically.
fn target(
    person: &Person,
    root: &Path,
    arch: Arch,
    control: Control<'_>,
) -> Result<Target, GuestError> {
    let musl = format!("{arch}-unknown-linux-musl");
    if has_target(person, root, &musl, control)? {
        return Ok(Target::Musl(musl));
    }
    let rustup = cargo_as(person, "rustup", root);
    match add_target(rustup, &musl, control) {
        Ok(()) => Ok(Target::Musl(musl)),
        Err(GuestError::Run(error @ crate::packages::process::RunError::Cancelled { .. })) => {
            Err(error.into())
        }
        Err(why) => {
            let gnu = format!("{arch}-unknown-linux-gnu");
            match arch == Arch::HOST && has_target(person, root, &gnu, control)? {
                true => Ok(Target::Gnu(gnu)),
                false => Err(GuestError::NoTarget { target: musl, detail: why.to_string() }),
            }
        }
    }
}

fn add_target(mut rustup: Command, target: &str, control: Control<'_>) -> Result<(), GuestError> {
    control.say(format!("adding Rust's target {target}"));
    rustup.args(["target", "add", target]);
    let output = child("adding a Rust target", rustup, BUILD_LIMIT, control)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(GuestError::Build { detail: output.tail() }),
    }
}

/// Whether this Rust can build for `target`: its libraries are there.
fn has_target(
    person: &Person,
    root: &Path,
    target: &str,
    control: Control<'_>,
) -> Result<bool, GuestError> {
    let mut rustc = cargo_as(person, "rustc", root);
    rustc.args(["--print", "target-libdir", "--target", target]);
    let output = match child("asking Rust for its targets", rustc, QUERY_LIMIT, control) {
        Err(GuestError::Run(crate::packages::process::RunError::NotInstalled {
            program, ..
        })) => {
            return Err(GuestError::NoCargo { program });
        }
        other => other?,
    };
    let dir = PathBuf::from(output.stdout.trim());
    let holds_std = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    };
    Ok(output.status.success() && holds_std(&dir))
}

fn child(
    what: &str,
    command: Command,
    deadline: Duration,
    control: Control<'_>,
) -> Result<Output, GuestError> {
    let (cancel, interrupt) = (control.cancel, Interrupt::Kill);
    Ok(run(Job { what, command, deadline, cancel, interrupt, log: None, on_line: None })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_taken_from_cargos_own_words() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"mvm-guest"},"executable":"/t/mvm-guest"}"#;
        assert_eq!(executable(line), Some("/t/mvm-guest".into()));
        let library =
            r#"{"reason":"compiler-artifact","target":{"name":"libc"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("warning: not json"), None);
    }

    #[test]
    fn a_checkout_is_found_from_a_program_within_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("src/guest")).unwrap();
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        std::fs::write(dir.path().join("src/guest/Cargo.toml"), "").unwrap();
        let exe = dir.path().join("target/debug/deps/mvm-1234");
        assert_eq!(find(&exe).as_deref(), Some(dir.path()));
    }
}
