use std::io::Write;

use proptest::prelude::*;

use super::*;

fn elf() -> Vec<u8> {
    let mut elf = b"\x7fELF".to_vec();
    elf.extend((0..200_000u32).flat_map(|n| (n / 3).to_le_bytes()));
    elf
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut packer = liblzma::write::XzEncoder::new(Vec::new(), 1);
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut packed = 0x184c_2102u32.to_le_bytes().to_vec();
    for chunk in bytes.chunks(8 << 20) {
        let block = lz4_flex::block::compress(chunk);
        packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        packed.extend(block);
    }
    packed
}

/// A bzImage of two setup sectors around a payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0u8; 3 * 512 + 64];
    image[0x1f1] = 2;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&64u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend_from_slice(payload);
    image.extend_from_slice(b"what follows the payload");
    image
}

fn sized(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
    packed.extend(u32::try_from(size).unwrap().to_le_bytes());
    packed
}

#[test]
fn the_elf_is_found_under_every_compression() {
    let elf = elf();
    let zstd = zstd::stream::encode_all(&elf[..], 1).unwrap();
    for packed in [lz4(&elf), xz(&elf), zstd] {
        let image = bzimage(&sized(packed, elf.len()));
        assert_eq!(elf_of_bzimage(&image).unwrap(), elf);
    }
    assert_eq!(elf_of_bzimage(&bzimage(&gzip(&elf))).unwrap(), elf);
}

#[test]
fn damage_is_noticed() {
    let elf = elf();
    let good = bzimage(&sized(lz4(&elf), elf.len()));
    assert!(matches!(elf_of_bzimage(&good[..1000]), Err(KernelError::NotBzImage)));
    assert!(matches!(elf_of_bzimage(&good[..good.len() - 100]), Err(KernelError::NotBzImage)));
    let wrong_size = bzimage(&sized(lz4(&elf), elf.len() + 1));
    assert!(matches!(elf_of_bzimage(&wrong_size), Err(KernelError::NotKernel)));
    let unknown = bzimage(&sized(b"BZh9....".to_vec(), 8));
    assert!(matches!(elf_of_bzimage(&unknown), Err(KernelError::Compression(_))));
    let no_elf = bzimage(&sized(lz4(b"not a kernel"), 12));
    assert!(matches!(elf_of_bzimage(&no_elf), Err(KernelError::NotKernel)));
}

fn arm_image() -> Vec<u8> {
    let mut image = vec![0u8; 4096];
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

#[test]
fn an_arm_image_is_used_bare_gzipped_or_from_its_efi_wrapper() {
    let image = arm_image();
    let packed = gzip(&image);
    let mut wrapper = b"MZ\0\0zimg".to_vec();
    wrapper.extend(24u32.to_le_bytes());
    wrapper.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
    wrapper.extend(*b"\0\0\0\0gzip\0\0\0\0");
    wrapper.truncate(24);
    wrapper.extend(&packed);
    for file in [image.clone(), packed, wrapper] {
        let files = kernel_files(file, Arch::Aarch64).unwrap();
        assert!(files.kernel == image && files.vmlinux == image);
    }
    assert!(matches!(arm64_image(vec![0; 4096]), Err(KernelError::NotImage)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoders_panic(mut bytes: Vec<u8>, magic in 0usize..5) {
        let magics: [&[u8]; 5] = [b"", b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18"];
        bytes.splice(0..0, magics[magic].iter().copied());
        let _ = decompress(&bytes);
        let _ = kernel_files(bzimage(&bytes), Arch::X86_64);
        let _ = kernel_files(bytes, Arch::Aarch64);
    }
}
