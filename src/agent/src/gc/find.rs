//! What is garbage now. Reads only.
//!
//! Where something is looked for that belongs to an instance, its files are listed *before* the
//! instances are: an instance that is created meanwhile is then never missed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mvm_host::{file, lock};
use mvm_model::InstanceId;
use mvm_model::record::InstanceRecord;
use mvm_model::state::State;
use mvm_vmm::{RunningRecord, process};
use serde::Deserialize;

use super::{Garbage, Kept, Waste, images_word};
use crate::error::{About, Result};
use crate::records::GONE;
use crate::service::Service;

/// How old what a living process may still be working on must be.
const OLD: Duration = Duration::from_secs(1800);

/// A search for garbage and what it found.
pub(super) struct Search<'a> {
    service: &'a Service,
    pub(super) garbage: Vec<Garbage>,
    pub(super) kept: Vec<Kept>,
}

impl<'a> Search<'a> {
    /// Everything.
    pub(super) fn of(service: &'a Service) -> Result<Self> {
        let mut search = Self::runtime_of(service);
        search.proofs();
        search.half_removed();
        search.instances();
        // Before the store's: what a pool lets go of is then nowhere else.
        search.pools();
        search.images()?;
        Ok(search)
    }

    /// Only what VMs leave in the run directory.
    pub(super) fn runtime_of(service: &'a Service) -> Self {
        let mut search = Self { service, garbage: Vec::new(), kept: Vec::new() };
        search.runtime();
        search
    }

    fn found(&mut self, waste: Waste, object: impl ToString, path: PathBuf) {
        let bytes = file::allocated_bytes(&path);
        self.garbage.push(Garbage { waste, object: object.to_string(), path, bytes });
    }

    fn keep(&mut self, path: PathBuf, why: impl Into<String>) {
        self.kept.push(Kept { path, why: why.into() });
    }

    fn pools(&mut self) {
        if !self.service.record_problems().is_empty() {
            return;
        }
        for tenant in self.service.records.tenants().records {
            for pool in self.service.records.pools(&tenant.tenant_id).records {
                for place in self.service.spare_revisions(&pool) {
                    let (object, bytes) = (pool.path().to_string(), unshared(&place));
                    let waste = Waste::PoolRevision;
                    self.garbage.push(Garbage { waste, object, path: place, bytes });
                }
            }
        }
    }

    /// What an unreadable record may need is unknown, so then every revision stays.
    fn images(&mut self) -> Result<()> {
        let service = self.service;
        if let Some(problem) = service.record_problems().into_iter().next() {
            let why = format!("images stay while {} cannot be read", problem.path.display());
            self.keep(service.dirs.cache.join("revisions"), why);
            return Ok(());
        }
        let keep = service.needed_revisions();
        let free = service.images()?.would_free(&keep).about("", "look for unneeded images")?;
        if free.bytes > 0 || !free.revisions.is_empty() {
            let (object, path) = (images_word(&free), service.dirs.cache.clone());
            self.garbage.push(Garbage { waste: Waste::Images, object, path, bytes: free.bytes });
        }
        Ok(())
    }

    /// Sockets, logs and secrets of instances that are gone.
    fn runtime(&mut self) {
        let run = &self.service.dirs.run;
        let found: Vec<_> = ["vm", "secrets"].iter().flat_map(|dir| list(&run.join(dir))).collect();
        let probes = list(run).into_iter().filter(|path| name(path).starts_with("probe-"));
        let probes: Vec<_> = probes.filter(|path| is_old(path)).collect();
        let known = self.service.instance_ids();
        for path in found {
            let id = name(&path).split('.').next().and_then(|stem| stem.parse().ok());
            match id {
                Some(id) if !known.contains(&id) => self.of_nobody(id, path),
                _ => {}
            }
        }
        for path in probes {
            self.of_nobody("a probe of this host", path);
        }
    }

    fn of_nobody(&mut self, whose: impl ToString, path: PathBuf) {
        let running = RunningRecord::load(&path).ok().flatten();
        match running.filter(|running| process::is_alive(&running.process)) {
            Some(running) => {
                let pid = running.process.pid;
                self.keep(path, format!("its VM still runs, as process {pid}: kill {pid}"));
            }
            None => self.found(Waste::OfNobody, whose, path),
        }
    }

    /// Proofs hold until the host boots anew; on a disk they stay behind.
    fn proofs(&mut self) {
        let run = &self.service.dirs.run;
        let mut dated = list(&run.join("verified"));
        dated.push(run.join("verdicts.json"));
        let boot_id = process::boot_id().unwrap_or_default();
        for path in dated {
            if made_in(&path).is_some_and(|boot| boot != boot_id) {
                self.found(Waste::Outdated, "a proof of an earlier boot", path);
            }
        }
    }

