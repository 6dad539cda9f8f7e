//! The steps of a build.
//!
//! ```text
//! resolve packages ─► key known? ──yes──► that revision (milliseconds, no network)
//!        │ no
//!        ▼
//! lock ─► fetch ─► kernel, vmlinux ─► initrd ─► root ─► seal ─► install (rename) ─► remember key
//! ```
//!
//! Everything up to `install` happens in a temporary directory; dropping it is the whole cleanup.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mvm_model::image::{ArchFiles, Manifest, Profile, Role};

use super::error::{ImageError, io};
use super::guest::GuestBinary;
use super::initrd::initrd;
use super::inputs::Inputs;
use super::kernel::kernel_files;
use super::mkfs::Mkfs;
use super::modules::{ModuleTree, WANTED};
use super::profile::package_sets;
use super::rootfs::{Content, stage};
use super::store::{INITRD, KERNEL, Lock, ROOTFS, Revision, Store, VMLINUX};
use super::workload::workload;
use crate::packages::{Arch, Control, Fetcher, Os, PackageSet, Resolved, unpack};

/// What to build.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the image holds.
    pub profile: Profile,
    /// What its guests are for.
    pub role: Role,
    /// The architecture, which must be the host's.
    pub arch: Arch,
    /// The guest agent.
    pub guest: GuestBinary,
    /// The protocol version that agent speaks.
    pub guest_proto: u32,
}

/// Builds an image, or finds the one that was built from the same inputs.
pub fn build(
    store: &Store,
    os: &Os,
    request: &Request,
    control: Control<'_>,
) -> Result<Revision, ImageError> {
    let unknown = || ImageError::UnsupportedOs { os: os.pretty.clone() };
    let distro = os.distro.ok_or_else(unknown)?;
    let fetcher = Fetcher::open(&store.packages(), distro, request.arch)?;
    let mkfs = Mkfs::detect(control);
    let sets = package_sets(request.profile);
    let resolved = sets.iter().map(|set| Ok((*set, fetcher.resolve(*set, control)?)));
    let resolved = resolved.collect::<Result<Vec<_>, ImageError>>()?;
    if let Some(known) = store.built(&Inputs::new(request, &mkfs, &resolved).key()) {
        return Ok(known);
    }
    let lock = store.lock(control)?;
    let packages = fetch(&fetcher, sets, control)?;
    let chosen: Vec<_> = packages.iter().map(|(set, found, _)| (*set, found.clone())).collect();
    let inputs = Inputs::new(request, &mkfs, &chosen);
    // Another process may have built it while we waited, or newer packages led back to it.
    if let Some(known) = store.built(&inputs.key()) {
        return Ok(known);
    }
    let work = Work { store, lock: &lock, request, control, inputs: &inputs };
    let revision = work.build(&mkfs, &packages)?;
    store.remember(&inputs.key(), &revision.digest)?;
    Ok(revision)
}

type Packages = Vec<(PackageSet, Resolved, Vec<PathBuf>)>;

fn fetch(
    fetcher: &Fetcher,
    sets: &[PackageSet],
    control: Control<'_>,
) -> Result<Packages, ImageError> {
    let one = |set: &PackageSet| {
        let (resolved, files) = fetcher.fetch(*set, control)?;
        Ok((*set, resolved, files))
    };
    sets.iter().map(one).collect()
}

/// One build under way.
struct Work<'a> {
    store: &'a Store,
    lock: &'a Lock,
    request: &'a Request,
    control: Control<'a>,
    inputs: &'a Inputs,
}

