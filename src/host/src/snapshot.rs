//! An instance's snapshots on disk.
//!
//! ```text
//! snapshots/7.tmp/            being written; whatever a crash leaves here is worth nothing
//! snapshots/7/memory          what the VMM wrote; with Firecracker also
//! snapshots/7/devices
//! snapshots/7/manifest.json   what it is, where and with what it may be resumed
//! snapshots/7/consumed        it was resumed: never again
//! ```
//!
//! The rename of `7.tmp` to `7`, synced, is the moment a snapshot exists. The consumed mark is
//! synced before the VM executes its first instruction.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use mvm_model::Digest;
use mvm_model::failpoint::{self, Effect};
use mvm_model::snapshot::{FileStamp, Manifest, Unusable};

use crate::file::{self, Context, FileError};

/// The snapshots of one instance.
#[derive(Debug, Clone)]
pub struct Snapshots {
    dir: PathBuf,
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
        let dir = self.dir.join(format!("{generation}.tmp"));
        file::remove_dir(&dir)?;
        file::create_dir(&dir)?;
        Ok(Draft { generation, dir })
    }

    /// Whether a generation is complete: renamed into place.
    pub fn is_complete(&self, generation: u64) -> bool {
        self.path(generation).join("manifest.json").exists()
    }

    /// Whether a generation was resumed. A mark that cannot be looked for counts as one.
    pub fn is_consumed(&self, generation: u64) -> bool {
        self.path(generation).join("consumed").try_exists().unwrap_or(true)
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

    /// Reads a generation's manifest.
    ///
    /// # Errors
    /// When it is missing or no manifest.
    pub fn manifest(&self, generation: u64) -> Result<Manifest, Unusable> {
        let path = self.path(generation).join("manifest.json");
        let bytes =
            fs::read(&path).map_err(|error| Unusable::Incomplete(format!("manifest: {error}")))?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| Unusable::Incomplete(format!("manifest: {error}")))?;
        match manifest.generation == generation {
            true => Ok(manifest),
            false => Err(Unusable::Incomplete("the manifest is of another generation".into())),
        }
    }

    /// Proves that memory and devices are what was hashed: by their stamps, or by hashing them
    /// again when a stamp differs (a restored backup, or a wake that did not come about).
    ///
    /// # Errors
    /// When it is missing, truncated or changed.
    pub fn prove_memory(&self, manifest: &Manifest) -> Result<(), Unusable> {
        let dir = self.path(manifest.generation);
        prove(&dir.join("memory"), &manifest.memory, &manifest.memory_digest)?;
        match &manifest.devices {
            Some(devices) => prove(&dir.join("devices"), &devices.file, &devices.digest),
            None => Ok(()),
        }
    }

    /// Removes everything but `keep`, complete or not, durably.
    ///
    /// # Errors
    /// When something stays.
    pub fn remove_except(&self, keep: Option<u64>) -> Result<(), FileError> {
        let kept = keep.map(|generation| generation.to_string());
        self.remove_where(|name| Some(name) != kept.as_deref())
    }

    /// Removes what is worth nothing beside the generation a record names: drafts, and
    /// generations that were used.
    ///
    /// # Errors
    /// When something stays.
    pub fn sweep(&self, named: Option<u64>) -> Result<(), FileError> {
        let named = named.map(|generation| generation.to_string());
        let was_used = |name: &str| self.dir.join(name).join("consumed").exists();
        self.remove_where(|name| {
            Some(name) != named.as_deref() && (name.ends_with(".tmp") || was_used(name))
        })
    }

    fn remove_where(&self, goes: impl Fn(&str) -> bool) -> Result<(), FileError> {
        let mut removed = false;
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if !goes(&entry.file_name().to_string_lossy()) {
                continue;
            }
            removed = true;
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => file::remove_dir(&entry.path())?,
                false => file::remove_file(&entry.path())?,
            }
        }
        if removed { file::sync_dir(&self.dir) } else { Ok(()) }
    }

    /// Bytes allocated on disk.
    pub fn allocated_bytes(&self) -> u64 {
        file::allocated_bytes(&self.dir)
    }
}

fn prove(path: &Path, then: &FileStamp, digest: &Digest) -> Result<(), Unusable> {
    let incomplete = |error: FileError| Unusable::Incomplete(format!("memory file: {error}"));
    let stamp = file::stamp(path).map_err(incomplete)?;
    if stamp == *then {
        return Ok(());
    }
    if stamp.size != then.size || file::digest(path).map_err(incomplete)? != *digest {
        return Err(Unusable::MemoryChanged);
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
