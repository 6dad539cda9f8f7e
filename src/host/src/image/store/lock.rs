//! One builder or collector at a time, and who it is.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Store;
use crate::image::error::{ImageError, io};
use crate::packages::{Control, describe_process};

/// How long we wait for another builder.
const LIMIT: Duration = Duration::from_secs(900);
const PAUSE: Duration = Duration::from_millis(200);

/// Held while the store changes. The kernel lets go of it when the process ends, however.
#[derive(Debug)]
pub(in crate::image) struct Lock {
    _file: File,
}

/// Keeps revisions from being collected while somebody is about to link one into a pool. Any
/// number may hold at a time.
#[derive(Debug)]
pub struct Hold {
    _file: File,
}

impl Store {
    /// Keeps collectors away until dropped.
    ///
    /// # Errors
    /// When one is at it for too long.
    pub fn hold(&self, control: Control<'_>) -> Result<Hold, ImageError> {
        Ok(Hold { _file: self.held(control, "a collection", File::try_lock_shared)? })
    }

    /// Waits until nobody holds, and keeps everybody from it.
    pub(super) fn alone(&self, control: Control<'_>) -> Result<Hold, ImageError> {
        Ok(Hold { _file: self.held(control, "a build", File::try_lock)? })
    }

    fn held(
        &self,
        control: Control<'_>,
        holder: &str,
        take: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<File, ImageError> {
        let path = self.root.join("hold");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io("open", &path))?;
        let started = Instant::now();
        loop {
            match take(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(io("lock", &path)(error)),
            }
            if control.cancelled() {
                return Err(ImageError::Cancelled { what: format!("waiting for {holder}") });
            }
            if started.elapsed() >= LIMIT {
                return Err(ImageError::Busy { holder: holder.into() });
            }
            control.say(format!("waiting for {holder} of images to finish"));
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes the lock, telling whom it waits for, and clears away what a killed holder left.
    pub(in crate::image) fn lock(&self, control: Control<'_>) -> Result<Lock, ImageError> {
        self.lock_within(control, LIMIT)
    }

    pub(super) fn lock_within(
        &self,
        control: Control<'_>,
        limit: Duration,
    ) -> Result<Lock, ImageError> {
        let path = self.root.join("lock");
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = file.map_err(io("open", &path))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(io("lock", &path)(error)),
            }
            let holder = holder(&mut file);
            if control.cancelled() {
                return Err(ImageError::Cancelled { what: format!("waiting for {holder}") });
            }
            if started.elapsed() >= limit {
                return Err(ImageError::Busy { holder });
            }
            control.say(format!("waiting for {holder}, which is using the image store"));
            std::thread::sleep(PAUSE);
        }
        sign(&mut file).map_err(io("write", &path))?;
        self.sweep();
        Ok(Lock { _file: file })
    }

    /// Removes work that will never be finished. What cannot be removed is tried again next time.
    fn sweep(&self) {
        let packages: Vec<PathBuf> = fs::read_dir(self.packages())
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("download-"))
            .map(|entry| entry.path())
            .collect();
        let stale = fs::read_dir(self.tmp()).into_iter().flatten().flatten();
        for path in stale.map(|entry| entry.path()).chain(packages) {
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}

fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut text));
    match (read, text.trim().parse()) {
        (Ok(_), Ok(pid)) => describe_process(pid),
        _ => "another process".into(),
    }
}
