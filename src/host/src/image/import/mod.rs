//! Images made elsewhere: what Nix built, or a directory or archive somebody brings.
//!
//! ```text
//! directory ─► contract.rs  manifest.json, strict ──┐
//! (archive.rs: from a .tar)                         ├─► files.rs  opened beneath it, checked,
//!                                                   │              copied, sealed ─► install
//!              a revision of ours ──────────────────┘  (manifest with digests: the same revision)
//! ```
//!
//! Nothing in it is trusted: only plain files directly in the directory are opened, never through
//! a link; kinds and sizes are checked; digests are computed here. The output contract is written
//! down in `docs/reference/image-output.md`.

mod archive;
mod contract;
mod files;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mvm_model::image::{ArchFiles, Builder, Manifest, Role};
use mvm_model::name::ProfileName;

use super::error::{ImageError, io};
use super::store::{INITRD, KERNEL, MANIFEST, ROOTFS, Revision, Store, VMLINUX};
use crate::packages::{Arch, Control};
use contract::Contract;
use files::Source;

/// Images in a directory or an archive.
#[derive(Debug, Clone)]
pub struct Import<'a> {
    /// The directory, or a file: `.tar`, also compressed.
    pub from: &'a Path,
    /// Who built it.
    pub builder: Builder,
    /// What the manifest says about where it comes from.
    pub inputs: BTreeMap<String, String>,
    /// Profile and role it must be for, when that is known.
    pub wanted: Option<(ProfileName, Role)>,
    /// The newest guest protocol we speak.
    pub guest_proto: u32,
}

/// Copies an image into the store.
///
/// # Errors
/// [`ImageError::Import`] saying which file is not as it should be; nothing is kept then.
pub fn import(
    store: &Store,
    import: &Import<'_>,
    control: Control<'_>,
) -> Result<Revision, ImageError> {
    let lock = store.lock(control)?;
    let shop = store.workshop()?;
    let unpacked = shop.path().join("unpacked");
    let is_archive = fs::metadata(import.from).map_err(io("read", import.from))?.is_file();
    let from = match is_archive {
        true => {
            archive::unpack(import.from, &unpacked, control)?;
            &unpacked
        }
        false => import.from,
    };
    let out = shop.path().join("revision");
    fs::create_dir(&out).map_err(io("create", &out))?;
    let source = Source::open(from)?;
    let text = source.small(MANIFEST)?;
    let work = Work { store, source: &source, out: &out, control };
    let manifest = match serde_json::from_slice::<Manifest>(&text) {
        Ok(manifest) if manifest.to_bytes() == text => {
            work.again(manifest, import.wanted.as_ref())?
        }
        Ok(_) => return Err(bad(MANIFEST, "was written by another version of mvm")),
        Err(_) => work.fresh(&Contract::read(&text)?, import)?,
    };
    store.install(&lock, &out, &manifest, control)
}

/// One import under way.
struct Work<'a> {
    store: &'a Store,
    source: &'a Source,
    out: &'a Path,
    control: Control<'a>,
}

impl Work<'_> {
    /// A revision of ours from another host: every file must be what its manifest says.
    fn again(
        &self,
        manifest: Manifest,
        wanted: Option<&(ProfileName, Role)>,
    ) -> Result<Manifest, ImageError> {
        contract::check_wanted(&manifest.profile, &manifest.role, wanted)?;
        for entry in
            manifest.arch.values().flat_map(|a| [&a.kernel, &a.vmlinux, &a.initrd, &a.rootfs])
        {
            files::check_name(&entry.name)?;
            let there = self.out.join(&entry.name);
            if !there.exists() {
                self.source.copy(&entry.name, &there, self.control)?;
            }
            let sealed = self.store.seal(self.out, &entry.name)?;
            if sealed != *entry {
                return Err(bad(&entry.name, "is not what manifest.json says"));
            }
        }
        Ok(manifest)
    }

    /// Files with the description of the output contract.
    fn fresh(&self, contract: &Contract, import: &Import<'_>) -> Result<Manifest, ImageError> {
        let arch = Arch::HOST;
        contract.check(arch, import.guest_proto)?;
        let (profile, role) = contract.names(import.wanted.as_ref())?;
        self.kernel(arch)?;
        let rootfs_type = self.source.rootfs_type(ROOTFS)?;
        self.source.check_initrd(INITRD)?;
        for name in [INITRD, ROOTFS] {
            self.source.copy(name, &self.out.join(name), self.control)?;
        }
        let seal = |name| self.store.seal(self.out, name);
        let files = ArchFiles {
            kernel: seal(KERNEL)?,
            vmlinux: seal(VMLINUX)?,
            kernel_release: contract.kernel_release.clone(),
            initrd: seal(INITRD)?,
            rootfs: seal(ROOTFS)?,
            rootfs_type: rootfs_type.into(),
        };
        Ok(Manifest {
            schema_version: 1,
            profile,
            role,
            builder: import.builder.to_string(),
            guest_proto: contract.guest_proto,
            inputs: import.inputs.clone(),
            arch: BTreeMap::from([(arch.to_string(), files)]),
            workload: contract.workload(),
        })
    }

    /// `kernel` and `vmlinux`, each from the other where only one is there.
    fn kernel(&self, arch: Arch) -> Result<(), ImageError> {
        let place = |name: &str| self.out.join(name);
        match (self.source.has(KERNEL), self.source.has(VMLINUX)) {
            (false, false) => return Err(bad(KERNEL, "is missing, and so is vmlinux")),
            (true, true) => {
                self.source.copy(KERNEL, &place(KERNEL), self.control)?;
                self.source.copy(VMLINUX, &place(VMLINUX), self.control)?;
            }
            (true, false) => {
                let files = self.source.kernel_files(KERNEL, arch)?;
                for (name, bytes) in [(KERNEL, files.kernel), (VMLINUX, files.vmlinux)] {
                    fs::write(place(name), bytes).map_err(io("write", &place(name)))?;
                }
            }
            (false, true) => {
                self.source.copy(VMLINUX, &place(VMLINUX), self.control)?;
                fs::hard_link(place(VMLINUX), place(KERNEL)).map_err(io("link", &place(KERNEL)))?;
            }
        }
        files::check_vmlinux(&place(VMLINUX), arch)
    }
}

fn bad(file: &str, problem: &str) -> ImageError {
    ImageError::Import { file: file.into(), problem: problem.into() }
}

#[cfg(test)]
mod tests;
