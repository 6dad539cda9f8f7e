//! A staged tree as a root file system image, the same bytes for the same tree.
//!
//! erofs where the kernel and the host have it: small, and read in place. Otherwise ext4, filled
//! in sorted order by `debugfs`, because `mke2fs -d` takes over the order and the change times of
//! the host's directories.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::error::{ImageError, io};
use super::modules::ModuleTree;
use super::tree::Tree;
use crate::packages::process::{Interrupt, Job, Output, command, run};
use crate::packages::{Control, find_program};

/// Fixed, so that the image does not depend on chance.
const UUID: &str = "6d766d00-726f-6f74-8000-000000000001";
const LIMIT: Duration = Duration::from_secs(300);

/// A kind of root file system and the tool that writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mkfs {
    /// `mkfs.erofs` and its version.
    Erofs(PathBuf, String),
    /// `mke2fs`, its version, and `debugfs` of the same package.
    Ext4(PathBuf, String, PathBuf),
}

impl Mkfs {
    /// What this host has, best first.
    pub(super) fn detect(control: Control<'_>) -> Vec<Self> {
        let erofs = find_program("mkfs.erofs").and_then(|path| {
            let version = version(&path, control)?;
            Some(Self::Erofs(path, version))
        });
        let ext4 =
            find_program("mke2fs").zip(find_program("debugfs")).and_then(|(mke2fs, debugfs)| {
                let version = version(&mke2fs, control)?;
                Some(Self::Ext4(mke2fs, version, debugfs))
            });
        erofs.into_iter().chain(ext4).collect()
    }

    /// The first of `found` whose result the kernel can mount.
    pub(super) fn choose<'a>(
        found: &'a [Self],
        kernel: &ModuleTree,
    ) -> Result<&'a Self, ImageError> {
        found.iter().find(|mkfs| kernel.has(mkfs.kind())).ok_or_else(|| ImageError::NoMkfs {
            detail: format!(
                "kernel {} mounts {}; this host has {}",
                kernel.release,
                ["erofs", "ext4"]
                    .iter()
                    .filter(|k| kernel.has(k))
                    .copied()
                    .collect::<Vec<_>>()
                    .join(", "),
                if found.is_empty() { "neither mkfs.erofs nor mke2fs" } else { "no tool for it" },
            ),
        })
    }

    /// `erofs` or `ext4`, the kernel's word.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Erofs(..) => "erofs",
            Self::Ext4(..) => "ext4",
        }
    }

    /// Tool and version: an input of the image.
    pub(super) fn version(&self) -> &str {
        match self {
            Self::Erofs(_, version) | Self::Ext4(_, version, _) => version,
        }
    }

    /// Writes `tree` to the new file `image`.
    pub(super) fn write(
        &self,
        tree: &Tree,
        image: &Path,
        control: Control<'_>,
    ) -> Result<(), ImageError> {
        match self {
            Self::Erofs(program, _) => erofs(program, tree, image, control),
            Self::Ext4(mke2fs, _, debugfs) => ext4(mke2fs, debugfs, tree, image, control),
        }
    }
}

/// The first line of `-V`, which both tools print somewhere.
fn version(program: &Path, control: Control<'_>) -> Option<String> {
    let mut command = command(&program.display().to_string());
    command.arg("-V");
    let output = child("asking for a version", command, control).ok()?;
    let said = format!("{}\n{}", output.stdout, output.stderr);
    said.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(|line| line.chars().take(80).collect())
}

fn child(what: &str, command: Command, control: Control<'_>) -> Result<Output, ImageError> {
    let (cancel, interrupt) = (control.cancel, Interrupt::Kill);
    let job = Job { what, command, deadline: LIMIT, cancel, interrupt, log: None, on_line: None };
    Ok(run(job)?)
}

fn tool(
    what: &str,
    command: Command,
    image: &Path,
    control: Control<'_>,
) -> Result<Output, ImageError> {
    let output = child(what, command, control)?;
    match (output.no_space(), output.status.success()) {
        (true, _) => Err(ImageError::NoSpace { path: image.into() }),
        (false, true) => Ok(output),
        (false, false) => Err(ImageError::Tool { what: what.into(), detail: output.tail() }),
    }
}

