//! The steps of a build.
//!
//! ```text
//! resolve packages ─► key known? ──yes──► that revision (milliseconds, no network)
//!        │ no
//!        ▼
//! lock ─► fetch, npm ─► kernel, vmlinux, initrd (boot.rs) ─► root ─► install (rename) ─► remember key
//! ```
//!
//! Everything up to `install` happens in a temporary directory; dropping it is the whole cleanup.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mvm_model::image::{ArchFiles, FileEntry, Manifest, Profile, Role};

use super::boot::Boot;
use super::error::{ImageError, io};
use super::guest::GuestBinary;
use super::inputs::Inputs;
use super::mkfs::Mkfs;
use super::npm::Npm;
use super::profile::{files_of, package_sets};
use super::rootfs::{Content, stage};
use super::store::{Lock, ROOTFS, Revision, Store};
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
    let npm = Npm::of(request.profile, request.arch)?;
    let fetcher = Fetcher::open(&store.packages(), distro, request.arch)?;
    let mkfs = Mkfs::detect(control);
    let sets = package_sets(request.profile);
    let resolved = sets.iter().map(|set| Ok((*set, fetcher.resolve(*set, control)?)));
    let resolved = resolved.collect::<Result<Vec<_>, ImageError>>()?;
    if let Some(known) = store.built(&Inputs::new(request, &mkfs, &resolved, npm).key()) {
        return Ok(known);
    }
    let lock = store.lock(control)?;
    let packages = fetch(&fetcher, sets, control)?;
    let chosen: Vec<_> = packages.iter().map(|(set, found, _)| (*set, found.clone())).collect();
    let inputs = Inputs::new(request, &mkfs, &chosen, npm);
    // Another process may have built it while we waited, or newer packages led back to it.
    if let Some(known) = store.built(&inputs.key()) {
        return Ok(known);
    }
    let runtime = packages.iter().find(|(set, _, _)| Some(*set) == files_of(request.profile));
    let libraries = runtime.map_or(&[][..], |(_, _, files)| files);
    let ready = npm.map(|npm| npm.ensure(store, libraries, control)).transpose()?;
    let ready = ready.as_deref();
    let work = Work { store, lock: &lock, request, control, inputs: &inputs, ready };
    let revision = work.build(&mkfs, &packages)?;
    store.remember(&inputs.key(), &revision.digest)?;
    Ok(revision)
}

/// Each set with its packages and their files, in the same order.
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
pub(super) struct Work<'a> {
    pub(super) store: &'a Store,
    pub(super) request: &'a Request,
    pub(super) control: Control<'a>,
    pub(super) inputs: &'a Inputs,
    lock: &'a Lock,
    /// Files of the profile that are laid out already.
    ready: Option<&'a Path>,
}

impl Work<'_> {
    fn build(&self, mkfs: &[Mkfs], packages: &Packages) -> Result<Revision, ImageError> {
        let shop = self.store.workshop()?;
        let out = shop.path().join("revision");
        fs::create_dir(&out).map_err(io("create", &out))?;
        let mut unpacked = Unpacked::new(shop.path(), packages);
        let boot = self.boot(mkfs, &mut unpacked, &out)?;
        let rootfs = self.root(shop.path(), &mut unpacked, boot.mkfs, &out)?;
        self.step("sealing the image")?;
        let manifest = self.manifest(boot, rootfs);
        self.store.install(self.lock, &out, &manifest, self.control)
    }

    /// Says what comes next, unless the caller wants to stop.
    pub(super) fn step(&self, what: &str) -> Result<(), ImageError> {
        if self.control.cancelled() {
            return Err(ImageError::Cancelled { what: what.into() });
        }
        self.control.say(what);
        Ok(())
    }

    fn root(
        &self,
        shop: &Path,
        unpacked: &mut Unpacked<'_>,
        mkfs: &Mkfs,
        out: &Path,
    ) -> Result<FileEntry, ImageError> {
        let no = || ImageError::Content { what: "no busybox package was unpacked".into() };
        let busybox = unpacked.dirs(PackageSet::Busybox, self.control)?;
        let busybox = busybox.first().cloned().ok_or_else(no)?;
        self.step("making the root file system")?;
        let content = Content {
            profile: self.request.profile,
            role: &self.request.role,
            guest: &self.request.guest.bytes,
            busybox: &busybox,
            packages: match files_of(self.request.profile) {
                Some(set) => unpacked.dirs(set, self.control)?,
                None => &[],
            },
            ready: self.ready,
        };
        let tree = stage(shop.join("root"), &content, self.control.cancel)?;
        mkfs.write(&tree, &out.join(ROOTFS), self.control)?;
        self.store.seal(out, ROOTFS)
    }

    fn manifest(&self, boot: Boot<'_>, rootfs: FileEntry) -> Manifest {
        let files = ArchFiles {
            kernel: boot.kernel,
            vmlinux: boot.vmlinux,
            kernel_release: boot.release,
            initrd: boot.initrd,
            rootfs,
            rootfs_type: boot.mkfs.kind().into(),
        };
        Manifest {
            schema_version: 1,
            profile: self.request.profile.into(),
            role: self.request.role.clone(),
            builder: "embedded".into(),
            guest_proto: self.request.guest_proto,
            inputs: self.inputs.manifest(boot.mkfs),
            arch: BTreeMap::from([(self.request.arch.to_string(), files)]),
            workload: workload(self.request.profile, &self.request.role),
        }
    }
}

/// Packages unpacked when they are first needed, each into a directory of its own.
pub(super) struct Unpacked<'a> {
    shop: &'a Path,
    packages: &'a Packages,
    done: BTreeMap<&'static str, Vec<PathBuf>>,
}

impl<'a> Unpacked<'a> {
    fn new(shop: &'a Path, packages: &'a Packages) -> Self {
        Self { shop, packages, done: BTreeMap::new() }
    }

    /// The directories of a set's packages; none when the profile does not have the set.
    pub(super) fn dirs(
        &mut self,
        set: PackageSet,
        control: Control<'_>,
    ) -> Result<&[PathBuf], ImageError> {
        if !self.done.contains_key(set.as_str()) {
            let dirs = self.unpack(set, control)?;
            self.done.insert(set.as_str(), dirs);
        }
        Ok(self.done.get(set.as_str()).map_or(&[], Vec::as_slice))
    }

    fn unpack(&self, set: PackageSet, control: Control<'_>) -> Result<Vec<PathBuf>, ImageError> {
        let ours = self.packages.iter().filter(|(this, _, _)| *this == set);
        let files = ours.flat_map(|(_, resolved, files)| resolved.packages.iter().zip(files));
        let one = |(package, file): (&crate::packages::Package, &PathBuf)| {
            let dir = self.shop.join(format!("unpacked-{}-{}", set.as_str(), package.name));
            unpack(file, &dir, control)?;
            Ok(dir)
        };
        files.map(one).collect()
    }
}
