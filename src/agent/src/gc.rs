//! `node gc`: removes what nothing needs any more, and says what it freed.
//!
//! ```text
//! find.rs   what is garbage now: reads only; also what `node disk` calls reclaimable
//! here      takes it away: what belongs to an instance under that instance's lock and looked
//!           for again there, a pool's revisions by its own collector, images under the image
//!           store's lock; the rest is nobody's
//! ```
//!
//! Never what an instance or a snapshot needs: where a record cannot be read, everything it
//! might need stays, and the reason is told.

mod find;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mvm_host::file;
use mvm_host::image::Freed;
use mvm_host::lock::{self, Lock};
use mvm_host::packages::Control;
use mvm_model::InstancePath;
use mvm_model::id::InstanceRef;
use mvm_model::record::{InstanceRecord, Millis};
use serde::{Deserialize, Serialize};

pub use mvm_api::node::{Collection, Garbage, Kept, Mode, Waste};

pub(crate) use find::{litter, needed_generation};

use crate::build::SharedSink;
use crate::disk::aside;
use crate::error::{About, Error, Kind, Result};
use crate::service::{Service, now};

/// How long one collector waits for another.
const PATIENCE: Duration = Duration::from_secs(2);

/// When garbage was collected last.
#[derive(Serialize, Deserialize)]
struct LastTime {
    at: Millis,
}

impl Service {
    /// What nothing needs now.
    ///
    /// # Errors
    /// When the image store cannot be read.
    pub fn find_garbage(&self) -> Result<Vec<Garbage>> {
        Ok(find::Search::of(self)?.garbage)
    }

    /// Removes what nothing needs.
    ///
    /// # Errors
    /// [`Kind::Busy`] while another collector is at it; what cannot be removed is kept, with the
    /// reason, and ends nothing.
    pub async fn node_gc(
        &self,
        mode: Mode,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Collection> {
        let turn = self.dirs.state.join(".gc.lock");
        let turn = Lock::take(&turn, &self.who, PATIENCE).await.about("", "collect garbage")?;
        let service = self.clone();
        let collect = move || {
            let _turn = turn;
            service.collect(mode, &progress, &cancel)
        };
        aside("collect garbage", collect).await?
    }

    /// When garbage was collected last, milliseconds since the epoch.
    pub fn last_gc(&self) -> Option<Millis> {
        let bytes = std::fs::read(self.dirs.state.join("gc.json")).ok()?;
        serde_json::from_slice::<LastTime>(&bytes).ok().map(|last| last.at)
    }

    fn collect(
        &self,
        mode: Mode,
        progress: &SharedSink,
        cancel: &AtomicBool,
    ) -> Result<Collection> {
        let found = find::Search::of(self)?;
        let mut done = Collection { mode, garbage: vec![], kept: found.kept, freed_bytes: 0 };
        for garbage in found.garbage {
            if cancel.load(Ordering::SeqCst) {
                return Err(Error::new(Kind::Interrupted, "", "interrupted while collecting")
                    .hint("run it again: what is garbage stays garbage"));
            }
            match self.dispose(mode, garbage, progress, cancel) {
                Ok(Some(gone)) => {
                    done.freed_bytes += gone.bytes;
                    done.garbage.push(gone);
                }
                Ok(None) => {}
                Err((path, error)) => done.kept.push(Kept { path, why: error.chain() }),
            }
        }
        if mode == Mode::Remove {
            // A time that cannot be kept only makes `doctor` ask for the next collection.
            let json = serde_json::to_vec(&LastTime { at: now() }).unwrap_or_default();
            let _ = file::write_durably(&self.dirs.state.join("gc.json"), &json);
        }
        Ok(done)
    }

    /// Takes one piece away; `None` when it turned out to be needed after all.
    fn dispose(
        &self,
        mode: Mode,
        garbage: Garbage,
        progress: &SharedSink,
        cancel: &AtomicBool,
    ) -> Result<Option<Garbage>, (PathBuf, Error)> {
        if mode == Mode::DryRun {
            return Ok(Some(garbage));
        }
        let path = garbage.path.clone();
        let gone = match garbage.waste {
            Waste::PoolRevision => self.dispose_revision(garbage),
            Waste::Images => self.dispose_images(garbage, progress, cancel),
            Waste::Snapshot | Waste::Unfinished => self.dispose_of_instance(garbage),
            Waste::HalfRemoved | Waste::OfNobody | Waste::Outdated => {
                remove(&path).about("", "remove garbage").map(|()| Some(garbage))
            }
        };
        gone.map_err(|error| (path, error))
    }

    /// By the pool's own collector, which looks again under the state lock. It takes all spare
    /// revisions of a pool at once, so the next one may be gone already.
    fn dispose_revision(&self, garbage: Garbage) -> Result<Option<Garbage>> {
        if let (true, Ok(pool)) = (garbage.path.exists(), garbage.object.parse()) {
            tokio::runtime::Handle::current().block_on(self.collect_pool(&pool))?;
        }
        Ok((!garbage.path.exists()).then_some(garbage))
    }

    fn dispose_images(
        &self,
        garbage: Garbage,
        progress: &SharedSink,
        cancel: &AtomicBool,
    ) -> Result<Option<Garbage>> {
        let sink = |now| progress(now);
        // What is needed is asked once nobody is building any more.
        let keep = || self.needed_revisions();
        let freed = self.images()?.gc_by(keep, Control::new(&sink, cancel));
        let freed = freed.about("", "remove unneeded image revisions")?;
        Ok(Some(Garbage { object: images_word(&freed), bytes: freed.bytes, ..garbage }))
    }

    /// Under the instance's lock, if nobody holds it, and only what is still garbage then.
    fn dispose_of_instance(&self, garbage: Garbage) -> Result<Option<Garbage>> {
        let Some(record) = self.owner_of(&garbage)? else { return Ok(None) };
        let lock = lock::path_in(&self.instance_dir(&record));
        let Ok(_lock) = Lock::try_take(&lock, &self.who) else { return Ok(None) };
        // Read again: only now nobody else writes it.
        let Some(record) = self.owner_of(&garbage)? else { return Ok(None) };
        let mut now = find::of_instance(self, &record).into_iter();
        let Some(garbage) = now.find(|other| other.path == garbage.path) else { return Ok(None) };
        remove(&garbage.path).about(&garbage.object, "remove garbage")?;
        Ok(Some(garbage))
    }

    fn owner_of(&self, garbage: &Garbage) -> Result<Option<InstanceRecord>> {
        let Ok(path) = garbage.object.parse::<InstancePath>() else { return Ok(None) };
        let InstanceRef::Id(id) = path.instance else { return Ok(None) };
        self.records.instance(&path.pool, id)
    }
}

fn remove(path: &std::path::Path) -> Result<(), file::FileError> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => file::remove_dir(path),
        _ => file::remove_file(path),
    }
}

/// What was freed of the image store, for people.
fn images_word(freed: &Freed) -> String {
    match freed.revisions.len() {
        0 => "packages no image is made from".into(),
        1 => "1 image revision and its packages".into(),
        count => format!("{count} image revisions and their packages"),
    }
}

#[cfg(test)]
mod tests;
