//! Other processes, as `/proc` shows them: for ending sessions, naming who holds a mount, and
//! knowing when nobody is left.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) id: i32,
    /// Its session.
    pub(crate) session: i32,
    /// Its name, 15 bytes at most.
    pub(crate) name: String,
    /// A thread of the kernel: nothing can be done about it.
    pub(crate) is_kernel: bool,
    /// It ended and waits to be reaped.
    pub(crate) is_zombie: bool,
}

impl Process {
    /// Its id as `nix` wants it.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.id)
    }

    fn dir(&self) -> PathBuf {
        Path::new("/proc").join(self.id.to_string())
    }
}

/// Every process that can be seen.
pub(crate) fn all() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        parse_stat(id, &stat)
    })
}

/// Reads `/proc/<pid>/stat`. The name may contain anything, also `)`.
fn parse_stat(id: i32, stat: &str) -> Option<Process> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let session = fields.nth(2)?.parse().ok()?;
    let flags: u64 = fields.nth(2)?.parse().ok()?;
    const PF_KTHREAD: u64 = 0x0020_0000;
    Some(Process {
        id,
        session,
        name: name.to_owned(),
        is_kernel: flags & PF_KTHREAD != 0,
        is_zombie: state == "Z",
    })
}

/// Processes with a file, a directory or a mapping below `mount_point`, as `pid (name)`.
pub(crate) fn holders(mount_point: &Path) -> Vec<String> {
    let holds = |process: &Process| {
        let dir = process.dir();
        let below = |path: PathBuf| fs::read_link(path).is_ok_and(|to| to.starts_with(mount_point));
        let files = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
        below(dir.join("cwd"))
            || below(dir.join("root"))
            || below(dir.join("exe"))
            || files.map(|file| file.path()).any(below)
            || maps_below(&dir, mount_point)
    };
    let holding = all().filter(|process| !process.is_kernel && holds(process));
    holding.map(|process| format!("{} ({})", process.id, process.name)).take(16).collect()
}

fn maps_below(dir: &Path, mount_point: &Path) -> bool {
    let maps = fs::read_to_string(dir.join("maps")).unwrap_or_default();
    let path = |line: &str| line.find('/').map(|at| PathBuf::from(&line[at..]));
    maps.lines().filter_map(path).any(|path| path.starts_with(mount_point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_confuse() {
        let stat = "7 (a) b (c)) S 1 7 5 0 -1 4194304 1 2 3";
        let process = parse_stat(7, stat).unwrap();
        assert_eq!((process.name.as_str(), process.session), ("a) b (c)", 5));
        assert!(!process.is_kernel && !process.is_zombie);
    }

    #[test]
    fn we_see_ourselves_and_what_we_hold() {
        let me = std::process::id() as i32;
        assert!(all().any(|process| process.id == me));
        let dir = tempfile::tempdir().unwrap();
        let _file = fs::File::create(dir.path().join("held")).unwrap();
        let path = dir.path().canonicalize().unwrap();
        assert!(holders(&path).iter().any(|holder| holder.starts_with(&format!("{me} "))));
    }
}
