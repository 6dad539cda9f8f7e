//! The quarantine: what holds data and has no place is kept here, with a note that says whence.
//!
//! ```text
//! <state>/quarantine/<date>-<time>-<number>/note.txt   when, whence, why, what to do with it
//!                                           <what it was>
//! ```
//!
//! Nothing reads it but people. It is on the file system of the state directory, so moving is one
//! rename; whoever needs the space removes what is in it.

use std::path::{Path, PathBuf};

use mvm_host::file::{self, FileError};

use crate::service::Service;

/// More in one second than any repair moves.
const MOST: u32 = 10_000;

impl Service {
    fn quarantine_dir(&self) -> PathBuf {
        self.dirs.state.join("quarantine")
    }

    /// What is kept aside.
    pub fn quarantined(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.quarantine_dir()).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }

    /// Moves something aside, durably; says where it is now.
    ///
    /// # Errors
    /// When it cannot be moved; then it is where it was.
    pub(super) fn put_aside(&self, path: &Path, why: &str) -> Result<PathBuf, FileError> {
        let dir = self.place_aside()?;
        let when = jiff::Timestamp::now();
        let note = format!(
            "moved here by 'mvm doctor --repair' at {when}\nfrom: {}\nbecause: {why}\n\
             Nothing reads this directory. Put its content back, take out what you need, or remove it.\n",
            path.display()
        );
        file::write_durably(&dir.join("note.txt"), note.as_bytes())?;
        let to = dir.join(path.file_name().unwrap_or_default());
        match file::rename_durably(path, &to) {
            Ok(()) => {}
            Err(error) => {
                let _ = file::remove_dir(&dir);
                return Err(error);
            }
        }
        path.parent().map_or(Ok(()), file::sync_dir)?;
        Ok(to)
    }

    fn place_aside(&self) -> Result<PathBuf, FileError> {
        let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        let all = self.quarantine_dir();
        let places = (1..MOST).map(|number| all.join(format!("{stamp}-{number}")));
        let place = places.into_iter().find(|place| !place.exists());
        let place = place.unwrap_or_else(|| all.join(stamp));
        file::create_dir(&place).map(|()| place)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::service;

    #[test]
    fn what_is_put_aside_is_kept_whole_with_a_note_and_listed() {
        let (_dir, service) = service();
        let thing = service.dirs.state.join("thing");
        for content in ["one", "two"] {
            std::fs::create_dir(&thing).unwrap();
            std::fs::write(thing.join("data"), content).unwrap();
            let to = service.put_aside(&thing, "nobody knows it").unwrap();
            assert!(!thing.exists());
            assert_eq!(std::fs::read_to_string(to.join("data")).unwrap(), content);
            let note = std::fs::read_to_string(to.with_file_name("note.txt")).unwrap();
            assert!(note.contains(thing.to_str().unwrap()) && note.contains("nobody knows it"));
        }
        assert_eq!(service.quarantined().len(), 2);
        assert!(service.put_aside(&thing, "it is gone").is_err());
        assert_eq!(service.quarantined().len(), 2);
    }
}
