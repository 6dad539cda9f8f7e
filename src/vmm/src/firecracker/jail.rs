//! A VM's jail: the directory that is the root of its Firecracker.
//!
//! ```text
//! <state>/jails/firecracker/<instance>-<nonce>/root/     made for one start, never used again
//!   kernel initrd drives/{root,data,secrets,config}      hard links; what is on another file
//!                                                         system (secrets) is mounted there
//!   snapshot/{devices,memory}                            linked when one is written or loaded
//!   log.fifo                                             the supervisor reads it
//!   firecracker firecracker.pid dev/ run/                the jailer's and Firecracker's own
//! ```
//!
//! The jailer gives the directories it makes to the VM's uid. Before a guest runs they are root's
//! again ([`close`]): a VMM that was taken over makes, renames and removes nothing, so it can neither
//! lay a link nor fill the disk. Whoever reads something here follows no link all the same. Whoever
//! comes next removes what a dead VM left.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_model::InstanceId;
use mvm_model::failpoint::{self, Effect};
use nix::fcntl::{FcntlArg, OFlag};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chown, fchown, mkfifo};

use super::config;
use crate::confine::Bind;
use crate::files;
use crate::process::{self, Handle, Waited};
use crate::snapshot::{self, SnapshotFiles};
use crate::spec::{Access, VmSpec};

/// What the jailer calls the directory between base and jail: the program's name.
const PROGRAM: &str = "firecracker";
/// How long a killed VMM may take to be gone.
const END: Duration = Duration::from_secs(5);
/// No longer than a pid and a line end.
const MAX_PID: u64 = 32;

/// Why a jail cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("failed to {doing} {}", path.display())]
pub struct JailError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError { doing, path: path.to_owned(), source }
}

/// The jail of one VM process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Jail {
    /// Its id for the jailer.
    pub(crate) id: String,
    base: PathBuf,
}

impl Jail {
    /// Makes a jail with everything a VM needs. What must be mounted in it comes back.
    pub(crate) fn prepare(base: &Path, spec: &VmSpec) -> Result<(Self, Vec<Bind>), JailError> {
        let nonce = nonce().map_err(at("name a jail in", base))?;
        let jail = Self { id: format!("{}-{nonce:08x}", spec.instance), base: base.to_owned() };
        let root = jail.root();
        failpoint::before(Effect::MakeJail).map_err(at("make", &root))?;
        make_dir(base, 0o700)?;
        make_dir(&base.join(PROGRAM), 0o700)?;
        fs::DirBuilder::new().mode(0o700).create(jail.dir()).map_err(at("make", &jail.dir()))?;
        make_dir(&root, 0o700)?;
        for dir in ["drives", "snapshot"] {
            make_dir(&root.join(dir), 0o755)?;
        }
        let binds = jail.fill(spec)?;
        failpoint::after(Effect::MakeJail).map_err(at("make", &root))?;
        Ok((jail, binds))
    }

    /// The directory that is the VM's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// The base the jailer is given.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    fn dir(&self) -> PathBuf {
        self.base.join(PROGRAM).join(&self.id)
    }

    fn fill(&self, spec: &VmSpec) -> Result<Vec<Bind>, JailError> {
        let mut binds = Vec::new();
        let boot = [(&spec.kernel, config::KERNEL), (&spec.initrd, config::INITRD)];
        let boot = boot.map(|(path, inside)| (path, inside.to_owned(), Access::ReadOnly));
        let names = config::DRIVES.iter().map(|name| config::drive_path(name));
        let drives = spec.drives.iter().zip(names);
        let drives = drives.map(|(drive, inside)| (&drive.path, inside, drive.access));
        for (path, inside, access) in boot.into_iter().chain(drives) {
            admit(path, access, spec).map_err(at("give the VM access to", path))?;
            let inside = self.root().join(inside.trim_start_matches('/'));
            binds.extend(show(path, &inside).map_err(at("show the VM", path))?);
        }
        Ok(binds)
    }

    /// The fifo Firecracker logs to.
    fn log_path(&self) -> PathBuf {
        self.root().join(config::LOG.trim_start_matches('/'))
    }

    /// Makes that fifo; returns its two ends.
    pub(crate) fn log(&self, spec: &VmSpec) -> Result<(OwnedFd, OwnedFd), JailError> {
        let path = self.log_path();
        let make = || {
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            chown(&path, Some(Uid::from_raw(spec.uid)), Some(Gid::from_raw(spec.gid)))?;
            let reader = read_log(&self.root())?;
            let writer = OpenOptions::new().write(true).open(&path)?;
            Ok((reader, writer.into()))
        };
        make().map_err(at("make", &path))
    }

    /// The pid the jailer wrote down. To be believed only together with what it leads to.
    pub(crate) fn pid(&self) -> Result<u32, JailError> {
        let path = self.root().join("firecracker.pid");
        let read = || {
            let file = files::open_beneath(&self.root(), "firecracker.pid", OFlag::O_RDONLY)?;
            let text = io::read_to_string(io::Read::take(file, MAX_PID))?;
            text.trim().parse().map_err(io::Error::other)
        };
        read().map_err(at("read", &path))
    }

    /// Whether a process runs the program that was copied into this jail.
    pub(crate) fn is_home_of(&self, pid: u32) -> io::Result<bool> {
        let inside = files::open_beneath(&self.root(), PROGRAM, OFlag::O_PATH)?.metadata()?;
        let runs = fs::metadata(format!("/proc/{pid}/exe"))?;
        Ok((inside.dev(), inside.ino()) == (runs.dev(), runs.ino()))
    }
}

