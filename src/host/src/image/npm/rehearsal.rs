//! A rehearsal: a gateway is run once while its image is built, for the code it compiled.
//!
//! A program that loads thousands of modules spends much of its start on compiling them, minutes
//! under emulation. V8 leaves what it compiled in a directory named after its version and the
//! user; in an image, read-only, it is taken as if the same user had compiled it. Whatever does
//! not fit (another V8, another path, other text) is compiled again: a rehearsal makes a start
//! faster and nothing else different.
//!
//! It happens in the same enclosure as install scripts (script.rs). What it leaves is not the
//! same to the last bit each time, so it is kept with the packages, under their sum.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::super::error::{ImageError, io};
use super::client::NpmError;
use super::script::{give, node};
use crate::packages::Control;
use crate::packages::process::{Interrupt, Job, run};

/// Where compiled code is left, in the installation.
const LEFT: &str = "compiled";
/// Where it is in the image, with all that is ours beside the packages.
const OURS: &str = "usr/lib/mvm";
/// The user that `user` is in an image, whose compiled code it has to be.
const USER: u32 = 1000;
/// Ten times what it takes on a machine with nothing else to do.
const LIMIT: Duration = Duration::from_secs(200);

/// A program that is run once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rehearsal {
    /// For messages: `openclaw's gateway`.
    pub(super) of: &'static str,
    /// The program and its arguments, after Node.js and what is loaded before it.
    pub(super) argv: &'static [&'static str],
    /// Its environment, besides [`Script`](super::script::Script)'s.
    pub(super) env: &'static [(&'static str, &'static str)],
    /// Loaded before it, here and in a guest.
    pub(super) patience: &'static str,
    /// Loaded before it, here only: makes the file `listened` beside the compiled code and ends it.
    pub(super) end: &'static str,
}

impl Rehearsal {
    /// Runs it in the root at `work`.
    pub(super) fn run(self, work: &Path, control: Control<'_>) -> Result<(), ImageError> {
        let (left, ours) = (work.join(LEFT), work.join(OURS));
        for dir in [&left, &ours] {
            fs::create_dir_all(dir).map_err(io("create", dir))?;
        }
        give(&left)?;
        for (path, text) in
            [(ours.join("patience.cjs"), self.patience), (work.join("end.cjs"), self.end)]
        {
            fs::write(&path, text).map_err(io("write", &path))?;
        }
        let what = format!("rehearsing {}", self.of);
        control.say(&what);
        let (cancel, interrupt) = (control.cancel, Interrupt::Kill);
        let (command, deadline) = (self.command(work), LIMIT);
        let job =
            Job { what: &what, command, deadline, cancel, interrupt, log: None, on_line: None };
        let output = run(job)?;
        // How it ends says nothing of what it left.
        match left.join("listened").exists() {
            true => Ok(()),
            false => Err(NpmError::Script { what, detail: output.tail() }.into()),
        }
    }

    fn command(self, work: &Path) -> Command {
        let mut command = node(work);
        // With a seed of their own, two rehearsals differ in little.
        command.args(["--random-seed=1", "--require", &format!("/{OURS}/patience.cjs")]);
        command.args(["--require", "/end.cjs"]).args(self.argv);
        command.env("NODE_COMPILE_CACHE", format!("/{LEFT}")).envs(self.env.iter().copied());
        command
    }
}

/// Where a file of an installation goes in the image if it is a rehearsal's.
pub(super) fn place(path: &str) -> Option<String> {
    if path == format!("{OURS}/patience.cjs") {
        return Some(path.into());
    }
    // `v24.21.0-x64-964aae3f-65534/00147351`
    let (dir, file) = path.strip_prefix(LEFT)?.strip_prefix('/')?.split_once('/')?;
    let (version, _) = dir.rsplit_once('-')?;
    Some(format!("{OURS}/{LEFT}/{version}-{USER}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiled_code_becomes_that_of_the_images_user() {
        assert_eq!(
            place("compiled/v24.21.0-x64-964aae3f-65534/00147351").as_deref(),
            Some("usr/lib/mvm/compiled/v24.21.0-x64-964aae3f-1000/00147351")
        );
        assert_eq!(place("usr/lib/mvm/patience.cjs").as_deref(), Some("usr/lib/mvm/patience.cjs"));
        for other in ["compiled/listened", "end.cjs", "tmp/state/openclaw.json", "usr/lib/x.so"] {
            assert_eq!(place(other), None, "{other}");
        }
        let passwd = include_str!("../base/passwd");
        assert!(passwd.contains(&format!("\nuser:x:{USER}:")));
    }
}
