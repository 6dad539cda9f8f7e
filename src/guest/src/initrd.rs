//! PID 1 in the initrd: load the modules, mount the root, go there.
//!
//! With `mvm.probe` on the kernel command line it only shows that this machine runs a kernel up
//! to user space: it prints [`PROBE_OK`] and turns the machine off.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::{mounts, power, sys};

/// Directory of the modules; its existence means that this is the initrd.
pub(crate) const MODULES: &str = "/modules";
/// What a probe prints.
const PROBE_OK: &str = "MVM-PROBE-OK";
const ROOT_DEVICE: &str = "/dev/vda";
const NEW_ROOT: &str = "/newroot";
const INIT: &str = "/sbin/init";
/// How long the root drive may take to appear once its driver is loaded.
const DEVICE_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the stage; turns the machine off when it cannot go on.
pub(crate) fn run() -> ! {
    let Err(error) = stage();
    eprintln!("mvm-guest: cannot start: {error}");
    power::end_machine()
}

fn stage() -> Result<Infallible, String> {
    mounts::kernel().into_iter().for_each(|error| eprintln!("mvm-guest: {error}"));
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    load_modules();
    if has_word(&command_line, "mvm.probe") {
        println!("{PROBE_OK}");
        power::end_machine();
    }
    wait_for_device(Path::new(ROOT_DEVICE))?;
    let kind = value(&command_line, "rootfstype").unwrap_or("erofs");
    fs::create_dir_all(NEW_ROOT).map_err(|error| format!("{NEW_ROOT}: {error}"))?;
    mount(Some(ROOT_DEVICE), NEW_ROOT, Some(kind), MsFlags::MS_RDONLY, None::<&str>)
        .map_err(|error| format!("cannot mount {ROOT_DEVICE} as {kind}: {}", error.desc()))?;
    switch_root()
}

/// Loads every module in the order of its name. One that fails is told and skipped: it may be
/// for a device this machine does not have.
fn load_modules() {
    let mut modules: Vec<PathBuf> = match fs::read_dir(MODULES) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => return eprintln!("mvm-guest: {MODULES}: {error}"),
    };
    modules.sort();
    for module in modules {
        let loaded = File::open(&module)
            .map_err(|error| error.to_string())
            .and_then(|file| sys::load_module(&file).map_err(|error| error.desc().to_owned()));
        if let Err(error) = loaded {
            eprintln!("mvm-guest: {}: {error}", module.display());
        }
        // The initrd stays in memory for the guest's life; its modules need not.
        let _ = fs::remove_file(&module);
    }
}

fn wait_for_device(device: &Path) -> Result<(), String> {
    let missing = |why: &str| format!("{} did not appear: {why}", device.display());
    let deadline = Instant::now() + DEVICE_DEADLINE;
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
        .and_then(|watch| watch.add_watch("/dev", AddWatchFlags::IN_CREATE).map(|_| watch))
        .map_err(|error| missing(error.desc()))?;
    // Watched before looked at: a device that appears in between is not missed.
    while !device.exists() {
        if Instant::now() > deadline {
            return Err(missing("deadline passed"));
        }
        let mut fds = [nix::poll::PollFd::new(
            std::os::fd::AsFd::as_fd(&watch),
            nix::poll::PollFlags::POLLIN,
        )];
        let _ = nix::poll::poll(&mut fds, 1000_u16);
        let _ = watch.read_events();
    }
    Ok(())
}

fn switch_root() -> Result<Infallible, String> {
    let failed = |what: &str, error: nix::Error| format!("cannot {what}: {}", error.desc());
    for at in ["/proc", "/sys", "/dev"] {
        let to = format!("{NEW_ROOT}{at}");
        mount(Some(at), to.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|error| failed(&format!("move {at} to the root"), error))?;
    }
    // What would stay in the memory of the initrd is this program.
    let _ = fs::remove_file("/init");
    std::env::set_current_dir(NEW_ROOT).map_err(|error| format!("{NEW_ROOT}: {error}"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|error| failed("move the root", error))?;
    nix::unistd::chroot(".").map_err(|error| failed("change the root", error))?;
    std::env::set_current_dir("/").map_err(|error| format!("/: {error}"))?;
    let init = CString::from(c"/sbin/init");
    nix::unistd::execv(&init, &[&init]).map_err(|error| failed(&format!("run {INIT}"), error))
}

fn has_word(command_line: &str, word: &str) -> bool {
    command_line.split_ascii_whitespace().any(|found| found == word)
}

fn value<'a>(command_line: &'a str, name: &str) -> Option<&'a str> {
    let mut words = command_line.split_ascii_whitespace().rev();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_by_words() {
        let line = "quiet rootfstype=ext4 mvm.probed rootfstype=erofs\n";
        assert_eq!(value(line, "rootfstype"), Some("erofs"));
        assert_eq!(value(line, "root"), None);
        assert!(!has_word(line, "mvm.probe"));
        assert!(has_word("a mvm.probe", "mvm.probe"));
    }
}
