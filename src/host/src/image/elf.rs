//! Just enough ELF: is this a static program for our architecture, and what does a kernel module
//! say about itself. Input comes from signed packages or the user's build, and is bounds-checked
//! all the same: nothing here can panic.

use crate::packages::Arch;

/// The fixed-size header of a little-endian 64-bit ELF file.
struct Header<'a> {
    bytes: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    let raw = u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?);
    usize::try_from(raw).ok()
}

impl<'a> Header<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        // Magic, 64-bit, little endian.
        bytes.starts_with(b"\x7fELF\x02\x01").then_some(Self { bytes })
    }

    fn arch(&self) -> Option<Arch> {
        match u16_at(self.bytes, 18)? {
            62 => Some(Arch::X86_64),
            183 => Some(Arch::Aarch64),
            _ => None,
        }
    }

    /// Entry `index` of the table whose offset, entry size and count stand at these positions.
    fn entry(&self, index: u16, [offset, size, count]: [usize; 3]) -> Option<&'a [u8]> {
        let (start, size) = (u64_at(self.bytes, offset)?, usize::from(u16_at(self.bytes, size)?));
        let at = start.checked_add(size.checked_mul(usize::from(index))?)?;
        let end = at.checked_add(size)?;
        (index < u16_at(self.bytes, count)?).then(|| self.bytes.get(at..end)).flatten()
    }

    fn sections(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        (0..u16::MAX).map_while(|index| self.entry(index, [40, 58, 60]))
    }

    fn content(&self, section: &[u8]) -> Option<&'a [u8]> {
        let start = u64_at(section, 24)?;
        self.bytes.get(start..start.checked_add(u64_at(section, 32)?)?)
    }

    fn section(&self, name: &str) -> Option<&'a [u8]> {
        let names = self.content(self.entry(u16_at(self.bytes, 62)?, [40, 58, 60])?)?;
        let is_it = |section: &&[u8]| {
            let at = u32_at(section, 0).and_then(|at| usize::try_from(at).ok());
            let text = at.and_then(|at| names.get(at..));
            text.and_then(|text| text.strip_prefix(name.as_bytes()))
                .is_some_and(|rest| rest.first() == Some(&0))
        };
        self.content(self.sections().find(is_it)?)
    }
}

/// Why a program cannot be PID 1 of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAGuest {
    /// Not a 64-bit ELF file.
    #[error("is not a 64-bit ELF program")]
    NotElf,
    /// Built for another CPU.
    #[error("is built for another architecture")]
    OtherArch,
    /// Needs a loader and libraries the guest does not have.
    #[error("is not statically linked")]
    Dynamic,
}

/// Whether `bytes` are a statically linked program for `arch`.
pub(super) fn check_static(bytes: &[u8], arch: Arch) -> Result<(), NotAGuest> {
    const PT_INTERP: u32 = 3;
    let header = Header::of(bytes).ok_or(NotAGuest::NotElf)?;
    if header.arch() != Some(arch) {
        return Err(NotAGuest::OtherArch);
    }
    let mut segments = (0..u16::MAX).map_while(|index| header.entry(index, [32, 54, 56]));
    match segments.any(|segment| u32_at(segment, 0) == Some(PT_INTERP)) {
        true => Err(NotAGuest::Dynamic),
        false => Ok(()),
    }
}

/// Whether a file starting with `head` is a kernel Firecracker loads on `arch`.
pub(super) fn check_kernel(head: &[u8], arch: Arch) -> bool {
    match arch {
        Arch::X86_64 => Header::of(head).is_some_and(|header| header.arch() == Some(arch)),
        Arch::Aarch64 => head.get(56..60) == Some(b"ARM\x64".as_slice()),
    }
}

/// The values of `key` in a kernel module's `.modinfo` (`depends`, `softdep`, `name`).
pub(super) fn modinfo(module: &[u8], key: &str) -> Option<Vec<String>> {
    let info = Header::of(module)?.section(".modinfo")?;
    let value = |entry: &[u8]| {
        let text = std::str::from_utf8(entry).ok()?;
        Some(text.strip_prefix(key)?.strip_prefix('=')?.to_owned())
    };
    Some(info.split(|byte| *byte == 0).filter_map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_test_is_an_elf_file_of_the_hosts_architecture() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let other = if Arch::HOST == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
        assert_eq!(check_static(&own, other), Err(NotAGuest::OtherArch));
        assert_eq!(check_static(b"#!/bin/sh", Arch::HOST), Err(NotAGuest::NotElf));
        if cfg!(not(target_feature = "crt-static")) {
            assert_eq!(check_static(&own, Arch::HOST), Err(NotAGuest::Dynamic));
        }
        assert!(Header::of(&own).unwrap().section(".text").is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes: Vec<u8>, elf: bool) {
            if elf {
                bytes.splice(0..0, *b"\x7fELF\x02\x01");
            }
            let _ = (check_static(&bytes, Arch::HOST), modinfo(&bytes, "depends"));
        }

        #[test]
        fn no_damaged_header_makes_the_reader_panic(at in 16usize..64, value: u8) {
            let mut own = std::fs::read("/proc/self/exe").unwrap();
            own[at] = value;
            let _ = (check_static(&own, Arch::HOST), modinfo(&own, "depends"));
        }
    }
}