impl Work<'_> {
    fn build(&self, mkfs: &[Mkfs], packages: &Packages) -> Result<Revision, ImageError> {
        let shop = self.store.workshop()?;
        let out = shop.path().join("revision");
        fs::create_dir(&out).map_err(io("create", &out))?;
        let unpacked = self.unpack_all(shop.path(), packages)?;
        let kernel = unpacked.get(PackageSet::Kernel.as_str()).cloned().unwrap_or_default();
        let tree = merged_modules(&kernel)?;
        self.step("extracting the kernel")?;
        self.kernel(&kernel, &tree, &out)?;
        self.step("writing the initrd")?;
        let bytes = initrd(&self.request.guest.bytes, &tree.order(&WANTED)?);
        write(&out.join(INITRD), &bytes)?;
        self.step("making the root file system")?;
        let mkfs = Mkfs::choose(mkfs, &tree)?;
        self.root(shop.path(), &unpacked, mkfs, &out)?;
        self.step("sealing the image")?;
        let manifest = self.manifest(mkfs, &tree, &out)?;
        self.store.install(self.lock, &out, &manifest, self.control)
    }

    /// Says what comes next, unless the caller wants to stop.
    fn step(&self, what: &str) -> Result<(), ImageError> {
        if self.control.cancelled() {
            return Err(ImageError::Cancelled { what: what.into() });
        }
        self.control.say(what);
        Ok(())
    }

    /// Unpacks every package into a directory of its own, by set.
    fn unpack_all(
        &self,
        shop: &Path,
        packages: &Packages,
    ) -> Result<BTreeMap<&'static str, Vec<PathBuf>>, ImageError> {
        let mut all = BTreeMap::new();
        for (set, resolved, files) in packages {
            let mut dirs = Vec::new();
            for (package, file) in resolved.packages.iter().zip(files) {
                let dir = shop.join(format!("unpacked-{}-{}", set.as_str(), package.name));
                unpack(file, &dir, self.control)?;
                dirs.push(dir);
            }
            all.insert(set.as_str(), dirs);
        }
        Ok(all)
    }

    /// Writes `kernel` and `vmlinux`, or links those of a revision made from the same kernel.
    fn kernel(&self, from: &[PathBuf], tree: &ModuleTree, out: &Path) -> Result<(), ImageError> {
        if self.reuse_kernel(out)? {
            return Ok(());
        }
        let name = format!("boot/vmlinuz-{}", tree.release);
        let no = || ImageError::Content { what: format!("the kernel package has no {name}") };
        let path = from.iter().map(|dir| dir.join(&name)).find(|path| path.is_file());
        let path = path.ok_or_else(no)?;
        let bytes = fs::read(&path).map_err(io("read", &path))?;
        let files = kernel_files(bytes, self.request.arch)
            .map_err(|source| ImageError::Kernel { file: PathBuf::from(&name), source })?;
        write(&out.join(KERNEL), &files.kernel)?;
        write(&out.join(VMLINUX), &files.vmlinux)
    }

    /// Roles and profiles share a kernel: the files are one on disk.
    fn reuse_kernel(&self, out: &Path) -> Result<bool, ImageError> {
        let part = self.inputs.kernel_part();
        let made_from_it = |revision: &Revision| {
            let inputs = &revision.manifest.inputs;
            revision.arch(self.request.arch).is_ok()
                && part.iter().all(|(key, value)| inputs.get(key) == Some(value))
        };
        for revision in self.store.list()?.iter().filter(|revision| made_from_it(revision)) {
            if self.store.share(revision, self.request.arch, out)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn root(
        &self,
        shop: &Path,
        unpacked: &BTreeMap<&'static str, Vec<PathBuf>>,
        mkfs: &Mkfs,
        out: &Path,
    ) -> Result<(), ImageError> {
        let of = |set: PackageSet| unpacked.get(set.as_str()).cloned().unwrap_or_default();
        let busybox = of(PackageSet::Busybox).pop().unwrap_or_default();
        let content = Content {
            profile: self.request.profile,
            role: &self.request.role,
            guest: &self.request.guest.bytes,
            busybox: &busybox,
            packages: &of(PackageSet::Node),
        };
        let tree = stage(shop.join("root"), &content, self.control.cancel)?;
        mkfs.write(&tree, &out.join(ROOTFS), self.control)
    }

    fn manifest(&self, mkfs: &Mkfs, tree: &ModuleTree, out: &Path) -> Result<Manifest, ImageError> {
        let seal = |name| self.store.seal(out, name);
        let files = ArchFiles {
            kernel: seal(KERNEL)?,
            vmlinux: seal(VMLINUX)?,
            kernel_release: tree.release.clone(),
            initrd: seal(INITRD)?,
            rootfs: seal(ROOTFS)?,
            rootfs_type: mkfs.kind().into(),
        };
        Ok(Manifest {
            schema_version: 1,
            profile: self.request.profile,
            role: self.request.role.clone(),
            builder: "embedded".into(),
            guest_proto: self.request.guest_proto,
            inputs: self.inputs.manifest(mkfs),
            arch: BTreeMap::from([(self.request.arch.to_string(), files)]),
            workload: workload(&self.request.role),
        })
    }
}

/// The modules of a kernel: Debian ships them with the image, Ubuntu in a package beside it.
fn merged_modules(kernel: &[PathBuf]) -> Result<ModuleTree, ImageError> {
    let mut found = kernel.iter().map(|dir| ModuleTree::open(dir));
    let no = || ImageError::Content { what: "no kernel package was unpacked".into() };
    let first = found.next().ok_or_else(no)?;
    found.fold(first, |best, next| if best.is_ok() { best } else { next })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    fs::write(path, bytes).map_err(io("write", path))
}
