//! The disk image: Debian's root and, added to it, what is under test.
//!
//! ```text
//! /usr/local/bin/{mvm, firecracker, jailer}        this build, the VMM
//! /usr/local/libexec/mvm/mvm-guest-x86_64          for images and guests
//! /usr/local/libexec/mvm-test/channel              the same, as the tests' way in
//! /var/lib/mvm/artifacts-cache/                    packages, and one revision: no network needed
//! /opt/guest -> that revision                      kernel, vmlinux, initrd, rootfs
//! /etc/mvm/host.json                               a proof may take long: it is emulated twice
//! /opt/archive                                     what apt knows: those packages, and no others
//! ```

use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::parts::Parts;

/// The disk's size. Sparse: what is not used costs nothing.
const SIZE: u64 = 8 << 30;
/// Where the product keeps images.
const CACHE: &str = "var/lib/mvm/artifacts-cache";
/// An image that nobody booted for so long is removed when another is made. Worlds hold links.
const KEEP: Duration = Duration::from_secs(20 * 60);

/// The image of these parts, made when it is not there yet.
///
/// # Errors
/// Why it cannot be made.
pub fn of(parts: &Parts, dir: &Path) -> Result<PathBuf, String> {
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let image = dir.join(format!("{:016x}", digest(parts)));
    if fs::File::open(&image).and_then(|file| file.set_modified(SystemTime::now())).is_ok() {
        return Ok(image);
    }
    remove_old(dir);
    let work = tempfile::tempdir_in(dir).map_err(|error| error.to_string())?;
    let (tree, made) = (work.path().join("tree"), work.path().join("image"));
    // Links: a tree of its own without a copy.
    run(Command::new("cp").arg("-al").arg(parts.root.join("tree")).arg(&tree))?;
    add(parts, &tree).map_err(|error| format!("cannot add this build: {error}"))?;
    format(&tree, &made)?;
    fs::rename(made, &image).map_err(|error| error.to_string())?;
    Ok(image)
}

/// What the image depends on: which files, of which size and age.
fn digest(parts: &Parts) -> u64 {
    let mut hasher = DefaultHasher::new();
    (include_str!("image.rs"), &parts.root, &parts.revision).hash(&mut hasher);
    for file in [&parts.mvm, &parts.guest, &parts.firecracker, &parts.jailer] {
        let at = fs::metadata(file).map(|it| (it.len(), it.mtime(), it.mtime_nsec())).ok();
        (file, at).hash(&mut hasher);
    }
    hasher.finish()
}

fn add(parts: &Parts, tree: &Path) -> Result<(), String> {
    let (bin, libexec) = (tree.join("usr/local/bin"), tree.join("usr/local/libexec"));
    for dir in [&bin, &libexec.join("mvm"), &libexec.join("mvm-test"), &tree.join("opt")] {
        fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    }
    // Without debug information: a third of the size, and nobody debugs in there.
    let stripped = bin.join("mvm");
    run(Command::new("objcopy").arg("--strip-all").arg(&parts.mvm).arg(&stripped))
        .or_else(|_| copy(&parts.mvm, &stripped))?;
    copy(&parts.firecracker, &bin.join("firecracker"))?;
    copy(&parts.jailer, &bin.join("jailer"))?;
    copy(&parts.guest, &libexec.join("mvm/mvm-guest-x86_64"))?;
    copy(&parts.guest, &libexec.join("mvm-test/channel"))?;
    let cache = tree.join(CACHE);
    fs::create_dir_all(cache.join("revisions")).map_err(|error| error.to_string())?;
    for part in ["packages", "index"] {
        run(Command::new("cp").arg("-a").arg(parts.artifacts.join(part)).arg(&cache))?;
    }
    // Large, and only for images nobody builds in there.
    let _ = fs::remove_dir_all(cache.join("packages/npm"));
    run(Command::new("cp").arg("-a").arg(&parts.revision).arg(cache.join("revisions/")))?;
    archive(parts, tree)?;
    let settings = tree.join("etc/mvm");
    fs::create_dir_all(&settings)
        .and_then(|()| fs::write(settings.join("host.json"), r#"{"probe_seconds": 60}"#))
        .map_err(|error| error.to_string())?;
    let name = parts.revision.file_name().unwrap_or_default();
    symlink(Path::new("/").join(CACHE).join("revisions").join(name), tree.join("opt/guest"))
        .map_err(|error| error.to_string())
}

/// An archive for apt that needs no network: the packages images are made from, without what a
/// whole system would need beside them. apt is asked, as on every host; that the store has the
/// files already is what it finds out.
fn archive(parts: &Parts, tree: &Path) -> Result<(), String> {
    let mut index = String::new();
    for deb in fs::read_dir(parts.artifacts.join("packages/debs")).into_iter().flatten().flatten() {
        let file = deb.file_name().to_string_lossy().into_owned();
        let control = output(Command::new("dpkg-deb").arg("--field").arg(deb.path()))?;
        let bytes = fs::read(deb.path()).map_err(|error| error.to_string())?;
        for field in ["Package", "Version", "Architecture"] {
            let line = control.lines().find(|line| line.starts_with(&format!("{field}:")));
            writeln!(index, "{}", line.unwrap_or_default()).map_err(|error| error.to_string())?;
        }
        let (size, sum) = (bytes.len(), mvm_model::Digest::of(&bytes));
        write!(index, "Filename: ./{file}\nSize: {size}\nSHA256: {sum}\n\n")
            .map_err(|error| error.to_string())?;
        if let Some(kernel) = file.split('_').next().filter(|it| it.starts_with("linux-image-")) {
            let (start, end) = ("Package: linux-image-cloud-amd64\nVersion: 1", "Size: 1");
            write!(
                index,
                "{start}\nArchitecture: amd64\nDepends: {kernel}\nFilename: ./meta\n{end}\n\n"
            )
            .map_err(|error| error.to_string())?;
        }
    }
    let dir = tree.join("opt/archive");
    let sources = "deb [trusted=yes] file:/opt/archive ./\n";
    // The tree's files are links to the root's.
    let list = tree.join("etc/apt/sources.list");
    let _ = fs::remove_file(&list);
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(dir.join("Packages"), index))
        .and_then(|()| fs::write(list, sources))
        .map_err(|error| error.to_string())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let told = |error| format!("{}: {error}", from.display());
    fs::copy(from, to).map(drop).map_err(told)
}

/// Nothing is left for the first boot to initialise.
fn format(tree: &Path, image: &Path) -> Result<(), String> {
    let file = fs::File::create(image).map_err(|error| error.to_string())?;
    file.set_len(SIZE).map_err(|error| error.to_string())?;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-N", "131072", "-O", "^resize_inode"]);
    mke2fs.args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-d"]);
    run(mke2fs.arg(tree).arg(image))
}

fn remove_old(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|it| it.modified()).map(|at| at.elapsed());
        if matches!(age, Ok(Ok(age)) if age > KEEP) {
            let path = entry.path();
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String, String> {
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{command:?}: {}", text(&output.stderr))),
    }
}
