//! What a host VM is made of, and why it is not where something is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything found.
pub struct Parts {
    /// The Debian root, its kernel and its initrd: what `root.sh` made.
    pub root: PathBuf,
    /// The program under test.
    pub mvm: PathBuf,
    /// The guest agent of the same build.
    pub guest: PathBuf,
    /// The VMM and what confines it.
    pub firecracker: PathBuf,
    pub jailer: PathBuf,
    /// The store of images and packages that tests share.
    pub artifacts: PathBuf,
    /// A revision in it: kernel, vmlinux, initrd, rootfs.
    pub revision: PathBuf,
}

/// Looks for everything, and makes the root where it is not there yet.
///
/// # Errors
/// What is missing.
pub fn find(cache: &Path) -> Result<Parts, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root".into());
    }
    if let Some(reason) = std::env::var_os("MVM_TEST_NO_HOSTVM") {
        return Err(reason.to_string_lossy().into_owned());
    }
    let mvm = PathBuf::from(env!("CARGO_BIN_EXE_mvm"));
    let artifacts = cache.join("artifacts");
    Ok(Parts {
        firecracker: program("firecracker", "MVM_FIRECRACKER", cache)?,
        jailer: program("jailer", "MVM_JAILER", cache)?,
        revision: revision(&artifacts, &guest(&mvm)?)?,
        guest: guest(&mvm)?,
        root: root(cache)?,
        artifacts,
        mvm,
    })
}

fn program(name: &str, variable: &str, cache: &Path) -> Result<PathBuf, String> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([cache.join("bin")]);
    let found = named.into_iter().chain(dirs.map(|dir| dir.join(name)));
    found.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        format!("{name} is neither ${variable}, nor in PATH, nor in {}/bin", cache.display())
    })
}

fn guest(mvm: &Path) -> Result<PathBuf, String> {
    let built = || {
        let target = mvm.parent()?.parent()?;
        Some(target.join("x86_64-unknown-linux-musl/guest/mvm-guest"))
    };
    std::env::var_os("MVM_GUEST")
        .map(PathBuf::from)
        .or_else(built)
        .filter(|file| file.is_file())
        .ok_or_else(|| "mvm-guest is not built".into())
}

/// The smallest image there is, as it was made or used last: one with this build's guest agent, as
/// `mvm bootstrap` in `tests/run` makes it, so that it need not be built in there.
fn revision(artifacts: &Path, guest: &Path) -> Result<PathBuf, String> {
    let guest = fs::read(guest).map_err(|error| format!("{}: {error}", guest.display()))?;
    let guest = mvm_model::Digest::of(&guest).to_string();
    let minimal = |dir: &Path, words: &[&str]| {
        let manifest = fs::read_to_string(dir.join("manifest.json")).unwrap_or_default();
        manifest.contains(r#""profile":"minimal""#) && words.iter().all(|it| manifest.contains(it))
    };
    let revisions = artifacts.join("revisions");
    newest(&revisions, |dir| minimal(dir, &[&guest, r#""role":"worker""#]))
        .or_else(|| newest(&revisions, |dir| minimal(dir, &[])))
        .ok_or_else(|| "no guest image was built yet (mvm bootstrap)".into())
}

fn root(cache: &Path) -> Result<PathBuf, String> {
    let kernel = std::env::var_os("MVM_TEST_KERNEL_DIR")
        .map(PathBuf::from)
        .or_else(|| newest(&cache.join("kernel"), |dir| dir.join("boot").exists()))
        .ok_or("the kernel package is not unpacked (tests/run does it)")?;
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/common/hostvm/root.sh");
    let made = Command::new(recipe).arg(kernel).arg(cache.join("hostvm/roots")).output();
    let made = made.map_err(|error| format!("root.sh: {error}"))?;
    if made.status.success() {
        return Ok(String::from_utf8_lossy(&made.stdout).trim().into());
    }
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    Err(format!("its root cannot be made: {}", said.lines().last().unwrap_or("no reason given")))
}

fn newest(dir: &Path, fits: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|dir| fits(dir))
        .max_by_key(|dir| fs::metadata(dir).and_then(|it| it.modified()).ok())
}
