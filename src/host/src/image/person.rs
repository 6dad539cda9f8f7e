//! Whom programs of the developer's own run as: cargo, nix.
//!
//! A root process started by sudo gives up its rights for them, so that no root-owned file appears
//! in a checkout, nothing a flake or a build script says runs as root, and the person's own
//! configuration and caches are used.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, User, geteuid};

/// Who is behind this process.
pub(super) struct Person {
    /// Set when we are root on behalf of somebody.
    change_to: Option<(Uid, Gid)>,
    home: Option<PathBuf>,
}

impl Person {
    /// Whoever started us, through sudo or not.
    pub(super) fn invoking() -> Self {
        let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let behind = id("SUDO_UID").zip(id("SUDO_GID")).filter(|(uid, _)| *uid != 0);
        let change_to = behind
            .filter(|_| geteuid().is_root())
            .map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)));
        let uid = change_to.map_or(geteuid(), |(uid, _)| uid);
        let home = User::from_uid(uid).ok().flatten().map(|user| user.dir);
        Self { change_to, home }
    }

    /// Whether it is somebody else than who we are.
    pub(super) fn is_other(&self) -> bool {
        self.change_to.is_some()
    }

    /// Their home directory.
    pub(super) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// The cargo that runs us, when one does and it is ours to run.
    pub(super) fn cargo(&self) -> String {
        let told = std::env::var("CARGO").ok().filter(|path| Path::new(path).is_absolute());
        told.filter(|_| !self.is_other()).unwrap_or_else(|| "cargo".into())
    }

    /// A command in `dir`, in this person's environment: sudo's lacks their `PATH`.
    pub(super) fn command(&self, program: &str, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(dir).env("PATH", self.path());
        self.become_them(&mut command);
        command
    }

    /// Makes a command theirs, if they are somebody else.
    pub(super) fn become_them(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.change_to {
            // The standard library drops supplementary groups along with the user.
            command.uid(uid.as_raw()).gid(gid.as_raw());
            self.home.iter().for_each(|home| {
                command.env("HOME", home);
            });
        }
    }

    /// Where their programs are.
    pub(super) fn path(&self) -> OsString {
        let own = self.home.iter().map(|home| home.join(".cargo/bin"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all: Vec<PathBuf> = own.chain(std::env::split_paths(&path)).collect();
        std::env::join_paths(all).unwrap_or(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_as_the_person_behind_sudo_without_roots_groups() {
        if !geteuid().is_root() {
            return eprintln!("SKIP: giving up root needs root");
        }
        let nobody = (Uid::from_raw(65534), Gid::from_raw(65534));
        let person = Person { change_to: Some(nobody), home: Some("/nonexistent".into()) };
        let output = person.command("id", Path::new("/")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with("uid=65534") && !said.contains("(root)"), "{said}");
    }
}
