//! Writing behind: what a VMM saves goes to the disk while it is saved.
//!
//! A snapshot is synced before it counts, so its bytes have to be on the disk anyway. Left to the
//! kernel they wait in the page cache, which is the VM's own: its group may hold a fifth of what
//! its limit leaves beside the guest's memory, and at that mark the kernel makes the VMM sleep
//! between pages. A group that never wrote before is made to sleep longest, which took a guest of
//! 128 MiB beyond its deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_host::file;
use mvm_model::InstancePath;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::disk::aside;
use crate::error::{About, Error, Kind, Result};

/// Between two looks at what was written meanwhile.
const PACE: Duration = Duration::from_millis(10);
const DOING: &str = "write its memory to the disk";

/// A file that is synced time and again while somebody else writes it. Dropped, it ends by itself
/// and nobody waits for the disk.
pub(crate) struct Behind {
    stop: oneshot::Sender<()>,
    path: InstancePath,
    task: JoinHandle<Result<()>>,
}

impl Behind {
    /// Begins for an instance; the file may not exist yet.
    pub(crate) fn start(path: &InstancePath, file: &Path) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(follow(path.clone(), file.to_owned(), stopped));
        Self { stop, path: path.clone(), task }
    }

    /// Ends it, after what it is at.
    ///
    /// # Errors
    /// What syncing said. Who syncs the file later may not be told again: what was written is
    /// worth nothing then.
    pub(crate) async fn finish(self) -> Result<()> {
        drop(self.stop);
        let what = format!("cannot {DOING}");
        let panicked = |error| Error::new(Kind::Failed, self.path, what).because(error);
        self.task.await.map_err(panicked)?
    }
}

async fn follow(
    path: InstancePath,
    file: PathBuf,
    mut stopped: oneshot::Receiver<()>,
) -> Result<()> {
    while timeout(PACE, &mut stopped).await.is_err() {
        let file = file.clone();
        let sync = move || match file.exists() {
            true => file::sync(&file),
            false => Ok(()),
        };
        aside(DOING, sync).await?.about(&path, DOING)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> InstancePath {
        "acme/workers/i-0000beef".parse().unwrap()
    }

    #[tokio::test]
    async fn a_file_that_comes_later_is_followed_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory");
        let behind = Behind::start(&path(), &file);
        tokio::time::sleep(PACE * 2).await;
        std::fs::write(&file, "x").unwrap();
        tokio::time::sleep(PACE * 2).await;
        behind.finish().await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_synced_is_told() {
        let behind = Behind::start(&path(), Path::new("/dev/null"));
        // It ends by itself.
        while !behind.task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(behind.finish().await.is_err());
    }
}