    /// What an interrupted removal left, in every directory objects are removed from.
    fn half_removed(&mut self) {
        let tenants = self.service.dirs.tenants();
        let mut places = vec![tenants.clone()];
        for tenant in list(&tenants) {
            let pools = tenant.join("pools");
            places.extend(list(&pools).into_iter().map(|pool| pool.join("instances")));
            places.extend(list(&pools).into_iter().map(|pool| pool.join("artifacts/revisions")));
            places.push(pools);
        }
        for path in places.iter().flat_map(|place| list(place)) {
            let name = name(&path);
            if let Some(object) = name.strip_prefix(GONE) {
                let object = object.to_owned();
                self.found(Waste::HalfRemoved, object, path);
            } else if name.starts_with(".link-") && is_old(&path) {
                self.found(Waste::HalfRemoved, "an image on its way into a pool", path);
            }
        }
    }

    fn instances(&mut self) {
        for record in self.service.records.all_instances().records {
            let lock = lock::path_in(&self.service.instance_dir(&record));
            // Somebody is at it: what is there may be half of something.
            if record.transition.is_none() && !lock::is_held(&lock) {
                self.garbage.extend(of_instance(self.service, &record));
            }
        }
    }
}

/// What an instance does not need of what is in its directory. Nothing while a transition is on
/// its way or was interrupted: settling it decides.
pub(super) fn of_instance(service: &Service, record: &InstanceRecord) -> Vec<Garbage> {
    if record.transition.is_some() {
        return Vec::new();
    }
    let dir = service.instance_dir(record);
    let needed = needed_generation(&record.state).map(|generation| generation.to_string());
    let snapshots = list(&dir.join("snapshots")).into_iter();
    let snapshots = snapshots.filter(|path| Some(name(path)) != needed);
    let unfinished = list(&dir).into_iter().filter(|path| is_unfinished(&name(path)));
    let garbage = |waste| {
        let object = record.path().to_string();
        move |path: PathBuf| {
            let bytes = file::allocated_bytes(&path);
            Garbage { waste, object: object.clone(), path, bytes }
        }
    };
    let snapshots: Vec<_> = snapshots.map(garbage(Waste::Snapshot)).collect();
    snapshots.into_iter().chain(unfinished.map(garbage(Waste::Unfinished))).collect()
}

/// What interrupted commands left, and what an earlier boot did: nothing of it holds data.
pub(crate) fn litter(service: &Service) -> Vec<(Waste, PathBuf)> {
    let mut search = Search { service, garbage: Vec::new(), kept: Vec::new() };
    search.proofs();
    search.half_removed();
    let mut found: Vec<_> =
        search.garbage.into_iter().map(|garbage| (garbage.waste, garbage.path)).collect();
    for record in service.records.all_instances().records {
        let files = list(&service.instance_dir(&record)).into_iter();
        let unfinished = files.filter(|path| is_unfinished(&name(path)));
        found.extend(unfinished.map(|path| (Waste::Unfinished, path)));
    }
    found
}

/// The snapshot a state needs: the one it sleeps in, or the one its VM may have mapped.
pub(crate) fn needed_generation(state: &State) -> Option<u64> {
    match state {
        State::Sleeping { generation } => Some(*generation),
        State::Running { vm } | State::Warm { vm } => vm.resumed_from,
        State::Created | State::Stopped | State::Failed { .. } => None,
    }
}

/// Drives and records are written beside their place and renamed.
fn is_unfinished(name: &str) -> bool {
    name.ends_with(".tmp") || name.ends_with(".tree")
}

/// Bytes on disk of the files that have no other name.
fn unshared(dir: &Path) -> u64 {
    let metas = list(dir).into_iter().filter_map(|path| path.symlink_metadata().ok());
    metas.filter(|meta| meta.nlink() == 1).map(|meta| meta.blocks() * 512).sum()
}

#[derive(Deserialize)]
struct Dated {
    boot_id: String,
}

fn made_in(path: &Path) -> Option<String> {
    serde_json::from_slice::<Dated>(&fs::read(path).ok()?).ok().map(|dated| dated.boot_id)
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A clock that was set back makes nothing old.
fn is_old(path: &Path) -> bool {
    let modified = path.symlink_metadata().and_then(|meta| meta.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > OLD))
}

impl Service {
    /// Owners of data drives, whether a record leads to them or not: nobody else gets their uid.
    pub(crate) fn kept_uids(&self) -> Vec<u32> {
        let pools = list(&self.dirs.tenants()).into_iter().flat_map(|t| list(&t.join("pools")));
        let instances = pools.flat_map(|pool| list(&pool.join("instances")));
        let owner = |dir: PathBuf| dir.join("data.img").symlink_metadata().ok().map(|it| it.uid());
        instances.filter_map(owner).collect()
    }

    /// Ids there are directories for, whether their records can be read or not.
    pub(crate) fn instance_ids(&self) -> Vec<InstanceId> {
        let pools = list(&self.dirs.tenants()).into_iter().flat_map(|t| list(&t.join("pools")));
        let instances = pools.flat_map(|pool| list(&pool.join("instances")));
        instances.filter_map(|dir| name(&dir).parse().ok()).collect()
    }
}
