//! What a VM said: the last lines of its logs, and why its guest ended it, by what the guest's
//! kernel said last on its console.
//!
//! A VMM does not tell apart a guest that panics, one that restarts and one that turns itself off:
//! all end it with exit code 0. Its kernel says so at a level that is always printed. A guest can
//! print the same words itself; it deceives nobody but its owner. One whose processor shuts down
//! says nothing any more: Firecracker's log does, and its exit code is then 0 or 1.

use std::path::Path;
use std::{fmt, io};

use mvm_model::failpoint::{self, Effect};
use serde::{Deserialize, Serialize};

use super::record::{CONSOLE_LOG, VMM_LOG};
use super::ring;

/// Lines kept in records and errors.
const LAST_LINES: usize = 20;
/// Bytes searched for them.
const TAIL: u64 = 8 << 10;
/// Bytes searched for why a guest ended its VM: a panic is followed by its traces.
const LONG_TAIL: u64 = 64 << 10;
/// The longest reason that is kept, characters.
const LONGEST: usize = 200;

/// How a guest ended its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestEnd {
    /// Its kernel panicked, and said this of it, made printable.
    Panicked(String),
    /// It powered off or halted.
    TurnedOff,
    /// It restarted, which ends a VM; also how our guest agent turns a machine off.
    Restarted,
    /// Its processor shut down: it could not even tell its kernel of a fault (a triple fault).
    Shutdown,
}

impl fmt::Display for GuestEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(why) => write!(f, "its guest's kernel panicked: {why}"),
            Self::TurnedOff => f.write_str("its guest turned itself off"),
            Self::Restarted => f.write_str("its guest turned itself off or rebooted"),
            Self::Shutdown => f.write_str("its guest's processor shut down (a triple fault)"),
        }
    }
}

/// The last lines of one of its logs.
pub(super) fn last_lines_of(run_dir: &Path, name: &str) -> Vec<String> {
    crate::text::last_lines(&said_by(run_dir, name, TAIL), LAST_LINES)
}

/// The end of a log, of the last VM only.
fn said_by(run_dir: &Path, name: &str, most: u64) -> Vec<u8> {
    let tail = ring::read(&run_dir.join(name), most).unwrap_or_default();
    ring::of_last(&tail).to_vec()
}

/// Removes what a VM that is gone left in its run directory, but its logs: they say what happened
/// until the next VM of the instance has said as much.
///
/// # Errors
/// What reading or removing said.
pub fn keep_only_logs(run_dir: &Path) -> io::Result<()> {
    failpoint::before(Effect::RemoveFile)?;
    let entries = match std::fs::read_dir(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_log = |log: &str| name == log || name.to_str() == Some(&format!("{log}.1"));
        if is_log(CONSOLE_LOG) || is_log(VMM_LOG) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => crate::files::remove_if_there(&entry.path())?,
        }
    }
    failpoint::after(Effect::RemoveFile)
}

/// How its guest ended it, when that or the VMM said so. Its own word counts first: a kernel that
/// restarts or panics may shut its processor down on purpose.
pub(super) fn guest_end(run_dir: &Path) -> Option<GuestEnd> {
    let said = last_end(&said_by(run_dir, CONSOLE_LOG, LONG_TAIL));
    said.or_else(|| shut_down(&said_by(run_dir, VMM_LOG, TAIL)).then_some(GuestEnd::Shutdown))
}

/// Whether the VMM's log says that a processor shut down (KVM_EXIT_SHUTDOWN), in Firecracker's
/// words.
fn shut_down(log: &[u8]) -> bool {
    String::from_utf8_lossy(log).contains("exit reason on vcpu run: Shutdown")
}

fn last_end(console: &[u8]) -> Option<GuestEnd> {
    let text = String::from_utf8_lossy(console);
    text.rsplit(['\n', '\r']).find_map(of_line)
}

fn of_line(line: &str) -> Option<GuestEnd> {
    if let Some((_, why)) = line.split_once("Kernel panic - not syncing: ") {
        return Some(GuestEnd::Panicked(crate::text::printable(why, LONGEST)));
    }
    let (_, end) = line.split_once("reboot: ")?;
    match end.trim() {
        "Power down" | "Power off not available: System halted instead" | "System halted" => {
            Some(GuestEnd::TurnedOff)
        }
        "Restarting system" => Some(GuestEnd::Restarted),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(console: &str) -> Option<GuestEnd> {
        last_end(console.as_bytes())
    }

    #[test]
    fn a_panic_is_found_before_its_traces() {
        let traces = "[    9.1]  do_syscall_64+0x5f/0x110\r\n".repeat(40);
        let said = format!(
            "[    9.0] Kernel panic - not syncing: sysrq triggered crash\r\n[    9.0] CPU: 0\r\n{traces}"
        );
        assert_eq!(end(&said), Some(GuestEnd::Panicked("sysrq triggered crash".into())));
    }

    #[test]
    fn a_processor_that_shut_down_is_what_the_vmm_says() {
        let log = b"[i-1:fc_vcpu 0:ERROR] Unexpected exit reason on vcpu run: Shutdown\n";
        assert!(shut_down(log));
        assert!(!shut_down(b"Unexpected exit reason on vcpu run: Unknown\n"));
    }

    #[test]
    fn what_a_guest_said_itself_counts_before_what_its_vmm_says() {
        let dir = tempfile::tempdir().unwrap();
        let log = "[fc_vcpu 0:ERROR] Unexpected exit reason on vcpu run: Shutdown\n";
        std::fs::write(dir.path().join(VMM_LOG), log).unwrap();
        assert_eq!(guest_end(dir.path()), Some(GuestEnd::Shutdown));
        std::fs::write(dir.path().join(CONSOLE_LOG), "reboot: Restarting system\n").unwrap();
        assert_eq!(guest_end(dir.path()), Some(GuestEnd::Restarted));
    }

    #[test]
    fn only_logs_stay_of_a_vm_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["console.log", "console.log.1", "vmm.log", "vmm.json", "exit.json"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(dir.path().join("root")).unwrap();
        for _ in 0..2 {
            keep_only_logs(dir.path()).unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        }
        keep_only_logs(&dir.path().join("none")).unwrap();
    }

    #[test]
    fn the_last_word_counts() {
        let off = "Kernel panic - not syncing: said by a program\n[  3.1] reboot: Power down\n";
        assert_eq!(end(off), Some(GuestEnd::TurnedOff));
        assert_eq!(end("[  3.1] reboot: Restarting system\n"), Some(GuestEnd::Restarted));
        assert_eq!(end("please reboot: now\nlogin: "), None);
        assert_eq!(end(""), None);
    }
}
