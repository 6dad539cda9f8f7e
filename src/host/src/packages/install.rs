//! Programs on the host: which are missing, and installing the packages that bring them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Control;
use super::apt;
use super::catalog::Need;
use super::error::PackageError;
use super::lock;
use super::os::Os;
use super::process::{Interrupt, Job, Output, run};

const LOCK_LIMIT: Duration = Duration::from_secs(120);
const UPDATE_LIMIT: Duration = Duration::from_secs(180);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

/// Where programs are looked for besides `PATH`: a user's path often lacks the sbin folders.
const SYSTEM_DIRS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where a program is, looking through `PATH` and the system's folders.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from));
    dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Those of `needs` whose program is not there.
pub fn missing(needs: &[Need]) -> Vec<Need> {
    needs.iter().filter(|need| find_program(need.program).is_none()).copied().collect()
}

/// Installs what is missing of `needs`; nothing that is present is touched.
///
/// All of apt's output goes to `<log_dir>/apt.log`. Downloading can be cancelled; once dpkg
/// runs it is left to finish.
pub fn install(
    os: &Os,
    needs: &[Need],
    log_dir: &Path,
    control: Control<'_>,
) -> Result<(), PackageError> {
    let list = missing(needs);
    if list.is_empty() {
        return Ok(());
    }
    supported(os, &list)?;
    let packages: Vec<&str> = list.iter().map(|need| need.package).collect();
    as_root("installing packages", &format!("sudo apt-get install {}", packages.join(" ")))?;
    let log = log_file(log_dir)?;
    lock::wait_free(control, LOCK_LIMIT)?;
    download(&packages, &log, control)?;
    lock::wait_free(control, LOCK_LIMIT)?;
    let what = format!("installing {}", packages.join(", "));
    let args = ["install", "--no-download"].into_iter().chain(packages.iter().copied());
    step(&what, args, INSTALL_LIMIT, Interrupt::Finish, &log, control)?;
    match missing(&list).first() {
        None => Ok(()),
        Some(need) => Err(PackageError::StillMissing {
            package: need.package.into(),
            program: need.program.into(),
        }),
    }
}

fn supported(os: &Os, list: &[Need]) -> Result<(), PackageError> {
    if os.distro.is_some() {
        return Ok(());
    }
    let one = |need: &Need| format!("{} (package {} on Debian)", need.program, need.package);
    let packages = list.iter().map(one).collect::<Vec<_>>().join(", ");
    Err(PackageError::UnsupportedOs { os: os.pretty.clone(), packages })
}

pub(super) fn as_root(what: &str, command: &str) -> Result<(), PackageError> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err(PackageError::NotRoot { what: what.into(), command: command.into() }),
    }
}

fn log_file(dir: &Path) -> Result<PathBuf, PackageError> {
    std::fs::create_dir_all(dir).map_err(|source| PackageError::Io {
        what: "create",
        path: dir.into(),
        source,
    })?;
    Ok(dir.join("apt.log"))
}

/// Downloads first, refreshing the lists once when they are missing or out of date.
fn download(packages: &[&str], log: &Path, control: Control<'_>) -> Result<(), PackageError> {
    let what = format!("downloading {}", packages.join(", "));
    let args = || ["install", "--download-only"].into_iter().chain(packages.iter().copied());
    let once = || step(&what, args(), DOWNLOAD_LIMIT, Interrupt::Kill, log, control);
    match once() {
        Err(PackageError::NotFound { .. } | PackageError::Stale { .. }) => {
            let complaint = update(Some(log), control)?;
            once().map(drop).map_err(|error| complaint.unwrap_or(error))
        }
        result => result.map(drop),
    }
}

/// Refreshes the package lists. One archive of several that cannot be reached or is not signed
/// need not matter: the reason comes back, to be told when what follows fails.
pub(super) fn update(
    log: Option<&Path>,
    control: Control<'_>,
) -> Result<Option<PackageError>, PackageError> {
    let what = "refreshing package lists";
    as_root(what, "sudo apt-get update")?;
    lock::wait_free(control, LOCK_LIMIT)?;
    control.say(what);
    let mut command = apt::apt_get();
    command.arg("update");
    let (deadline, cancel, interrupt) = (UPDATE_LIMIT, control.cancel, Interrupt::Kill);
    let output = run(Job { what, command, deadline, cancel, interrupt, log, on_line: None })?;
    if output.status.success() {
        return Ok(apt::complaint(what, &output));
    }
    match apt::classify(what, &output, log) {
        error @ (PackageError::LockHeld { .. } | PackageError::NoSpace { .. }) => Err(error),
        complaint => Ok(Some(complaint)),
    }
}

/// One run of apt-get with its progress.
fn step<'a>(
    what: &str,
    args: impl Iterator<Item = &'a str>,
    deadline: Duration,
    interrupt: Interrupt,
    log: &Path,
    control: Control<'_>,
) -> Result<Output, PackageError> {
    control.say(what);
    let mut command = apt::apt_get();
    command.args(["-oAPT::Status-Fd=1"]).args(args);
    let tell = |line: &str| {
        if let Some(percent) = apt::percent(line) {
            control.at(what, percent, 100);
        }
    };
    let (cancel, log) = (control.cancel, Some(log));
    let job = Job { what, command, deadline, cancel, interrupt, log, on_line: Some(&tell) };
    let output = run(job)?;
    match output.status.success() {
        true => Ok(output),
        false => Err(apt::classify(what, &output, log)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::{Arch, Purpose, needs};
    use std::sync::atomic::AtomicBool;

    #[test]
    fn an_unknown_system_is_told_exactly_what_to_install() {
        let os = Os::parse("PRETTY_NAME=\"Fedora 40\"\nID=fedora");
        let absent = Need { package: "absent", program: "absent-tool", reason: "none" };
        let (sink, cancel) = (|_| (), AtomicBool::new(false));
        let control = Control::new(&sink, &cancel);
        let error = install(&os, &[absent], Path::new("/nonexistent"), control).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("Fedora 40") && text.contains("absent-tool"), "{text}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn nothing_is_done_for_what_is_present() {
        let present = Need { package: "absent", program: "sh", reason: "none" };
        let (sink, cancel) = (|_| (), AtomicBool::new(false));
        let control = Control::new(&sink, &cancel);
        let nowhere = Path::new("/nonexistent");
        install(&Os::parse(""), &[present], nowhere, control).unwrap();
        assert!(!nowhere.exists());
    }

    #[test]
    fn programs_are_found_in_the_system_folders() {
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-such-program-mvm"), None);
        assert!(missing(&needs(Arch::HOST, &Purpose::ALL)).len() <= Purpose::ALL.len());
    }
}
