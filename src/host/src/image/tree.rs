//! A file tree being staged for a root file system.
//!
//! Modes are set explicitly (the umask does not count) and never include set-uid; owners and
//! times are fixed later by `mkfs`. Nothing is ever written through a symbolic link.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::error::{ImageError, io};

/// A directory that will become a root file system. Paths are relative to it: `usr/bin`.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty tree at `root`, which must not exist.
    pub(super) fn create(root: PathBuf) -> Result<Self, ImageError> {
        fs::create_dir(&root).map_err(io("create", &root))?;
        set_mode(&root, 0o755)?;
        Ok(Self { root })
    }

    /// Where it is on the host.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a directory and those above it, mode 0755.
    pub(super) fn dir(&self, path: &str) -> Result<(), ImageError> {
        let mut at = self.root.clone();
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            at.push(part);
            match fs::symlink_metadata(&at) {
                Ok(meta) if meta.is_dir() && part != ".." => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    fs::create_dir(&at).map_err(io("create", &at))?;
                    set_mode(&at, 0o755)?;
                }
                _ => return Err(ImageError::Content { what: format!("{path} is no directory") }),
            }
        }
        Ok(())
    }

    /// Gives a directory another mode, such as 1777.
    pub(super) fn dir_mode(&self, path: &str, mode: u32) -> Result<(), ImageError> {
        self.dir(path)?;
        set_mode(&self.root.join(path), mode)
    }

    /// Writes a file, with the directories above it.
    pub(super) fn file(&self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), ImageError> {
        let at = self.place(path)?;
        fs::write(&at, bytes).map_err(io("write", &at))?;
        set_mode(&at, mode & 0o777)
    }

    /// Copies a host file's content, with the directories above it.
    pub(super) fn copy(&self, path: &str, mode: u32, from: &Path) -> Result<(), ImageError> {
        let at = self.place(path)?;
        fs::copy(from, &at).map_err(io("write", &at))?;
        set_mode(&at, mode & 0o777)
    }

    /// Makes a symbolic link.
    pub(super) fn link(&self, path: &str, target: impl AsRef<Path>) -> Result<(), ImageError> {
        let at = self.place(path)?;
        symlink(target, &at).map_err(io("create", &at))
    }

    /// Whether there is something at `path`.
    pub(super) fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.root.join(path)).is_ok()
    }

    /// A free place for a new file: what was there is replaced.
    fn place(&self, path: &str) -> Result<PathBuf, ImageError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.dir(parent)?;
        if name.is_empty() || name == "." || name == ".." {
            return Err(ImageError::Content { what: format!("{path} is no file name") });
        }
        let at = self.root.join(parent).join(name);
        match fs::remove_file(&at) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io("replace", &at)(error)),
            _ => Ok(at),
        }
    }

    /// Takes over the files of an unpacked package below `from`: `place` says where each goes
    /// (a path relative to both roots), or that it is left out. Devices are left out always.
    pub(super) fn adopt(
        &self,
        from: &Path,
        place: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ImageError> {
        self.adopt_dir(from, "", place)
    }

    fn adopt_dir(
        &self,
        base: &Path,
        below: &str,
        place: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ImageError> {
        let dir = base.join(below);
        for entry in fs::read_dir(&dir).map_err(io("read", &dir))? {
            let entry = entry.map_err(io("read", &dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            let meta = fs::symlink_metadata(entry.path()).map_err(io("read", &dir))?;
            if meta.is_dir() {
                self.adopt_dir(base, &path, place)?;
            } else if let Some(to) = place(&path) {
                self.adopt_one(&entry.path(), &meta, &to)?;
            }
        }
        Ok(())
    }

    fn adopt_one(&self, from: &Path, meta: &fs::Metadata, to: &str) -> Result<(), ImageError> {
        if meta.is_symlink() {
            return self.link(to, fs::read_link(from).map_err(io("read", from))?);
        }
        if meta.is_file() {
            return self.copy(to, meta.permissions().mode() & 0o755 | 0o444, from);
        }
        Ok(())
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ImageError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io("chmod", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_through_a_link_or_outside() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::create(dir.path().join("tree")).unwrap();
        tree.link("usr/share", "/etc").unwrap();
        assert!(tree.file("usr/share/x", 0o644, b"x").is_err());
        assert!(tree.file("../x", 0o644, b"x").is_err());
        assert!(tree.dir("usr/../../x").is_err());
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn adopting_drops_set_uid_and_what_is_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("bin")).unwrap();
        for name in ["bin/su", "bin/doc"] {
            fs::write(from.join(name), "x").unwrap();
            set_mode(&from.join(name), 0o4711).unwrap();
        }
        let tree = Tree::create(dir.path().join("tree")).unwrap();
        let place = |path: &str| (path != "bin/doc").then(|| format!("usr/{path}"));
        tree.adopt(&from, &place).unwrap();
        let mode = fs::metadata(tree.root().join("usr/bin/su")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        assert!(!tree.has("usr/bin/doc") && !tree.has("bin/doc"));
    }
}
