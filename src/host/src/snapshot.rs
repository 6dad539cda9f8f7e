//! An instance's snapshots on disk.
//!
//! ```text
//! snapshots/7.tmp/            being written or removed; what a crash leaves here is worth nothing
//! snapshots/7/memory          what the VMM wrote; with Firecracker also
//! snapshots/7/devices
//! snapshots/7/manifest.json   what it is, where and with what it may be resumed
//! snapshots/7/consumed        it was resumed: never again
//! ```
//!
//! The rename of `7.tmp` to `7`, synced, is the moment a snapshot exists, and that of `7` to
//! `7.tmp` the moment it does so no more: nobody ever finds one without its mark or its memory that
//! is half removed. The consumed mark is synced before the VM executes its first instruction.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use mvm_model::Digest;
use mvm_model::failpoint::{self, Effect};
use mvm_model::snapshot::{FileStamp, Manifest, Unusable};

use crate::file::{self, Context, FileError};

/// The end of what is no snapshot yet, or no more.
const DRAFT: &str = ".tmp";

/// The snapshots of one instance.
#[derive(Debug, Clone)]
pub struct Snapshots {
    dir: PathBuf,
}

/// What there is of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// No snapshot: it was never complete, or it is gone.
    Nothing,
    /// A complete one that nobody resumed.
    Whole,
    /// One that was resumed.
    Used,
}

/// Why a snapshot is not known to be good.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// It must not be resumed, now or later.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The host could not look, which says nothing about it.
    #[error(transparent)]
    Unread(#[from] FileError),
}

impl Unproven {
    /// What is missing is incomplete. Anything else that keeps us from reading is this host's.
    fn reading(what: &'static str) -> impl Fn(FileError) -> Self {
        move |error| match error.is_missing() {
            true => Unusable::Incomplete(format!("its {what} is gone")).into(),
            false => error.into(),
        }
    }
}

/// A snapshot being written.
#[derive(Debug)]
pub struct Draft {
    generation: u64,
    dir: PathBuf,
}

impl Snapshots {
    /// The snapshots kept in an instance's directory.
    pub fn of(instance_dir: &Path) -> Self {
        Self { dir: instance_dir.join("snapshots") }
    }

    /// Where generation `generation` is.
    pub fn path(&self, generation: u64) -> PathBuf {
        self.dir.join(generation.to_string())
    }

    /// The memory file of a generation.
    pub fn memory(&self, generation: u64) -> PathBuf {
        self.path(generation).join("memory")
    }

