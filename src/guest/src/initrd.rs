//! PID 1 in the initrd: load the modules, mount the root, go there.
//!
//! When the root's init is this very program it is not started again but goes on as the root
//! stage: reading it once more from a compressed root would be half of the guest's start.
//!
//! With `mvm.probe` on the kernel command line it only shows that this machine runs a kernel up
//! to user space: it prints [`PROBE_OK`] and turns the machine off.

use std::fs::{self, File};
use std::io::Read;
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

/// When PID 1 began and how long it loaded modules, so that the guest can say how long its own
/// start took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    /// Monotonic clock when PID 1 began.
    began: Duration,
    /// Time for the modules.
    modules: Duration,
}

impl Took {
    /// Nothing came before: it begins now.
    pub(crate) fn nothing() -> Self {
        Self { began: clock(), modules: Duration::ZERO }
    }

    /// Time since PID 1 began, modules apart.
    pub(crate) fn so_far(self) -> Duration {
        clock().saturating_sub(self.began).saturating_sub(self.modules)
    }
}

/// The monotonic clock, which both stages share.
fn clock() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map(Duration::from).unwrap_or_default()
}

/// Runs the stage; returns in the root, when that is to be ruled by this program. Turns the
/// machine off when it cannot go on.
pub(crate) fn run() -> Took {
    stage().unwrap_or_else(|error| {
        eprintln!("mvm-guest: cannot start: {error}");
        power::end_machine()
    })
}

fn stage() -> Result<Took, String> {
    let began = clock();
    mounts::kernel().into_iter().for_each(|error| eprintln!("mvm-guest: {error}"));
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let before_modules = clock();
    load_modules();
    let took = Took { began, modules: clock().saturating_sub(before_modules) };
    if has_word(&command_line, "mvm.probe") {
        println!("{PROBE_OK}");
        power::end_machine();
    }
    wait_for_device(Path::new(ROOT_DEVICE))?;
    let kind = value(&command_line, "rootfstype").unwrap_or("erofs");
    fs::create_dir_all(NEW_ROOT).map_err(|error| format!("{NEW_ROOT}: {error}"))?;
    mount(Some(ROOT_DEVICE), NEW_ROOT, Some(kind), MsFlags::MS_RDONLY, None::<&str>)
        .map_err(|error| format!("cannot mount {ROOT_DEVICE} as {kind}: {}", error.desc()))?;
    enter_root()?;
    if is_this_program(Path::new(INIT)) {
        return Ok(took);
    }
    let Err(error) = nix::unistd::execv(c"/sbin/init", &[c"/sbin/init"]);
    Err(format!("cannot run {INIT}: {}", error.desc()))
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

/// Makes the new root the root.
fn enter_root() -> Result<(), String> {
    let failed = |what: &str, error: nix::Error| format!("cannot {what}: {}", error.desc());
    for at in ["/proc", "/sys", "/dev"] {
        let to = format!("{NEW_ROOT}{at}");
        mount(Some(at), to.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|error| failed(&format!("move {at} to the root"), error))?;
    }
    std::env::set_current_dir(NEW_ROOT).map_err(|error| format!("{NEW_ROOT}: {error}"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|error| failed("move the root", error))?;
    nix::unistd::chroot(".").map_err(|error| failed("change the root", error))?;
    std::env::set_current_dir("/").map_err(|error| format!("/: {error}"))
}

/// Whether `program` is the one that runs now: of the same size and with the same first page,
/// which holds the linker's id of the build.
fn is_this_program(program: &Path) -> bool {
    let beginning = |path: &Path| -> std::io::Result<(u64, [u8; 4096])> {
        let mut file = File::open(path)?;
        let mut page = [0; 4096];
        file.read_exact(&mut page)?;
        Ok((file.metadata()?.len(), page))
    };
    match (beginning(program), beginning(Path::new("/proc/self/exe"))) {
        (Ok(there), Ok(here)) => there == here,
        _ => false,
    }
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
    fn a_program_is_known_by_its_beginning_and_size() {
        assert!(is_this_program(&std::env::current_exe().unwrap()));
        assert!(!is_this_program(Path::new("/bin/sh")));
        assert!(!is_this_program(Path::new("/no/such/program")));
    }

    #[test]
    fn the_command_line_is_read_by_words() {
        let line = "quiet rootfstype=ext4 mvm.probed rootfstype=erofs\n";
        assert_eq!(value(line, "rootfstype"), Some("erofs"));
        assert_eq!(value(line, "root"), None);
        assert!(!has_word(line, "mvm.probe"));
        assert!(has_word("a mvm.probe", "mvm.probe"));
    }
}
