//! A pool's own copies of its revisions: which one is current, going back, removing the rest.
//!
//! The record decides; `artifacts/current` is for people's eyes. A revision leaves by one rename,
//! under the state lock, after the records were read: an instance that starts is either seen on
//! its way, and then nothing is removed, or reads the record later and finds the current revision.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mvm_api::image::{Collected, Kept, RevisionView, RolledBack};
use mvm_host::file::{self, Context as _, FileError};
use mvm_host::image::Revision;
use mvm_model::image::{ImageSource, PoolRevision};
use mvm_model::record::{InstanceRecord, PoolRecord};
use mvm_model::{Digest, PoolPath};

use crate::error::{About, Error, Kind, Result};
use crate::service::{Service, now};

/// What a revision that is being removed is called.
const GONE: &str = ".gone-";
/// How what is being linked is called, and longer than that takes.
const LINKING: &str = ".link-";
const LINKING_TAKES: Duration = Duration::from_secs(3600);

impl Service {
    /// Makes a revision whose files are linked the pool's current one. `built_from` is what it
    /// was built from: the pool must still ask for that.
    pub(super) async fn make_current(
        &self,
        path: &PoolPath,
        revision: PoolRevision,
        built_from: Option<&ImageSource>,
    ) -> Result<Option<Digest>> {
        let _lock = self.lock_state().await?;
        let mut pool = self.pool(path)?;
        if built_from.is_some_and(|image| *image != pool.image) {
            let text = format!("pool {path} got another image while this one was built");
            let hint = format!("mvm pool build {path}");
            return Err(Error::new(Kind::Conflict, path, text).hint(hint));
        }
        let (images, dir) = (self.images()?, self.dirs.pool(path));
        let digest = revision.digest.clone();
        // A collector may have been faster than the state lock.
        if let Err(error) = Revision::open(&self.shelf(path).join(digest.as_str()), &digest) {
            tracing::debug!(pool = %path, %error, "linking the revision again");
            images.link_revision(&dir, &digest).about(path, "put the image into the pool")?;
        }
        let before = pool.current.replace(digest.clone());
        pool.history.switch(before.as_ref(), revision);
        self.records.put_pool(&pool)?;
        images.point(&dir, &digest).about(path, "show the pool's current image")?;
        Ok(before)
    }

    /// Makes an earlier revision the one new boots use; `to` is its digest or how that starts.
    /// What runs or sleeps keeps its own until its next cold start.
    ///
    /// # Errors
    /// When there is none, or its files are gone.
    pub async fn rollback_pool(&self, path: &PoolPath, to: Option<&str>) -> Result<RolledBack> {
        let result = self.rollback_unlogged(path, to).await;
        let detail = result
            .as_ref()
            .map_or_else(|_| String::new(), |back| format!("revision {}", back.to.short()));
        self.audit_with(&path.tenant, path, "pool.rollback", &result, &detail).await;
        result
    }

    async fn rollback_unlogged(&self, path: &PoolPath, to: Option<&str>) -> Result<RolledBack> {
        let pool = self.pool(path)?;
        let target = self.rollback_target(&pool, to)?;
        let shelf = self.shelf(path).join(target.as_str());
        let images = self.images()?;
        if Revision::open(&shelf, &target).is_err()
            && images.link_revision(&self.dirs.pool(path), &target).is_err()
        {
            let text = format!("revision {} is gone", target.short());
            return Err(Error::new(Kind::NotFound, path, text)
                .hint(format!("'mvm pool build {path}' builds the image anew")));
        }
        let known = pool.history.get(&target).cloned();
        let revision = known.unwrap_or_else(|| PoolRevision {
            digest: target.clone(),
            builder: None,
            source: String::new(),
            lock: None,
            built_at: 0,
            current_since: 0,
        });
        let revision = PoolRevision { current_since: now(), ..revision };
        let from = self.make_current(path, revision, None).await?;
        let others = |record: &&InstanceRecord| {
            record.revision.as_ref().is_some_and(|its| *its != target) && keeps(record)
        };
        let keeping = self.records.instances(path).records.iter().filter(others).count();
        Ok(RolledBack { from, to: target, keeping })
    }

