//! What the image tests share: packages fetched once per machine, images built once per run,
//! stores of a test's own, small verbs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex};

use mvm_host::image::{
    GuestBinary, ImageError, NpmError, Request, Revision, Store, build, find_guest,
};
use mvm_host::packages::{Arch, Control, Fetcher, Os, PackageSet, find_program};
use mvm_host::progress::Progress;
use mvm_model::image::{Profile, Role};

use crate::skip::skip;

static GO_ON: AtomicBool = AtomicBool::new(false);
/// What all tests build on, made ready once, or why it cannot be.
static READY: LazyLock<Result<World, String>> = LazyLock::new(World::prepare);

/// A machine that can build images.
#[derive(Clone)]
pub struct World {
    /// The agent that goes into every image.
    pub guest: GuestBinary,
    /// A package cache that outlives the test: packages are downloaded once per machine.
    packages: PathBuf,
    /// A cache directory with a worker, a gateway and a node image of this run.
    built: PathBuf,
    said: Arc<Mutex<Vec<String>>>,
}

/// A store of a test's own.
pub struct OwnStore {
    /// The store.
    pub store: Store,
    dir: tempfile::TempDir,
}

impl OwnStore {
    /// Its cache directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let given = std::env::var_os("MVM_TEST_CACHE").map(PathBuf::from);
    given.unwrap_or_else(|| base().unwrap_or_else(std::env::temp_dir).join("mvm-test"))
}

fn request(guest: &GuestBinary, profile: Profile, role: Role) -> Request {
    Request { profile, role, arch: Arch::HOST, guest: guest.clone(), guest_proto: 1 }
}

impl World {
    /// The world, or `None` with the skip told.
    pub fn enter(test: &str) -> Option<Self> {
        match &*READY {
            Ok(world) => Some(Self { said: Arc::default(), ..world.clone() }),
            Err(reason) => {
                skip(test, reason);
                None
            }
        }
    }

    fn prepare() -> Result<Self, String> {
        let distro = Os::detect().distro.ok_or("no distribution whose packages we know")?;
        for tool in ["apt-get", "dpkg-deb", "mkfs.erofs"] {
            find_program(tool).ok_or_else(|| format!("no {tool}"))?;
        }
        let control = Control::new(&|_: Progress| (), &GO_ON);
        let guest = find_guest(Arch::HOST, control).map_err(|error| error.to_string())?;
        let packages = cache().join("image-packages");
        let fetcher = Fetcher::open(&packages, distro, Arch::HOST);
        let fetcher = fetcher.map_err(|error| error.to_string())?;
        for set in [PackageSet::Kernel, PackageSet::Busybox, PackageSet::Node] {
            fetcher.fetch(set, control).map_err(|error| error.to_string())?;
        }
        // One place, so that what is left of a run is gone after the next.
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-store");
        let _ = fs::remove_dir_all(&built);
        let world = Self { guest, packages, built, said: Arc::default() };
        world.stock(&world.built);
        let store = Store::open(&world.built).unwrap();
        for (profile, role) in [
            (Profile::Minimal, Role::Worker),
            (Profile::Minimal, Role::Gateway),
            (Profile::Node, Role::Worker),
        ] {
            world.build(&store, profile, role).unwrap();
        }
        Ok(world)
    }

    /// The same world with another guest agent, so that boot files differ: the same program with
    /// a byte more at its end. Returns where it lies, too.
    pub fn with_other_guest(&self) -> (Self, tempfile::NamedTempFile) {
        let mut bytes = fs::read(&self.guest.path).unwrap();
        bytes.push(0);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let guest = GuestBinary::read(file.path(), Arch::HOST).unwrap();
        (Self { guest, said: Arc::default(), ..self.clone() }, file)
    }

    /// An empty store that has the packages already.
    pub fn store(&self) -> OwnStore {
        let dir = tempfile::tempdir().unwrap();
        self.stock(dir.path());
        OwnStore { store: Store::open(dir.path()).unwrap(), dir }
    }

