//! Which kernel modules a guest needs, and in which order they load.
//!
//! Distribution packages carry no `modules.dep` (it is made when a package is installed), so the
//! order is computed from what every module says about itself: `depends` and `softdep: pre`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::elf::modinfo;
use super::error::{ImageError, io};
use super::kernel::decompress;

/// A kernel driver a guest uses, by module name.
pub(super) struct Wanted {
    name: &'static str,
    /// A kernel that has it neither built in nor as a module cannot be used.
    required: bool,
}

const fn required(name: &'static str) -> Wanted {
    Wanted { name, required: true }
}

const fn optional(name: &'static str) -> Wanted {
    Wanted { name, required: false }
}

/// In loading order. The transport comes first: it finds the devices in the order of their
/// places on the bus, and `virtio_blk` then names drives vda, vdb … in that order.
pub(super) const WANTED: [Wanted; 9] = [
    required("virtio_mmio"),
    required("virtio_blk"),
    required("virtio_net"),
    required("virtio_console"),
    required("ext4"),
    optional("erofs"),
    optional("virtio_rng"),
    optional("vsock"),
    optional("vmw_vsock_virtio_transport"),
];

/// What soft dependencies call by an alias rather than a module's name.
const ALIASES: [(&str, &str); 1] = [("crc32c", "crc32c_generic")];

/// The modules of one kernel.
pub(super) struct ModuleTree {
    /// `uname -r`.
    pub(super) release: String,
    /// Files by normalised name.
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// A module ready to load.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// Its normalised name.
    pub(super) name: String,
    /// The ELF file.
    pub(super) bytes: Vec<u8>,
}

/// The kernel treats `-` and `_` alike.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/drivers/virtio/virtio-rng.ko.xz` → `virtio_rng`.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|s| name.strip_suffix(s))?;
    Some(normal(stem))
}

impl ModuleTree {
    /// Reads the tree of the one kernel below an unpacked package (`lib/modules/<release>` or
    /// `usr/lib/modules/<release>`).
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        let dirs = ["lib/modules", "usr/lib/modules"].map(|dir| root.join(dir));
        let releases =
            dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        let dir = releases.map(|entry| entry.path()).find(|path| path.is_dir());
        let no = || ImageError::Content { what: "the kernel package has no lib/modules".into() };
        let dir = dir.ok_or_else(no)?;
        let release = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut files = BTreeMap::new();
        scan(&dir, &mut files)?;
        let list = dir.join("modules.builtin");
        let text = fs::read_to_string(&list).map_err(io("read", &list))?;
        let builtin = text.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Self { release, files, builtin })
    }

    /// Whether the kernel has this driver, built in or as a module.
    pub(super) fn has(&self, name: &str) -> bool {
        self.builtin.contains(name) || self.files.contains_key(name)
    }

    /// The modules to load for `wanted`, each after what it depends on.
    pub(super) fn order(&self, wanted: &[Wanted]) -> Result<Vec<Module>, ImageError> {
        let mut walk = Walk { tree: self, seen: BTreeSet::new(), order: Vec::new() };
        for one in wanted {
            if self.has(one.name) {
                walk.visit(one.name)?;
            } else if one.required {
                let what = format!("kernel {} has no driver {}", self.release, one.name);
                return Err(ImageError::Content { what });
            }
        }
        Ok(walk.order)
    }

    fn read(&self, name: &str, path: &Path) -> Result<Vec<u8>, ImageError> {
        let bytes = fs::read(path).map_err(io("read", path))?;
        if bytes.starts_with(b"\x7fELF") {
            return Ok(bytes);
        }
        decompress(&bytes).map_err(|_| ImageError::Content {
            what: format!("module {name} of kernel {} cannot be decompressed", self.release),
        })
    }
}

fn scan(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), ImageError> {
    for entry in fs::read_dir(dir).map_err(io("read", dir))?.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            scan(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// Depth first, dependencies before dependents.
struct Walk<'a> {
    tree: &'a ModuleTree,
    seen: BTreeSet<String>,
    order: Vec<Module>,
}

impl Walk<'_> {
    fn visit(&mut self, name: &str) -> Result<(), ImageError> {
        let name = normal(name);
        if self.tree.builtin.contains(&name) || !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let Some(path) = self.tree.files.get(&name) else {
            let what = format!("kernel {} has no module {name}", self.tree.release);
            return Err(ImageError::Content { what });
        };
        let bytes = self.tree.read(&name, path)?;
        for dependency in hard(&bytes) {
            self.visit(&dependency)?;
        }
        for dependency in soft(&bytes) {
            if self.tree.has(&dependency) {
                self.visit(&dependency)?;
            }
        }
        self.order.push(Module { name, bytes });
        Ok(())
    }
}

/// `depends=virtio,virtio_ring`
fn hard(module: &[u8]) -> Vec<String> {
    let lines = modinfo(module, "depends").unwrap_or_default();
    lines.iter().flat_map(|line| line.split(',')).filter(|s| !s.is_empty()).map(normal).collect()
}

/// `softdep=pre: crc32c foo post: bar`: what is before `post:`.
fn soft(module: &[u8]) -> Vec<String> {
    let lines = modinfo(module, "softdep").unwrap_or_default();
    let pre = |line: &String| {
        let pre = line.split("post:").next().unwrap_or_default().trim();
        pre.trim_start_matches("pre:").split_whitespace().map(normal).collect::<Vec<_>>()
    };
    let real = |name: String| match ALIASES.iter().find(|(alias, _)| *alias == name) {
        Some((_, module)) => (*module).to_owned(),
        None => name,
    };
    lines.iter().flat_map(pre).map(real).collect()
}

#[cfg(test)]
mod tests;
