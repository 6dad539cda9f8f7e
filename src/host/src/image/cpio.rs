//! A writer for the kernel's initramfs format: cpio "newc", uncompressed.
//!
//! Every field that could differ between two builds (time, owner, inode) is fixed.

/// A growing archive.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const FILE: u32 = 0o100_000;
const DIR: u32 = 0o040_000;
const CHAR: u32 = 0o020_000;

impl Archive {
    /// Adds a directory; parents come before what is in them.
    pub(super) fn dir(&mut self, path: &str) {
        self.entry(path, DIR | 0o755, (0, 0), &[]);
    }

    /// Adds a file. `bytes` is at most 4 GiB, as the format has 32-bit sizes.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.entry(path, FILE | (mode & 0o777), (0, 0), bytes);
    }

    /// Adds a character device.
    pub(super) fn char_device(&mut self, path: &str, mode: u32, device: (u32, u32)) {
        self.entry(path, CHAR | (mode & 0o777), device, &[]);
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.header("TRAILER!!!", 0, (0, 0), 0, 0);
        self.pad(512);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.header(path, mode, device, self.entries, size);
        self.bytes.extend_from_slice(bytes);
        self.pad(4);
    }

    fn header(&mut self, path: &str, mode: u32, device: (u32, u32), inode: u32, size: u32) {
        let links = if mode & DIR == DIR { 2 } else { 1 };
        let name = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_archive_is_laid_out_as_the_kernel_documents() {
        let mut archive = Archive::default();
        archive.dir("dev");
        archive.char_device("dev/console", 0o600, (5, 1));
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        assert!(bytes.starts_with(b"07070100000001000041ed00000000000000000000000200000000"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains(&["init\0\0hello\0\0\0", "070701"].concat()), "{text}");
        assert!(text.contains("TRAILER!!!"));
    }

    #[test]
    fn the_systems_cpio_reads_it() {
        let mut archive = Archive::default();
        archive.dir("modules");
        for (name, size) in [("modules/a", 0), ("modules/bb", 1), ("modules/ccc", 4097)] {
            archive.file(name, 0o644, &vec![b'x'; size]);
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("archive");
        std::fs::write(&file, archive.finish()).unwrap();
        let mut cpio = std::process::Command::new("busybox");
        cpio.args(["cpio", "-idm", "-F"]).arg(&file).current_dir(dir.path());
        let Ok(output) = cpio.output() else { return };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read(dir.path().join("modules/ccc")).unwrap().len(), 4097);
    }
}