    /// A store with an openclaw gateway, whose packages are installed once per machine and kept
    /// with the others. The reason, where they cannot be had.
    pub fn openclaw(&self) -> Result<(OwnStore, Revision), String> {
        if Arch::HOST != Arch::X86_64 || find_program("npm").is_none() {
            return Err("needs x86_64 and npm".into());
        }
        let here = self.store();
        let (kept, own) = (self.packages.join("npm"), here.path().join("packages/npm"));
        fs::create_dir_all(&kept).unwrap();
        copy_missing(&kept, &own);
        let built = match self.build(&here.store, Profile::OpenClaw, Role::Gateway) {
            Ok(built) => built,
            Err(ImageError::Npm(error @ NpmError::NoNetwork { .. })) => {
                return Err(error.to_string());
            }
            Err(error) => panic!("{error}: {error:?}"),
        };
        copy_missing(&own, &kept);
        Ok((here, built))
    }

    /// A store that has this run's images: links to one copy, so do not write into them.
    pub fn built(&self) -> OwnStore {
        let dir = tempfile::tempdir().unwrap();
        copy_all(&self.built, dir.path());
        OwnStore { store: Store::open(dir.path()).unwrap(), dir }
    }

    /// Gives the store below `cache` the distribution's packages: of npm's there are hundreds of
    /// megabytes, which the tests that stock a store do not build from.
    pub fn stock(&self, cache: &Path) {
        let packages = cache.join("packages");
        fs::create_dir_all(&packages).unwrap();
        for entry in fs::read_dir(&self.packages).unwrap().flatten() {
            let (from, to) = (entry.path(), packages.join(entry.file_name()));
            match entry.file_name().to_str() {
                Some("debs" | "apt") => copy_all(&from, &to),
                _ if from.is_file() => drop(fs::copy(&from, &to).unwrap()),
                _ => {}
            }
        }
    }

    /// Builds, remembering what was said.
    pub fn build(
        &self,
        store: &Store,
        profile: Profile,
        role: Role,
    ) -> Result<Revision, ImageError> {
        let sink = |progress: Progress| self.said.lock().unwrap().push(progress.what);
        let control = Control::new(&sink, &GO_ON);
        build(store, &Os::detect(), &request(&self.guest, profile, role), control)
    }

    /// Builds, stopping as soon as something that holds `word` is said.
    pub fn build_until(&self, store: &Store, word: &str) -> Result<Revision, ImageError> {
        let cancel = AtomicBool::new(false);
        let sink = |progress: Progress| {
            if progress.what.contains(word) {
                cancel.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let request = request(&self.guest, Profile::Minimal, Role::Worker);
        build(store, &Os::detect(), &request, Control::new(&sink, &cancel))
    }

    /// Whether a build said this.
    pub fn said(&self, words: &str) -> bool {
        self.said.lock().unwrap().iter().any(|line| line.contains(words))
    }

    /// A control nobody watches.
    pub fn control(&self) -> Control<'static> {
        Control::new(&|_: Progress| (), &GO_ON)
    }

    /// The root of a revision as a directory.
    pub fn extract(&self, revision: &Revision) -> Option<tempfile::TempDir> {
        if find_program("fsck.erofs").is_none() || !nix::unistd::geteuid().is_root() {
            skip("extracting a root", "needs fsck.erofs and root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let option = format!("--extract={}", dir.path().display());
        let rootfs = revision.files(Arch::HOST).unwrap().rootfs;
        shell("fsck.erofs", &[&option, "--overwrite", rootfs.to_str().unwrap()]);
        Some(dir)
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else if fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Copies those directories below `from` that are not below `to`, each whole or not at all.
fn copy_missing(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if !target.exists() {
            let beside = tempfile::Builder::new().prefix("new-").tempdir_in(to).unwrap();
            copy_all(&entry.path(), &beside.path().join("it"));
            let _ = fs::rename(beside.path().join("it"), target);
        }
    }
}

/// Builds a worker with the guest agent `$MVM_GUEST`, saying each step on standard output.
pub fn build_aloud(store: &Store) -> Result<Revision, ImageError> {
    let sink = |progress: Progress| println!("{}", progress.what);
    let control = Control::new(&sink, &GO_ON);
    let guest = find_guest(Arch::HOST, control)?;
    build(store, &Os::detect(), &request(&guest, Profile::Minimal, Role::Worker), control)
}

/// Runs something in a thread whose namespaces and umask are its own.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            work()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Puts this thread into an empty network namespace, as far as we may.
pub fn without_network() {
    let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
}

/// Runs a program that must succeed; its standard output.
pub fn shell(program: &str, args: &[&str]) -> String {
    let path = find_program(program).unwrap_or_else(|| panic!("no {program}"));
    let output = Command::new(path).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Changes one byte of a file; other links to it keep the old content.
pub fn flip_byte(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] = !bytes[at];
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}