    fn rollback_target(&self, pool: &PoolRecord, to: Option<&str>) -> Result<Digest> {
        let path = pool.path();
        let refuse = |kind, text: String| {
            let hint = format!("'mvm pool info {path}' lists the pool's revisions");
            Err(Error::new(kind, &path, text).hint(hint))
        };
        let Some(to) = to else {
            return match pool.history.previous(pool.current.as_ref()) {
                Some(previous) => Ok(previous.digest.clone()),
                None => refuse(Kind::NotFound, format!("pool {path} has no previous revision")),
            };
        };
        let known = pool.history.all().iter().map(|revision| revision.digest.clone());
        let mut found: Vec<_> = known.chain(self.shelved(&path)).collect();
        found.retain(|digest| digest.as_str().starts_with(to));
        found.sort();
        found.dedup();
        match &found[..] {
            _ if to.is_empty() => refuse(Kind::Invalid, "give the start of a digest".into()),
            [one] if Some(one) == pool.current.as_ref() => {
                refuse(Kind::WrongState, format!("revision {} is current already", one.short()))
            }
            [one] => Ok(one.clone()),
            [] => refuse(Kind::NotFound, format!("pool {path} never used a revision {to}")),
            _ => refuse(Kind::Invalid, format!("several revisions start with {to}")),
        }
    }

    /// Removes the pool's revisions that are neither current nor the previous one and that no
    /// instance and no snapshot needs.
    ///
    /// # Errors
    /// When a record cannot be read, so that what it needs is not known; nothing is removed then.
    pub async fn collect_pool(&self, path: &PoolPath) -> Result<Collected> {
        let result = self.collect_pool_unlogged(path).await;
        self.audit(&path.tenant, path, "pool.gc", &result).await;
        result
    }

    async fn collect_pool_unlogged(&self, path: &PoolPath) -> Result<Collected> {
        let mut collected = Collected::default();
        {
            let _lock = self.lock_state().await?;
            let pool = self.pool(path)?;
            let instances = self.records.instances(path).all(path, "remove its revisions")?;
            let needed = needed(&pool, &instances);
            let busy = instances.iter().find(|instance| instance.transition.is_some());
            for digest in self.shelved(path) {
                let why = needed.get(&digest).cloned().or_else(|| {
                    busy.map(|instance| format!("{} is changing; try later", instance.path()))
                });
                match why {
                    Some(why) => collected.kept.push(Kept { digest, why }),
                    None => {
                        let place = self.shelf(path).join(digest.as_str());
                        let gone = self.shelf(path).join(format!("{GONE}{digest}"));
                        file::rename_durably(&place, &gone).about(path, "remove a revision")?;
                        collected.revisions.push(digest);
                    }
                }
            }
        }
        collected.bytes = self.sweep_shelf(path).about(path, "remove a revision")?;
        Ok(collected)
    }

    /// The directories of a pool's revisions that [`Self::collect_pool`] would remove now.
    pub(crate) fn spare_revisions(&self, pool: &PoolRecord) -> Vec<PathBuf> {
        let path = pool.path();
        let instances = self.records.instances(&path).records;
        if instances.iter().any(|instance| instance.transition.is_some()) {
            return Vec::new();
        }
        let needed = needed(pool, &instances);
        let spare = self.shelved(&path).into_iter().filter(|digest| !needed.contains_key(digest));
        spare.map(|digest| self.shelf(&path).join(digest.as_str())).collect()
    }

    /// Removes what was renamed away, now or before a crash; the bytes nothing else links to.
    fn sweep_shelf(&self, path: &PoolPath) -> Result<u64, FileError> {
        let shelf = self.shelf(path);
        let mut bytes = 0;
        for entry in fs::read_dir(&shelf).into_iter().flatten().flatten() {
            if is_rubbish(&entry) {
                bytes += unshared(&entry.path());
                fs::remove_dir_all(entry.path()).doing("remove", &entry.path())?;
            }
        }
        Ok(bytes)
    }

