//! Becoming root. Bridges, taps and VMs need it; a person who is not root but has `sudo` should
//! not have to type the command again.
//!
//! Only variables named `MVM_*` are kept, by name (`--preserve-env=…`), so that no value is seen
//! in a process list. What can be done as the person (building the guest agent) is done before.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use mvm_agent::error::{About, Error, Kind, Result};
use mvm_host::image::{GuestError, ImageError, find_guest};
use mvm_host::packages::{Arch, Control};

use crate::progress::Step;
use crate::talk;

/// The guest agent that was built before elevation.
static GUEST: OnceLock<PathBuf> = OnceLock::new();

/// Returns when we are root; otherwise replaces this process by the same command under `sudo`.
///
/// # Errors
/// [`Kind::Refused`] when there is no `sudo`, naming what needs root.
pub fn ensure_root(needs: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let Some(sudo) = find_sudo() else {
        return Err(Error::new(
            Kind::Refused,
            "",
            format!("{needs} needs root, and there is no sudo here"),
        )
        .hint("run the same command as root"));
    };
    talk::say(format_args!("mvm: {needs} needs root; continuing with sudo"));
    let exe = std::env::current_exe().map_err(|error| {
        Error::new(Kind::Failed, "", "cannot find the mvm binary").because(error)
    })?;
    let names = std::env::vars_os().map(|(name, _)| name);
    let built = GUEST.get().map(|guest| ("MVM_GUEST", guest));
    let names = names.chain(built.iter().map(|(name, _)| name.into()));
    let error = Command::new(sudo)
        .envs(built)
        .args(preserved(names))
        .arg("--")
        .arg(exe)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(Error::new(Kind::Refused, "", "cannot run sudo")
        .because(error)
        .hint("run the same command as root"))
}

/// Builds the guest agent while we are still the person who called, if it has to be built.
///
/// # Errors
/// When it cannot be built, naming what is missing.
pub fn build_guest_first() -> Result<()> {
    if nix::unistd::geteuid().is_root() || find_sudo().is_none() {
        return Ok(());
    }
    let step = Step::start("preparing the guest agent");
    let sink = |progress| step.show(&progress);
    let never = AtomicBool::new(false);
    match find_guest(Arch::HOST, Control::new(&sink, &never)) {
        Ok(guest) => drop(GUEST.set(guest.path)),
        // Nothing to build: images that are there already need none, and root says it if one does.
        Err(GuestError::Nowhere { .. }) => {}
        Err(error) => Err(ImageError::from(error)).about("", "prepare the guest agent")?,
    }
    step.done();
    Ok(())
}

fn preserved(names: impl Iterator<Item = OsString>) -> Option<OsString> {
    let mut names: Vec<_> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("MVM_") || name == "NO_COLOR")
        .collect();
    names.sort();
    names.dedup();
    (!names.is_empty()).then(|| format!("--preserve-env={}", names.join(",")).into())
}

fn find_sudo() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("sudo")).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_variables_are_kept_and_only_by_name() {
        let names = ["PATH", "MVM_STATE_DIR", "MVM_TOKEN", "HOME"].map(OsString::from);
        assert_eq!(
            preserved(names.into_iter()),
            Some("--preserve-env=MVM_STATE_DIR,MVM_TOKEN".into())
        );
        assert_eq!(preserved(["PATH".into()].into_iter()), None);
    }
}
