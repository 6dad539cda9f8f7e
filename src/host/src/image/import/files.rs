//! The files of an image made elsewhere: opened beneath their directory, checked, copied.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::bad;
use crate::image::elf::check_kernel;
use crate::image::error::{ImageError, io};
use crate::image::kernel::{KernelFiles, kernel_files};
use crate::packages::{Arch, Control};

/// Largest kernel or initrd, bytes.
const MAX_BOOT: u64 = 512 << 20;
/// Largest root, bytes.
const MAX_ROOT: u64 = 64 << 30;
/// Largest manifest, bytes.
const MAX_SMALL: u64 = 256 << 10;
const CHUNK: usize = 4 << 20;

/// The directory an image is taken from.
pub(super) struct Source {
    dir: OwnedFd,
    path: PathBuf,
}

impl Source {
    /// Opens the directory, which must not be reached through a link at its end.
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = open(path, flags, Mode::empty());
        let dir = dir.map_err(|error| io("open", path)(error.into()))?;
        Ok(Self { dir, path: path.into() })
    }

    /// A plain file directly in it, and its size.
    fn file(&self, name: &str, most: u64) -> Result<(File, u64), ImageError> {
        check_name(name)?;
        // Non-blocking, so that a pipe of that name does not keep us.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(nix::Error::ENOENT) => return Err(bad(name, "is missing")),
            Err(nix::Error::ELOOP) => return Err(bad(name, "is a link, not a file")),
            Err(error) => return Err(io("open", &self.path.join(name))(error.into())),
        };
        let meta = file.metadata().map_err(io("read", &self.path.join(name)))?;
        match meta.len() {
            _ if !meta.is_file() => Err(bad(name, "is not a plain file")),
            0 => Err(bad(name, "is empty")),
            size if size > most => {
                Err(bad(name, &format!("has {size} bytes, more than the {most} allowed")))
            }
            size => Ok((file, size)),
        }
    }

    /// Whether there is something of that name, good or bad.
    pub(super) fn has(&self, name: &str) -> bool {
        use nix::fcntl::AtFlags;
        nix::sys::stat::fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// The content of a small file.
    pub(super) fn small(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let (file, _) = self.file(name, MAX_SMALL)?;
        let mut bytes = Vec::new();
        let read = file.take(MAX_SMALL).read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(io("read", &self.path.join(name)))
    }

    /// Copies a file, which may change under us but not grow without end.
    pub(super) fn copy(
        &self,
        name: &str,
        to: &Path,
        control: Control<'_>,
    ) -> Result<(), ImageError> {
        let most = if name.starts_with("rootfs") { MAX_ROOT } else { MAX_BOOT };
        let (mut file, size) = self.file(name, most)?;
        let mut copy = File::create_new(to).map_err(io("create", to))?;
        let what = format!("copying {name}");
        let mut done = 0;
        while done < size {
            if control.cancelled() {
                return Err(ImageError::Cancelled { what });
            }
            control.at(&what, done, size);
            let part = (&mut file).take((CHUNK as u64).min(size - done));
            match std::io::copy(&mut { part }, &mut copy).map_err(io("write", to))? {
                0 => return Err(bad(name, "became shorter while it was copied")),
                count => done += count,
            }
        }
        copy.flush().map_err(io("write", to))
    }

    /// Both kernel files from one.
    pub(super) fn kernel_files(&self, name: &str, arch: Arch) -> Result<KernelFiles, ImageError> {
        let (file, _) = self.file(name, MAX_BOOT)?;
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        file.take(MAX_BOOT).read_to_end(&mut bytes).map_err(io("read", &path))?;
        kernel_files(bytes, arch).map_err(|source| ImageError::Kernel { file: path, source })
    }

    /// The type of a root by its superblock.
    pub(super) fn rootfs_type(&self, name: &str) -> Result<&'static str, ImageError> {
        let (file, _) = self.file(name, MAX_ROOT)?;
        let mut block = [0; 64];
        file.read_exact_at(&mut block, 1024).map_err(|_| bad(name, "is too short"))?;
        match (&block[..4], &block[56..58]) {
            ([0xe2, 0xe1, 0xf5, 0xe0], _) => Ok("erofs"),
            (_, [0x53, 0xef]) => Ok("ext4"),
            _ => Err(bad(name, "is neither an erofs nor an ext4 image")),
        }
    }

    /// Whether an initrd is a cpio archive, plain or compressed.
    pub(super) fn check_initrd(&self, name: &str) -> Result<(), ImageError> {
        let (mut file, _) = self.file(name, MAX_BOOT)?;
        let mut magic = [0; 6];
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut magic));
        read.map_err(|_| bad(name, "is too short"))?;
        match magic {
            [b'0', b'7', b'0', b'7', b'0', b'1' | b'2']
            | [0x1f, 0x8b, ..]
            | [0xfd, b'7', b'z', b'X', b'Z', 0]
            | [0x28, 0xb5, 0x2f, 0xfd, ..]
            | [0x02, 0x21, 0x4c, 0x18, ..] => Ok(()),
            _ => Err(bad(name, "is not a cpio archive")),
        }
    }
}

/// Whether a name stays within a directory.
pub(super) fn check_name(name: &str) -> Result<(), ImageError> {
    match name.is_empty() || name.contains('/') || name.starts_with('.') {
        true => Err(bad("manifest.json", "names something that is no plain file")),
        false => Ok(()),
    }
}

/// Whether a copied `vmlinux` is what Firecracker loads: an ELF kernel, on aarch64 an Image.
pub(super) fn check_vmlinux(path: &Path, arch: Arch) -> Result<(), ImageError> {
    let mut head = [0; 64];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.map_err(|_| bad("vmlinux", "is too short"))?;
    match check_kernel(&head, arch) {
        true => Ok(()),
        false => Err(bad("vmlinux", &format!("is no kernel for {arch}"))),
    }
}
