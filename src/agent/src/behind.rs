//! Writing behind: what a VMM saves goes to the disk while it is saved.
//!
//! A snapshot is synced before it counts, so its bytes have to be on the disk anyway. Left to the
//! kernel they wait in the page cache, which is the VM's own: its group may hold a fifth of what
//! its limit leaves beside the guest's memory, and at that mark the kernel makes the VMM sleep
//! between pages. A group that never wrote before is made to sleep longest, which took a guest of
//! 128 MiB beyond its deadline.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_host::file::{self, Context, FileError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Between two looks at what was written meanwhile.
const PACE: Duration = Duration::from_millis(10);

/// A file that is synced time and again while somebody else writes it.
pub(crate) struct Behind {
    stop: oneshot::Sender<()>,
    file: PathBuf,
    task: JoinHandle<Result<(), FileError>>,
}

impl Behind {
    /// Begins; the file may not exist yet.
    pub(crate) fn start(file: &Path) -> Self {
        let (stop, stopped) = oneshot::channel();
        let file = file.to_owned();
        Self { stop, task: tokio::spawn(follow(file.clone(), stopped)), file }
    }

    /// Ends it.
    ///
    /// # Errors
    /// What syncing said. Who syncs the file later may not be told again: what was written is
    /// worth nothing then.
    pub(crate) async fn finish(self) -> Result<(), FileError> {
        drop(self.stop);
        ended(self.task.await, &self.file)
    }
}

async fn follow(file: PathBuf, mut stopped: oneshot::Receiver<()>) -> Result<(), FileError> {
    while timeout(PACE, &mut stopped).await.is_err() {
        let path = file.clone();
        let synced = tokio::task::spawn_blocking(move || match path.exists() {
            true => file::sync(&path),
            false => Ok(()),
        });
        ended(synced.await, &file)?;
    }
    Ok(())
}

/// A task that panicked synced nothing.
fn ended(
    task: Result<Result<(), FileError>, tokio::task::JoinError>,
    file: &Path,
) -> Result<(), FileError> {
    task.map_err(io::Error::other).doing("sync", file)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_comes_later_is_followed_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory");
        let behind = Behind::start(&file);
        tokio::time::sleep(PACE * 2).await;
        std::fs::write(&file, "x").unwrap();
        tokio::time::sleep(PACE * 2).await;
        behind.finish().await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_synced_is_told() {
        let behind = Behind::start(Path::new("/dev/null"));
        // It ends by itself.
        while !behind.task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(behind.finish().await.is_err());
    }
}
