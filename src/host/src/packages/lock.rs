//! Who holds the package manager's locks.
//!
//! dpkg and apt use POSIX record locks, so the kernel can say which process holds one without
//! our taking it. We wait ourselves (and say for whom) instead of letting apt wait in silence.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::Control;
use super::error::PackageError;
use super::process::RunError;

/// Locks a package manager at work holds.
const LOCKS: [&str; 3] =
    ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock"];
const PAUSE: Duration = Duration::from_millis(250);

/// Waits until nobody holds a lock: [`PackageError::LockHeld`] names who did after `limit`.
pub(super) fn wait_free(control: Control<'_>, limit: Duration) -> Result<(), PackageError> {
    wait_for(&LOCKS.map(Path::new), control, limit)
}

fn wait_for(locks: &[&Path], control: Control<'_>, limit: Duration) -> Result<(), PackageError> {
    let started = Instant::now();
    while let Some((lock, holder)) = locks.iter().find_map(|lock| Some((*lock, holder(lock)?))) {
        if control.cancelled() {
            return Err(RunError::Cancelled { what: format!("waiting for {holder}") }.into());
        }
        if started.elapsed() >= limit {
            let seconds = limit.as_secs();
            return Err(PackageError::LockHeld { lock: lock.into(), holder, seconds });
        }
        control.say(format!("waiting for the package manager: {holder}"));
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// `pid 4321 (apt-get)`, when a process holds a write lock on the file.
fn holder(lock: &Path) -> Option<String> {
    let file = File::options().read(true).write(true).open(lock).ok()?;
    let mut query = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut query)).ok()?;
    if libc::c_int::from(query.l_type) == libc::F_UNLCK || query.l_pid == 0 {
        return None;
    }
    Some(describe(query.l_pid))
}

/// `pid 4321 (name)`; a process of another namespace has no name here.
pub(crate) fn describe(pid: i32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("pid {pid} ({})", name.trim()),
        Err(_) => format!("pid {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::sync::atomic::AtomicBool;

    use super::*;

    const HOLD: &str = "import fcntl,sys,time\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\n\
                        print('held',flush=True)\ntime.sleep(600)";

    #[test]
    fn the_holder_of_a_lock_is_named_after_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("lock");
        let mut command = Command::new("python3");
        command.args(["-c", HOLD]).arg(&lock).stdout(Stdio::piped());
        let Ok(mut child) = command.spawn() else { return };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (sink, cancel) = (|_| (), AtomicBool::new(false));
        let control = Control::new(&sink, &cancel);
        let error = wait_for(&[&lock], control, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {} (python3)", child.id())), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for(&[&lock], control, Duration::from_secs(5)).unwrap();
    }
}