fn erofs(
    program: &Path,
    tree: &Tree,
    image: &Path,
    control: Control<'_>,
) -> Result<(), ImageError> {
    let mut command = command(&program.display().to_string());
    command.args(["-x-1", "-T0", "-U", UUID, "--all-root", "-Eforce-inode-compact"]);
    // Measured with Node.js under TCG: starts as fast as uncompressed at half the size; lz4hc
    // saves another 15 % and takes ten times as long to write.
    command.args(["-zlz4", "-C65536"]).arg(image).arg(tree.root());
    tool("making the erofs root", command, image, control).map(drop)
}

/// Formats an empty file system and fills it by a script, with a fixed clock.
fn ext4(
    mke2fs: &Path,
    debugfs: &Path,
    tree: &Tree,
    image: &Path,
    control: Control<'_>,
) -> Result<(), ImageError> {
    let mut fill = Fill::default();
    fill.dir(tree.root(), "")?;
    let script = image.with_extension("debugfs");
    fs::write(&script, &fill.script).map_err(io("write", &script))?;
    let mut format = clocked(mke2fs);
    format.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m0", "-b4096", "-U", UUID]);
    format.arg("-E").arg(format!("hash_seed={UUID},root_owner=0:0,lazy_itable_init=0"));
    format.arg("-N").arg((fill.inodes + 64).to_string());
    format.arg(image).arg(format!("{}k", fill.kib + fill.kib / 20 + fill.inodes + 2048));
    tool("making the ext4 root", format, image, control)?;
    let mut write = clocked(debugfs);
    write.args(["-w", "-f"]).arg(&script).arg(image);
    let output = tool("filling the ext4 root", write, image, control)?;
    let _ = fs::remove_file(&script);
    // debugfs exits 0 whatever happens; its complaints start with the name of what failed.
    let complaint = output.stderr.lines().find(|line| !line.starts_with("debugfs "));
    match complaint {
        None => Ok(()),
        Some(line) => Err(ImageError::Tool {
            what: "filling the ext4 root".into(),
            detail: line.chars().take(300).collect(),
        }),
    }
}

/// A command of e2fsprogs whose clock stands still.
fn clocked(program: &Path) -> Command {
    let mut command = command(&program.display().to_string());
    command.env("E2FSPROGS_FAKE_TIME", "1").env("SOURCE_DATE_EPOCH", "1");
    command
}

/// The debugfs script for a tree, and how much room it takes.
#[derive(Default)]
struct Fill {
    script: String,
    kib: u64,
    inodes: u64,
}

impl Fill {
    fn dir(&mut self, host: &Path, below: &str) -> Result<(), ImageError> {
        let entries = fs::read_dir(host).map_err(io("read", host))?;
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            let (host, path) = (host.join(&name), format!("{below}/{}", name.to_string_lossy()));
            self.entry(&host, &path)?;
        }
        Ok(())
    }

    fn entry(&mut self, host: &Path, path: &str) -> Result<(), ImageError> {
        let meta = fs::symlink_metadata(host).map_err(io("read", host))?;
        self.inodes += 1;
        self.kib += meta.len().div_ceil(4096) * 4 + 4;
        let mode = meta.permissions().mode();
        if meta.is_symlink() {
            let target = fs::read_link(host).map_err(io("read", host))?;
            self.say(&["symlink", path, &target.to_string_lossy()]);
            return Ok(());
        }
        match meta.is_dir() {
            true => self.say(&["mkdir", path]),
            false => self.say(&["write", &host.to_string_lossy(), path]),
        }
        self.say(&["sif", path, "mode", &format!("0{mode:o}")]);
        self.say(&["sif", path, "uid", "0"]);
        self.say(&["sif", path, "gid", "0"]);
        if meta.is_dir() { self.dir(host, path) } else { Ok(()) }
    }

    /// A line of the script; every word quoted, as names may hold blanks or brackets.
    fn say(&mut self, words: &[&str]) {
        let quoted: Vec<String> =
            words.iter().map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect();
        let _ = writeln!(self.script, "{}", quoted.join(" "));
    }
}

#[cfg(test)]
mod tests;