/// The lock of the data drive of a jail whose VM has another supervisor now; `None` when there is
/// no such drive, or somebody else has it.
pub(crate) fn lock_data(root: &Path) -> Option<OwnedFd> {
    let name = config::drive_path("data");
    let drive = files::open_beneath(root, name.trim_start_matches('/'), OFlag::O_RDWR).ok()?;
    drive.try_lock().ok().map(|()| drive.into())
}

/// The directory of a jail's sockets.
pub(crate) const SOCKETS: &str = "run";
/// The other directories the jailer gives to the VM's uid.
pub(crate) const GIVEN: [&str; 3] = [".", "dev", "dev/net"];

/// Makes a directory of a jail root's: its VMM has made there what it needs.
pub(crate) fn close(root: &Path, dir: &str) -> Result<(), JailError> {
    let path = root.join(dir);
    let close = || {
        let dir = files::open_beneath(root, dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        // Its group stays the VM's.
        fchown(&dir, Some(Uid::from_raw(0)), None)?;
        dir.set_permissions(fs::Permissions::from_mode(0o750))
    };
    close().map_err(at("close", &path))
}

/// The reading end of a jail's log.
pub(crate) fn read_log(root: &Path) -> io::Result<OwnedFd> {
    let name = config::LOG.trim_start_matches('/');
    let reader = files::open_beneath(root, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    if !std::os::unix::fs::FileTypeExt::is_fifo(&reader.metadata()?.file_type()) {
        return Err(io::Error::other("it is no fifo"));
    }
    // Only opening must not wait; its reader has a thread of its own.
    nix::fcntl::fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(reader.into())
}

/// Removes the jails an instance's VMs left below a base. A VMM that still lives in one has no
/// record: its supervisor died before it wrote one. It is ended.
///
/// # Errors
/// When something stays.
pub fn remove_jails(base: &Path, instance: InstanceId) -> Result<(), JailError> {
    let prefix = format!("{instance}-");
    for entry in fs::read_dir(base.join(PROGRAM)).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            end_inhabitants(&entry.path()).map_err(at("end the VMM in", &entry.path()))?;
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the jail that has this root.
pub(crate) fn remove_jail(root: &Path) -> Result<(), JailError> {
    root.parent().map_or(Ok(()), remove)
}

/// Ends whatever runs the program that was copied into a jail.
fn end_inhabitants(jail: &Path) -> io::Result<()> {
    let program = match fs::symlink_metadata(jail.join("root").join(PROGRAM)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        program => program?,
    };
    let lives_there = |pid: &u32| {
        let runs = fs::metadata(format!("/proc/{pid}/exe"));
        runs.is_ok_and(|runs| (runs.dev(), runs.ino()) == (program.dev(), program.ino()))
    };
    let all = fs::read_dir("/proc")?.flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.filter(lives_there) {
        let Ok(process) = process::identify(pid) else { continue };
        let Some(handle) = Handle::open(&process)? else { continue };
        handle.signal(Signal::SIGKILL)?;
        if handle.wait(END)? == Waited::StillRunning {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<(), JailError> {
    failpoint::before(Effect::RemoveJail).map_err(at("remove", dir))?;
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", dir)(error)),
        _ => failpoint::after(Effect::RemoveJail).map_err(at("remove", dir)),
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), JailError> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at("make", path)(error)),
        _ => Ok(()),
    }
}

/// Lets the VM's uid open a file. One that everybody may read is left as it is; a drive it writes
/// becomes its own; others are shown to its group.
fn admit(path: &Path, access: Access, spec: &VmSpec) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    let mode = match access {
        Access::ReadOnly if meta.mode() & 0o004 != 0 => return Ok(()),
        Access::ReadOnly => {
            chown(path, Some(Uid::from_raw(0)), Some(gid))?;
            0o440 | (meta.mode() & 0o200)
        }
        Access::ReadWrite => {
            chown(path, Some(uid), Some(gid))?;
            0o600
        }
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a jail's name one that was never used.
fn nonce() -> io::Result<u32> {
    let mut bytes = [0; 4];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

/// A link where that is possible, else an empty file and what is to be mounted on it.
fn show(path: &Path, inside: &Path) -> io::Result<Option<Bind>> {
    let path = path.canonicalize()?;
    match fs::hard_link(&path, inside) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            OpenOptions::new().write(true).create_new(true).mode(0o400).open(inside)?;
            Ok(Some(Bind { from: path, to: inside.to_owned() }))
        }
        linked => linked.map(|()| None),
    }
}

/// A snapshot's files in the jail, for as long as this lives.
pub(crate) struct Shown {
    inside: [PathBuf; 2],
}

impl Shown {
    /// Makes empty files of full size that Firecracker may write.
    pub(crate) fn for_writing(
        root: &Path,
        files: &SnapshotFiles,
        owner: (u32, u32),
        memory_bytes: u64,
    ) -> io::Result<Self> {
        for path in [&files.memory, &files.devices] {
            let file = snapshot::create(path)?;
            refuse_content(&file)?;
            std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
        }
        // All of it will be written. To know now that there is room is better than half way.
        let memory = OpenOptions::new().write(true).open(&files.memory)?;
        let bytes = i64::try_from(memory_bytes).map_err(io::Error::other)?;
        nix::fcntl::fallocate(&memory, nix::fcntl::FallocateFlags::empty(), 0, bytes)?;
        Self::link(root, files)
    }

    /// Whether a snapshot's files are there: they are a running VM's memory, or somebody died while
    /// one was written or loaded.
    pub(crate) fn is_there(root: &Path) -> bool {
        fs::symlink_metadata(inside(root, config::SNAPSHOT_MEMORY)).is_ok()
    }

    /// Shows the files of a snapshot that is to be loaded.
    pub(crate) fn for_reading(root: &Path, files: &SnapshotFiles) -> io::Result<Self> {
        Self::link(root, files)
    }

    fn link(root: &Path, files: &SnapshotFiles) -> io::Result<Self> {
        let inside =
            [config::SNAPSHOT_MEMORY, config::SNAPSHOT_DEVICES].map(|path| inside(root, path));
        for (from, to) in [&files.memory, &files.devices].into_iter().zip(&inside) {
            files::remove_if_there(to)?;
            fs::hard_link(from, to)?;
        }
        Ok(Self { inside })
    }

    /// Takes them out of the jail.
    pub(crate) fn hide(self) -> io::Result<()> {
        self.inside.iter().try_for_each(|path| files::remove_if_there(path))
    }
}

/// Whether a snapshot of a jail's VM is being written, or was when its writer died: only while
/// Firecracker writes them do the files belong to the VM.
pub(crate) fn is_being_saved(root: &Path, uid: u32) -> bool {
    let path = inside(root, config::SNAPSHOT_MEMORY);
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.uid() == uid)
}

/// Takes what a writer that died left out of the jail of a VM that goes on. Files the VM was
/// loaded from stay.
pub(crate) fn forget_saved(root: &Path, uid: u32) -> io::Result<()> {
    if !is_being_saved(root, uid) {
        return Ok(());
    }
    [config::SNAPSHOT_MEMORY, config::SNAPSHOT_DEVICES]
        .iter()
        .try_for_each(|path| files::remove_if_there(&inside(root, path)))
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Makes a snapshot's files root's again, readable to the group of the VM that may load them.
pub(crate) fn take_back(files: &SnapshotFiles, gid: u32) -> io::Result<()> {
    for path in [&files.memory, &files.devices] {
        chown(path, Some(Uid::from_raw(0)), Some(Gid::from_raw(gid)))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o440))?;
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

/// What was there before would stay behind a shorter snapshot.
fn refuse_content(file: &File) -> io::Result<()> {
    match file.metadata()?.len() {
        0 => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not empty")),
    }
}

#[cfg(test)]
mod tests;
