//! The root file system's content: base, busybox, the guest agent, a profile's files.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mvm_model::image::{Profile, Role};
use serde_json::json;

use super::error::ImageError;
use super::profile;
use super::tree::Tree;
use super::workload::program;
use crate::packages::process::{Interrupt, Job, command, run};

/// Directories of the root, most of them places where the guest mounts something.
const DIRS: [&str; 16] = [
    "data",
    "dev",
    "etc/mvm",
    "etc/mvm-config",
    "home",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "usr/local/bin",
    "usr/sbin",
    "var/lib",
    "var/log",
];

/// Links of the root: the merged layout, and what lives on tmpfs.
const LINKS: [(&str, &str); 9] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("var/run", "/run"),
    ("var/lock", "/run/lock"),
    ("var/tmp", "/tmp"),
    ("etc/mtab", "/proc/self/mounts"),
    ("etc/resolv.conf", "/run/resolv.conf"),
];

const FILES: [(&str, &str); 7] = [
    ("etc/group", include_str!("base/group")),
    ("etc/hosts", include_str!("base/hosts")),
    ("etc/nsswitch.conf", include_str!("base/nsswitch.conf")),
    ("etc/os-release", include_str!("base/os-release")),
    ("etc/passwd", include_str!("base/passwd")),
    ("etc/profile", include_str!("base/profile")),
    ("etc/shells", include_str!("base/shells")),
];

/// Applets that would take the place of the guest agent.
const NOT_LINKED: [&str; 3] = ["init", "linuxrc", "busybox"];

/// What goes into a root file system.
pub(super) struct Content<'a> {
    pub(super) profile: Profile,
    pub(super) role: &'a Role,
    /// The guest agent.
    pub(super) guest: &'a [u8],
    /// The unpacked busybox package.
    pub(super) busybox: &'a Path,
    /// Unpacked packages of the profile.
    pub(super) packages: &'a [PathBuf],
    /// Its files that are laid out like the root already.
    pub(super) ready: Option<&'a Path>,
}

/// Stages a root file system at `root`.
pub(super) fn stage(
    root: PathBuf,
    content: &Content<'_>,
    cancel: &AtomicBool,
) -> Result<Tree, ImageError> {
    let tree = Tree::create(root)?;
    for dir in DIRS {
        tree.dir(dir)?;
    }
    tree.dir_mode("root", 0o700)?;
    tree.dir_mode("tmp", 0o1777)?;
    for unpacked in content.packages {
        tree.adopt(unpacked, &profile::place)?;
    }
    if let Some(ready) = content.ready {
        tree.adopt(ready, &|path| Some(path.to_owned()))?;
    }
    busybox(&tree, content.busybox, cancel)?;
    base(&tree, content)?;
    Ok(tree)
}

fn base(tree: &Tree, content: &Content<'_>) -> Result<(), ImageError> {
    for dir in ["usr/lib", "usr/lib64"] {
        tree.dir(dir)?;
    }
    for (path, target) in LINKS {
        tree.link(path, target)?;
    }
    for (path, text) in FILES {
        tree.file(path, 0o644, text.as_bytes())?;
    }
    let about = json!({ "profile": content.profile, "role": content.role });
    tree.file("etc/mvm/image.json", 0o644, format!("{about}\n").as_bytes())?;
    if let Some(program) = program(content.profile, content.role) {
        tree.file(program.path, 0o755, program.source.as_bytes())?;
    }
    if content.profile == Profile::OpenClaw {
        tree.link("usr/bin/openclaw", "../lib/node_modules/openclaw/openclaw.mjs")?;
    }
    tree.file("usr/sbin/init", 0o755, content.guest)
}

/// Busybox and a link for every applet, unless the profile brings the real program.
fn busybox(tree: &Tree, package: &Path, cancel: &AtomicBool) -> Result<(), ImageError> {
    let places = ["bin/busybox", "usr/bin/busybox"].map(|path| package.join(path));
    let no = || ImageError::Content { what: "busybox-static has no busybox".into() };
    let program = places.into_iter().find(|path| path.is_file()).ok_or_else(no)?;
    tree.copy("usr/bin/busybox", 0o755, &program)?;
    for applet in applets(&program, cancel)? {
        let (dir, target) = match applet.contains("sbin/") {
            true => ("usr/sbin", "../bin/busybox"),
            false => ("usr/bin", "busybox"),
        };
        let name = applet.rsplit('/').next().unwrap_or_default();
        let path = format!("{dir}/{name}");
        if !name.is_empty() && !NOT_LINKED.contains(&name) && !tree.has(&path) {
            tree.link(&path, target)?;
        }
    }
    Ok(())
}

/// The applets of the image's own busybox, by their usual paths: `usr/bin/awk`.
fn applets(program: &Path, cancel: &AtomicBool) -> Result<Vec<String>, ImageError> {
    let what = "listing busybox applets";
    let mut command = command(&program.display().to_string());
    command.arg("--list-full");
    let (deadline, interrupt) = (Duration::from_secs(20), Interrupt::Kill);
    let output = run(Job { what, command, deadline, cancel, interrupt, log: None, on_line: None })?;
    let list: Vec<String> = output.stdout.lines().map(|line| line.trim().to_owned()).collect();
    match output.status.success() && list.iter().any(|applet| applet.ends_with("bin/sh")) {
        true => Ok(list),
        false => Err(ImageError::Tool { what: what.into(), detail: output.tail() }),
    }
}
