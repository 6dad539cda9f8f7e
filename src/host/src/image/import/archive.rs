//! An image in a tar archive, also compressed: the few files an image has, read by us, so that no
//! name in the archive decides where anything is written.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::bad;
use crate::image::error::{self, ImageError};
use crate::image::store::{INITRD, KERNEL, MANIFEST, ROOTFS, VMLINUX};
use crate::packages::Control;

const BLOCK: usize = 512;
/// More entries than an image has files, notes of the format included.
const MAX_ENTRIES: usize = 64;
/// Largest note of the format (a pax header), bytes.
const MAX_NOTE: u64 = 64 << 10;
/// Largest file, bytes.
const MAX_FILE: u64 = 64 << 30;

/// What stands before each file.
struct Header {
    name: String,
    size: u64,
    kind: u8,
}

/// Unpacks the files of an image into the new directory `to`; others are refused.
pub(super) fn unpack(from: &Path, to: &Path, control: Control<'_>) -> Result<(), ImageError> {
    fs::create_dir(to).map_err(error::io("create", to))?;
    let file = File::open(from).map_err(error::io("open", from))?;
    let mut tar = decompressed(file).map_err(error::io("read", from))?;
    for _ in 0..MAX_ENTRIES {
        if control.cancelled() {
            return Err(ImageError::Cancelled { what: "unpacking the image".into() });
        }
        match header(&mut tar).map_err(error::io("read", from))? {
            None => return Ok(()),
            Some(entry) => extract(&mut tar, &entry, from, to)?,
        }
    }
    Err(bad(&from.display().to_string(), "has too many entries for an image"))
}

fn extract(tar: &mut dyn Read, entry: &Header, from: &Path, to: &Path) -> Result<(), ImageError> {
    let name = entry.name.trim_start_matches("./").trim_end_matches('/');
    let file = name.rsplit('/').next().unwrap_or_default();
    let is_ours = [KERNEL, VMLINUX, INITRD, ROOTFS, MANIFEST].contains(&file);
    match entry.kind {
        b'0' | 0 if is_ours && name.split('/').count() <= 2 => {
            let place = to.join(file);
            let mut copy = File::create_new(&place).map_err(error::io("create", &place))?;
            let part = &mut tar.take(entry.size);
            let size = io::copy(part, &mut copy).map_err(error::io("write", &place))?;
            if size < entry.size {
                return Err(bad(file, "is cut off"));
            }
            skip(tar, padding(entry.size)).map_err(error::io("read", from))
        }
        // A directory, and what some programs write about the entry that follows.
        b'5' | b'x' | b'g' if entry.size <= MAX_NOTE => {
            skip(tar, entry.size + padding(entry.size)).map_err(error::io("read", from))
        }
        _ => Err(bad(&shown(name), "does not belong to an image")),
    }
}

fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// Decompresses by the magic number.
fn decompressed(file: File) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::new(file);
    let magic = io::BufRead::fill_buf(&mut file)?.get(..4).unwrap_or_default().to_vec();
    Ok(match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X'] => Box::new(liblzma::read::XzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(file)?),
        _ => Box::new(file),
    })
}

/// The next header; `None` at the end.
fn header(tar: &mut dyn Read) -> io::Result<Option<Header>> {
    let mut block = [0; BLOCK];
    tar.read_exact(&mut block)?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it is not a tar archive");
    if block.get(257..262) != Some(b"ustar".as_slice()) || !sums_up(&block) {
        return Err(wrong());
    }
    let size = number(&block[124..136]).filter(|size| *size <= MAX_FILE).ok_or_else(wrong)?;
    let name = text(&block[..100]);
    Ok(Some(Header { name, size, kind: block[156] }))
}

/// Whether the header's checksum, taken with its own field as blanks, is right.
fn sums_up(block: &[u8; BLOCK]) -> bool {
    let byte =
        |(at, byte): (usize, &u8)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte });
    Some(block.iter().enumerate().map(byte).sum()) == number(&block[148..156])
}

/// Octal digits, or (GNU, for large files) a binary number behind a set bit.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = field.split_first() {
        let fits = rest.len() >= 8 && rest[..rest.len() - 8].iter().all(|byte| *byte == 0);
        let last = rest.last_chunk::<8>()?;
        return fits.then(|| u64::from_be_bytes(*last));
    }
    let digits = text(field);
    u64::from_str_radix(digits.trim(), 8).ok()
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn skip(tar: &mut dyn Read, count: u64) -> io::Result<()> {
    io::copy(&mut tar.take(count), &mut io::sink()).map(drop)
}