    /// Starts a new generation. What an earlier attempt left of it is removed.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn draft(&self, generation: u64) -> Result<Draft, FileError> {
        let dir = self.dir.join(format!("{generation}{DRAFT}"));
        file::remove_dir(&dir)?;
        file::create_dir(&dir)?;
        Ok(Draft { generation, dir })
    }

    /// What there is of a generation, for whoever decides by it what becomes of a VM.
    ///
    /// # Errors
    /// When it cannot be looked at: nothing may be concluded then.
    pub fn held(&self, generation: u64) -> Result<Held, FileError> {
        let dir = self.path(generation);
        let has = |name| {
            let path = dir.join(name);
            path.try_exists().doing("look for", &path)
        };
        Ok(match (has("manifest.json")? && has("memory")?, has("consumed")?) {
            (_, true) => Held::Used,
            (true, false) => Held::Whole,
            (false, false) => Held::Nothing,
        })
    }

    /// Marks a generation as resumed, durably.
    ///
    /// # Errors
    /// When the mark is not certain to be there after a crash: then do not resume.
    pub fn consume(&self, generation: u64) -> Result<(), FileError> {
        let mark = self.path(generation).join("consumed");
        failpoint::before(Effect::MarkSnapshot).doing("write", &mark)?;
        File::create(&mark).and_then(|mark| mark.sync_all()).doing("write", &mark)?;
        file::sync_dir(&self.path(generation))?;
        failpoint::after(Effect::MarkSnapshot).doing("write", &mark)
    }

    /// Takes a mark back that was or was not made, durably. Only for whoever made it, while they
    /// hold the instance and no VM of it has executed or ever will: the one it was made for is
    /// gone.
    ///
    /// # Errors
    /// When the mark may still be there: then the snapshot is spent.
    pub fn unmark(&self, generation: u64) -> Result<(), FileError> {
        file::remove_file(&self.path(generation).join("consumed"))?;
        file::sync_dir(&self.path(generation))
    }

    /// Reads a generation's manifest.
    ///
    /// # Errors
    /// [`Unproven::Unusable`] when it is missing or no manifest.
    pub fn manifest(&self, generation: u64) -> Result<Manifest, Unproven> {
        let path = self.path(generation).join("manifest.json");
        let bytes = fs::read(&path).doing("read", &path).map_err(Unproven::reading("manifest"))?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| Unusable::Incomplete(format!("manifest: {error}")))?;
        match manifest.generation == generation {
            true => Ok(manifest),
            false => Err(Unusable::Incomplete("the manifest is of another generation".into()))?,
        }
    }

    /// Proves that memory and devices are what was hashed: by their stamps, or by hashing them
    /// again when a stamp differs (a restored backup, or a wake that did not come about).
    ///
    /// # Errors
    /// [`Unproven::Unusable`] when it is missing, truncated or changed.
    pub fn prove_memory(&self, manifest: &Manifest) -> Result<(), Unproven> {
        let dir = self.path(manifest.generation);
        prove(&dir.join("memory"), &manifest.memory, &manifest.memory_digest)?;
        match &manifest.devices {
            Some(devices) => prove(&dir.join("devices"), &devices.file, &devices.digest),
            None => Ok(()),
        }
    }

    /// Removes everything but `keep`, complete or not, durably. What has begun to go is no
    /// snapshot any more, also when this is cut short.
    ///
    /// # Errors
    /// When something stays.
    pub fn remove_except(&self, keep: Option<u64>) -> Result<(), FileError> {
        let kept = keep.map(|generation| generation.to_string());
        self.remove_where(|name| Some(name) != kept.as_deref())
    }

    /// Removes what is worth nothing beside the generation a record names: drafts, what is half
    /// removed, and generations that were used.
    ///
    /// # Errors
    /// When something stays.
    pub fn sweep(&self, named: Option<u64>) -> Result<(), FileError> {
        let named = named.map(|generation| generation.to_string());
        let was_used = |name: &str| self.dir.join(name).join("consumed").exists();
        self.remove_where(|name| {
            Some(name) != named.as_deref() && (name.ends_with(DRAFT) || was_used(name))
        })
    }

    fn remove_where(&self, goes: impl Fn(&str) -> bool) -> Result<(), FileError> {
        let mut removed = false;
        for name in self.names()?.iter().filter(|name| goes(name)) {
            removed = true;
            self.remove(name)?;
        }
        if removed { file::sync_dir(&self.dir) } else { Ok(()) }
    }

    /// A removal takes time and may be cut short anywhere, so what goes loses its name first.
    fn remove(&self, name: &str) -> Result<(), FileError> {
        let path = self.dir.join(name);
        if !path.is_dir() {
            return file::remove_file(&path);
        }
        if name.ends_with(DRAFT) {
            return file::remove_dir(&path);
        }
        let aside = file::temporary(&path);
        file::remove_dir(&aside)?;
        file::rename_durably(&path, &aside)?;
        file::remove_dir(&aside)
    }

    /// What is there. That it cannot be said must not look as if nothing were.
    fn names(&self) -> Result<Vec<String>, FileError> {
        let read = || -> io::Result<Vec<String>> {
            let name = |entry: io::Result<fs::DirEntry>| {
                Ok(entry?.file_name().to_string_lossy().into_owned())
            };
            fs::read_dir(&self.dir)?.map(name).collect()
        };
        match read().doing("read directory", &self.dir) {
            Err(error) if error.is_missing() => Ok(Vec::new()),
            names => names,
        }
    }

    /// Bytes allocated on disk.
    pub fn allocated_bytes(&self) -> u64 {
        file::allocated_bytes(&self.dir)
    }
}

fn prove(path: &Path, then: &FileStamp, digest: &Digest) -> Result<(), Unproven> {
    let unread = Unproven::reading("memory file");
    let stamp = file::stamp(path).map_err(&unread)?;
    if stamp == *then {
        return Ok(());
    }
    if stamp.size != then.size || file::digest(path).map_err(&unread)? != *digest {
        return Err(Unusable::MemoryChanged.into());
    }
    Ok(())
}

impl Draft {
    /// Where the VMM writes.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The memory file's path.
    pub fn memory_path(&self) -> PathBuf {
        self.dir.join("memory")
    }

    /// The devices' path; there is no such file with a VMM that writes them with the memory.
    pub fn devices_path(&self) -> PathBuf {
        self.dir.join("devices")
    }

    /// Makes the snapshot exist: syncs everything, then renames it into place.
    ///
    /// # Errors
    /// When any step fails: the snapshot does not exist then.
    pub fn commit(self, manifest: &Manifest) -> Result<(), FileError> {
        let path = self.memory_path();
        file::sync(&path)?;
        if manifest.devices.is_some() {
            file::sync(&self.devices_path())?;
        }
        let json = serde_json::to_vec_pretty(manifest).map_err(std::io::Error::from);
        file::write_durably(&self.dir.join("manifest.json"), &json.doing("encode", &path)?)?;
        file::rename_durably(&self.dir, &self.dir.with_file_name(self.generation.to_string()))
    }

    /// Gives the attempt up and frees its space.
    ///
    /// # Errors
    /// When its files stay.
    pub fn abandon(self) -> Result<(), FileError> {
        file::remove_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests;