    /// Where a pool's revisions are.
    fn shelf(&self, path: &PoolPath) -> PathBuf {
        self.dirs.pool(path).join("artifacts/revisions")
    }

    fn shelved(&self, path: &PoolPath) -> Vec<Digest> {
        let entries = fs::read_dir(self.shelf(path)).into_iter().flatten().flatten();
        let mut digests: Vec<Digest> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        digests.sort();
        digests
    }

    /// A pool's revisions as people and tools see them, newest use first.
    pub(crate) fn revision_views(&self, pool: &PoolRecord) -> Vec<RevisionView> {
        let here = self.shelved(&pool.path());
        let previous = pool.history.previous(pool.current.as_ref()).map(|one| &one.digest);
        let view = |revision: &PoolRevision| RevisionView {
            current: pool.current.as_ref() == Some(&revision.digest),
            previous: previous == Some(&revision.digest),
            here: here.contains(&revision.digest),
            revision: revision.clone(),
        };
        pool.history.all().iter().rev().map(view).collect()
    }

    /// Who built a pool's current revision.
    pub(crate) fn builder_of(&self, pool: &PoolRecord) -> Option<String> {
        let current = pool.current.as_ref()?;
        let noted = pool.history.get(current).and_then(|revision| revision.builder);
        noted.map(|builder| builder.to_string()).or_else(|| {
            let shelved = Revision::open(&self.shelf(&pool.path()).join(current.as_str()), current);
            shelved.ok().map(|revision| revision.manifest.builder)
        })
    }

    /// Revisions pools and instances need, of the image store: everything else in it can go.
    pub fn needed_revisions(&self) -> Vec<Digest> {
        let mut all: Vec<_> = self.needs().into_keys().collect();
        all.sort();
        all
    }

    /// Which pools need which revisions.
    pub(super) fn needs(&self) -> BTreeMap<Digest, Vec<String>> {
        let mut all: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for tenant in self.records.tenants().records {
            for pool in self.records.pools(&tenant.tenant_id).records {
                let instances = self.records.instances(&pool.path()).records;
                for digest in needed(&pool, &instances).into_keys() {
                    all.entry(digest).or_default().push(pool.path().to_string());
                }
            }
        }
        all
    }
}

/// The revisions a pool needs, and why.
fn needed(pool: &PoolRecord, instances: &[InstanceRecord]) -> BTreeMap<Digest, String> {
    let mut needed = BTreeMap::new();
    let mut need = |digest: Option<&Digest>, why: String| {
        if let Some(digest) = digest {
            needed.entry(digest.clone()).or_insert(why);
        }
    };
    need(pool.current.as_ref(), "current".into());
    let previous = pool.history.previous(pool.current.as_ref());
    need(previous.map(|one| &one.digest), "previous, for a rollback".into());
    if let ImageSource::Revision { digest } = &pool.image {
        need(Some(digest), "the pool asks for it".into());
    }
    for instance in instances {
        // Also what was stopped: a snapshot that is kept, or a resume that is tried again, binds it.
        need(instance.revision.as_ref(), format!("{} uses it", instance.path()));
        need(instance.pinned_revision.as_ref(), format!("{} asks for it", instance.path()));
    }
    needed
}

/// What a crash left: a revision on its way out, or one that was being linked long ago.
fn is_rubbish(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let age = || entry.metadata().and_then(|meta| meta.modified()).ok()?.elapsed().ok();
    let name = name.to_string_lossy();
    name.starts_with(GONE)
        || name.starts_with(LINKING) && age().is_some_and(|age| age > LINKING_TAKES)
}

/// Whether an instance goes on with its revision: it runs, or sleeps in a snapshot made of it.
fn keeps(record: &InstanceRecord) -> bool {
    use mvm_model::state::Status;
    matches!(record.state.status(), Status::Running | Status::Warm | Status::Sleeping)
}

/// Bytes on disk of the files that have no other name.
fn unshared(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let metas = entries.filter_map(|entry| entry.metadata().ok());
    metas.filter(|meta| meta.nlink() == 1).map(|meta| meta.blocks() * 512).sum()
}
