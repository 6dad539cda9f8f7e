//! The files a guest boots from before it has a root: kernel, vmlinux, initrd.
//!
//! Roles and profiles have them in common, so an earlier revision made from the same kernel (and,
//! for the initrd, the same guest agent) lends its files: no unpacking, and one copy on disk.
//! What is lent is what would have been made, byte for byte.

use std::fs;
use std::path::{Path, PathBuf};

use mvm_model::image::{ArchFiles, FileEntry};

use super::build::{Unpacked, Work};
use super::error::{ImageError, io};
use super::initrd::initrd;
use super::kernel::kernel_files;
use super::mkfs::Mkfs;
use super::modules::{ModuleTree, WANTED};
use super::store::{INITRD, KERNEL, Revision, VMLINUX};
use crate::packages::PackageSet;

/// The boot files of a build, sealed, and what follows from its kernel.
pub(super) struct Boot<'a> {
    pub(super) kernel: FileEntry,
    pub(super) vmlinux: FileEntry,
    pub(super) initrd: FileEntry,
    /// `uname -r`.
    pub(super) release: String,
    /// Makes the root this kernel mounts.
    pub(super) mkfs: &'a Mkfs,
}

/// How much of a revision's boot files a build can use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Same {
    /// The kernel, but the guest agent or the root's type differ.
    Kernel,
    /// All of them.
    All,
}

impl Work<'_> {
    /// Brings the boot files into `out`.
    pub(super) fn boot<'a>(
        &self,
        mkfs: &'a [Mkfs],
        unpacked: &mut Unpacked<'_>,
        out: &Path,
    ) -> Result<Boot<'a>, ImageError> {
        let lenders = self.lenders(mkfs)?;
        if let Some(boot) = self.lent(&lenders, mkfs, out)? {
            return Ok(boot);
        }
        let dirs = unpacked.dirs(PackageSet::Kernel, self.control)?;
        let tree = module_tree(dirs)?;
        self.step("extracting the kernel")?;
        let (kernel, vmlinux) = self.kernel(&lenders, dirs, &tree, out)?;
        self.step("writing the initrd")?;
        let bytes = initrd(&self.request.guest.bytes, &tree.order(&WANTED)?);
        write(&out.join(INITRD), &bytes)?;
        let initrd = self.store.seal(out, INITRD)?;
        let mkfs = Mkfs::choose(mkfs, &tree)?;
        Ok(Boot { kernel, vmlinux, initrd, release: tree.release, mkfs })
    }

    /// Revisions made from the same kernel package.
    fn lenders(&self, mkfs: &[Mkfs]) -> Result<Vec<(Revision, Same)>, ImageError> {
        let part = self.inputs.kernel_part();
        let guest = Some(self.request.guest.digest.as_str());
        let judge = |revision: Revision| {
            let inputs = &revision.manifest.inputs;
            let files = revision.arch(self.request.arch).ok()?;
            part.iter().all(|(key, value)| inputs.get(key) == Some(value)).then_some(())?;
            // Only a root of the best type this host can make shows that its kernel mounts it:
            // then a fresh build would choose the same.
            let best = mkfs.first().is_some_and(|best| best.kind() == files.rootfs_type);
            let same = inputs.get("guest").map(String::as_str) == guest && best;
            Some((revision, if same { Same::All } else { Same::Kernel }))
        };
        Ok(self.store.list()?.into_iter().filter_map(judge).collect())
    }

    fn lent<'a>(
        &self,
        lenders: &[(Revision, Same)],
        mkfs: &'a [Mkfs],
        out: &Path,
    ) -> Result<Option<Boot<'a>>, ImageError> {
        let Some(mkfs) = mkfs.first() else { return Ok(None) };
        for (revision, _) in lenders.iter().filter(|(_, same)| *same == Same::All) {
            let ArchFiles { kernel, vmlinux, initrd, kernel_release, .. } =
                revision.arch(self.request.arch)?.clone();
            if self.store.share(revision, &[&kernel, &vmlinux, &initrd], out)? {
                return Ok(Some(Boot { kernel, vmlinux, initrd, release: kernel_release, mkfs }));
            }
        }
        Ok(None)
    }

    fn kernel(
        &self,
        lenders: &[(Revision, Same)],
        unpacked: &[PathBuf],
        tree: &ModuleTree,
        out: &Path,
    ) -> Result<(FileEntry, FileEntry), ImageError> {
        for (revision, _) in lenders {
            let ArchFiles { kernel, vmlinux, .. } = revision.arch(self.request.arch)?.clone();
            if self.store.share(revision, &[&kernel, &vmlinux], out)? {
                return Ok((kernel, vmlinux));
            }
        }
        let name = format!("boot/vmlinuz-{}", tree.release);
        let no = || ImageError::Content { what: format!("the kernel package has no {name}") };
        let path = unpacked.iter().map(|dir| dir.join(&name)).find(|path| path.is_file());
        let path = path.ok_or_else(no)?;
        let bytes = fs::read(&path).map_err(io("read", &path))?;
        let files = kernel_files(bytes, self.request.arch)
            .map_err(|source| ImageError::Kernel { file: PathBuf::from(&name), source })?;
        write(&out.join(KERNEL), &files.kernel)?;
        write(&out.join(VMLINUX), &files.vmlinux)?;
        Ok((self.store.seal(out, KERNEL)?, self.store.seal(out, VMLINUX)?))
    }
}

/// The modules of a kernel: Debian ships them with the image, Ubuntu in a package beside it.
fn module_tree(unpacked: &[PathBuf]) -> Result<ModuleTree, ImageError> {
    let mut found = unpacked.iter().map(|dir| ModuleTree::open(dir));
    let no = || ImageError::Content { what: "no kernel package was unpacked".into() };
    let first = found.next().ok_or_else(no)?;
    found.fold(first, |best, next| if best.is_ok() { best } else { next })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    fs::write(path, bytes).map_err(io("write", path))
}
