//! From a distribution's `vmlinuz` to the two files a revision holds.
//!
//! On x86_64 QEMU loads the bzImage as it is and Firecracker the ELF file inside, which the
//! bzImage carries compressed ("The Linux/x86 Boot Protocol", fields `setup_sects`,
//! `payload_offset`, `payload_length`). On aarch64 both load the raw `Image`, which distributions
//! ship bare, gzipped, or as an EFI "zboot" wrapper.

use std::io::Read;

use crate::packages::Arch;

/// A decompressed kernel is never larger; anything that is was damaged.
const MAX_BYTES: u64 = 512 << 20;

/// Why a kernel file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No x86 boot header.
    #[error("it is not a bzImage")]
    NotBzImage,
    /// No arm64 header.
    #[error("it is not an arm64 Image")]
    NotImage,
    /// A compression nobody uses any more, or damage.
    #[error("its payload is compressed in a way we do not know (starts with {0:02x?})")]
    Compression([u8; 4]),
    /// The payload does not decompress.
    #[error("its payload cannot be decompressed")]
    Payload(#[source] std::io::Error),
    /// What came out is not a kernel.
    #[error("its payload is not an ELF kernel of the announced size")]
    NotKernel,
}

/// The files of a revision that come from a kernel.
pub(super) struct KernelFiles {
    /// What QEMU loads.
    pub(super) kernel: Vec<u8>,
    /// What Firecracker loads.
    pub(super) vmlinux: Vec<u8>,
}

/// Both kernel files from the distribution's `vmlinuz`.
pub(super) fn kernel_files(vmlinuz: Vec<u8>, arch: Arch) -> Result<KernelFiles, KernelError> {
    match arch {
        Arch::X86_64 => {
            let vmlinux = elf_of_bzimage(&vmlinuz)?;
            Ok(KernelFiles { kernel: vmlinuz, vmlinux })
        }
        Arch::Aarch64 => {
            let image = arm64_image(vmlinuz)?;
            Ok(KernelFiles { kernel: image.clone(), vmlinux: image })
        }
    }
}

fn elf_of_bzimage(image: &[u8]) -> Result<Vec<u8>, KernelError> {
    let payload = payload(image).ok_or(KernelError::NotBzImage)?;
    // All formats but gzip have the size of the content appended, as gzip itself has.
    let (body, size) = payload.split_last_chunk::<4>().ok_or(KernelError::NotBzImage)?;
    let packed = if payload.starts_with(&[0x1f, 0x8b]) { payload } else { body };
    let elf = decompress(packed)?;
    let announced = usize::try_from(u32::from_le_bytes(*size)).ok();
    match elf.starts_with(b"\x7fELF") && Some(elf.len()) == announced {
        true => Ok(elf),
        false => Err(KernelError::NotKernel),
    }
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let u32_at = |at: usize| {
        let raw = u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?);
        usize::try_from(raw).ok()
    };
    let version = u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?);
    if image.get(0x202..0x206)? != b"HdrS" || version < 0x0208 {
        return None;
    }
    // Zero means four, for the oldest kernels.
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = ((sectors + 1) * 512).checked_add(u32_at(0x248)?)?;
    image.get(start..start.checked_add(u32_at(0x24c)?)?)
}

fn arm64_image(file: Vec<u8>) -> Result<Vec<u8>, KernelError> {
    let image = match zboot(&file) {
        Some(packed) => decompress(packed)?,
        None if file.starts_with(&[0x1f, 0x8b]) => decompress(&file)?,
        None => file,
    };
    match image.get(56..60) == Some(b"ARM\x64".as_slice()) {
        true => Ok(image),
        false => Err(KernelError::NotImage),
    }
}

/// The compressed image within an EFI zboot file: `MZ`, `zimg` at 4, offset at 8, size at 12.
fn zboot(file: &[u8]) -> Option<&[u8]> {
    if !file.starts_with(b"MZ") || file.get(4..8)? != b"zimg" {
        return None;
    }
    let at = |at: usize| {
        usize::try_from(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?)).ok()
    };
    let (start, size) = (at(8)?, at(12)?);
    file.get(start..start.checked_add(size)?)
}

/// Decompresses by magic number: gzip, xz, zstd, and lz4 in its legacy framing.
pub(super) fn decompress(packed: &[u8]) -> Result<Vec<u8>, KernelError> {
    match packed {
        [0x1f, 0x8b, ..] => read(flate2::read::GzDecoder::new(packed)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => read(liblzma::read::XzDecoder::new(packed)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            read(zstd::stream::read::Decoder::new(packed).map_err(KernelError::Payload)?)
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4_legacy(packed),
        [a, b, c, d, ..] => Err(KernelError::Compression([*a, *b, *c, *d])),
        _ => Err(KernelError::Compression([0; 4])),
    }
}

fn read(stream: impl Read) -> Result<Vec<u8>, KernelError> {
    let mut bytes = Vec::new();
    stream.take(MAX_BYTES).read_to_end(&mut bytes).map_err(KernelError::Payload)?;
    Ok(bytes)
}

/// Blocks of up to 8 MiB, each after its compressed size; frames may follow one another.
fn lz4_legacy(mut packed: &[u8]) -> Result<Vec<u8>, KernelError> {
    const MAGIC: u32 = 0x184c_2102;
    const BLOCK: usize = 8 << 20;
    let bad = |text: &str| KernelError::Payload(std::io::Error::other(text.to_owned()));
    let (mut bytes, mut block) = (Vec::new(), vec![0; BLOCK]);
    while let Some((size, rest)) = packed.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size);
        packed = rest;
        if size == MAGIC {
            continue;
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let (body, rest) = packed.split_at_checked(size).ok_or_else(|| bad("truncated block"))?;
        let count = lz4_flex::block::decompress_into(body, &mut block);
        let count = count.map_err(|error| bad(&error.to_string()))?;
        bytes.extend_from_slice(&block[..count]);
        packed = rest;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(bad("too large"));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
