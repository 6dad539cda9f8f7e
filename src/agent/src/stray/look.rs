//! Looks at what is on this host and provably ours, then at the records. Changes nothing.
//!
//! In this order: what somebody makes in between is then missing among the things, never among
//! the records that would explain it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mvm_host::lock;
use mvm_host::net::{OwnLink, dns};
use mvm_host::snapshot::{Held, Snapshots};
use mvm_model::record::{InstanceRecord, PoolRecord, TenantRecord};
use mvm_model::state::Transition;
use mvm_model::{InstanceId, NetId, PoolPath};
use mvm_vmm::systemd::{self, Systemd};
use mvm_vmm::{RunningRecord, process};

use super::judge::{Claim, Holder, Instance, Known, Moving, Part, Seen, Spare, Thing, What};
use super::process::{self as processes, Processes};
use crate::disk::aside;
use crate::error::{About, Kind, Result};
use crate::gc::{Waste, litter, needed_generation};
use crate::machine::Machine;
use crate::records::{Problem, holds_data, spare_of};
use crate::service::Service;

/// What is here, and what the records say.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) things: Vec<Thing>,
    pub(crate) known: Known,
}

impl Service {
    /// Looks at everything.
    ///
    /// # Errors
    /// When the kernel's network cannot be asked.
    pub(crate) async fn survey(&self) -> Result<Survey> {
        let links = self.net().await?.own_links().await.about("", "look at taps and bridges")?;
        let units = units(&self.dirs.run.join("vm")).await;
        let resolver = dns::pid(&self.dirs.run).await;
        let service = self.clone();
        let mut survey = aside("look for strays", move || service.survey_files()).await?;
        survey.things.extend(units);
        let answers = links.iter().any(|link| matches!(link, OwnLink::Bridge { .. }));
        survey.things.extend(links.into_iter().map(link));
        // It answers on bridges only.
        let resolver = resolver.filter(|_| !answers);
        survey.things.extend(resolver.map(|pid| old(What::Resolver { pid })));
        Ok(survey)
    }

    fn survey_files(&self) -> Survey {
        let processes = processes::find(&self.dirs.run.join("vm"));
        let mut things = self.run_files();
        things.extend(self.jails(&processes));
        things.extend(processes.things);
        things.extend(litter(self).into_iter().map(|(waste, path)| {
            let what =
                What::Litter { of: instance_in(&path), path: path.clone(), what: word(waste) };
            Thing { what, age: age(&path) }
        }));
        let mut known = Known { living: living(&things), ..Known::default() };
        self.know_tenants(&mut known, &mut things);
        Survey { things, known }
    }

    /// What is known of one instance now.
    pub(crate) fn know(&self, record: &InstanceRecord) -> Instance {
        let held = lock::is_held(&lock::path_in(&self.instance_dir(record)));
        let vm = record.state.vm().map(|vm| vm.process.clone());
        let claim = Claim {
            status: record.state.status(),
            vm_lives: vm.as_ref().is_some_and(process::is_alive),
            vm,
            recorded: Machine::of(self, record).living_vm().map(|vm| vm.process),
            waiting: self.waiting_vmm(record).map(|running| running.process),
            generation: needed_generation(&record.state),
            motion: match &record.transition {
                None => Moving::No,
                Some(Transition::Destroying) => Moving::Ending,
                Some(_) => Moving::Yes,
            },
        };
        Instance { path: record.path().to_string(), held, seen: Seen::Good(claim) }
    }

    fn run_files(&self) -> Vec<Thing> {
        let boot = process::boot_id().unwrap_or_default();
        let dirs = [self.dirs.run.join("vm"), self.dirs.run.join("secrets")];
        let found = dirs.iter().flat_map(|dir| list(dir));
        let thing = |path: PathBuf| {
            let of = name(&path).split('.').next()?.parse().ok()?;
            let running = RunningRecord::load(&path).ok().flatten();
            let former_boot = running.is_some_and(|running| running.process.boot_id != boot);
            let age = age(&path);
            Some(Thing { what: What::RunFiles { of, path, former_boot }, age })
        };
        found.filter_map(thing).collect()
    }

    fn jails(&self, processes: &Processes) -> Vec<Thing> {
        let mut things = Vec::new();
        for path in list(&self.dirs.jails().join("firecracker")) {
            let Some(of) = jailed(&name(&path)) else { continue };
            let root = path.join("root");
            let inhabited =
                processes::inode(&root).is_some_and(|root| processes.roots.contains(&root));
            let age = age(&path);
            for path in last_links(&root) {
                things.push(Thing { what: What::LastLink { of, path, inhabited }, age });
            }
            things.push(Thing { what: What::Jail { of, path, inhabited }, age });
        }
        things
    }

    fn know_tenants(&self, known: &mut Known, things: &mut Vec<Thing>) {
        let found = self.records.tenants();
        things.extend(found.problems.iter().map(|p| unusable::<TenantRecord>(p, Holder::Many)));
        let nets: Vec<_> = found
            .records
            .iter()
            .map(|tenant| (tenant.tenant_id.clone(), tenant.network.tenant_net_id))
            .collect();
        for dir in list(&self.dirs.tenants()) {
            let Ok(tenant) = name(&dir).parse() else { continue };
            let net = nets.iter().find(|(name, _)| *name == tenant).map(|(_, net)| *net);
            let missing = !dir.join("tenant.json").exists();
            if missing && spare_of::<TenantRecord>(&dir.join("tenant.json")).is_some() {
                things.push(lost(dir.join("tenant.json")));
            }
            known.tenants.insert(tenant.clone(), net);
            for pool in list(&dir.join("pools")) {
                let Ok(pool) = name(&pool).parse() else { continue };
                self.know_pool(&PoolPath { tenant: tenant.clone(), pool }, net, known, things);
            }
        }
    }

    fn know_pool(
        &self,
        pool: &PoolPath,
        net: Option<NetId>,
        known: &mut Known,
        things: &mut Vec<Thing>,
    ) {
        let record = self.dirs.pool(pool).join("pool.json");
        match self.records.pool(pool) {
            Err(error) => {
                let problem = Problem { path: record, problem: error.chain(), kind: error.kind };
                things.push(unusable::<PoolRecord>(&problem, Holder::Many));
            }
            Ok(None) if spare_of::<PoolRecord>(&record).is_some() => things.push(lost(record)),
            Ok(_) => {}
        }
        for dir in list(&self.dirs.pool(pool).join("instances")) {
            let Ok(id) = name(&dir).parse::<InstanceId>() else { continue };
            let file = dir.join("instance.json");
            match self.records.instance(pool, id) {
                Ok(Some(record)) => {
                    if !known.ports.insert((record.net_id, record.offset)) {
                        things.push(old(What::Twin { of: id, path: file }));
                    }
                    things.extend(snapshots(&record, &dir));
                    known.instances.insert(id, self.know(&record));
                }
                other => {
                    let held = lock::is_held(&lock::path_in(&dir));
                    let path = format!("{pool}/{id}");
                    known.instances.insert(id, Instance { path, held, seen: Seen::Unreadable });
                    known.doubtful.extend(net);
                    things.push(match other {
                        Err(error) if file.exists() => {
                            let (problem, kind) = (error.chain(), error.kind);
                            let problem = Problem { path: file, problem, kind };
                            unusable::<InstanceRecord>(&problem, Holder::Instance(id))
                        }
                        _ => unrecorded(id, dir, &file),
                    });
                }
            }
        }
    }
}

fn living(things: &[Thing]) -> BTreeSet<InstanceId> {
    let vm = |thing: &Thing| match &thing.what {
        What::Process { of, part: Part::Vm, .. } => Some(*of),
        _ => None,
    };
    things.iter().filter_map(vm).collect()
}

/// A directory of an instance that has no record.
fn unrecorded(of: InstanceId, path: PathBuf, file: &Path) -> Thing {
    let spare = spare(spare_of::<InstanceRecord>(file).is_some());
    let drives = holds_data(file);
    let age = age(&path);
    Thing { what: What::Unrecorded { of, path, spare, drives }, age }
}

fn unusable<T: crate::records::Placed>(problem: &Problem, of: Holder) -> Thing {
    let what = What::Record {
        of,
        path: problem.path.clone(),
        problem: problem.problem.clone(),
        spare: spare(spare_of::<T>(&problem.path).is_some()),
        newer: problem.kind == Kind::NewerState,
    };
    // Records are replaced by a rename: one that cannot be read is not on its way to anything.
    old(what)
}

/// A tenant's or pool's record that is gone while the version before it is there.
fn lost(path: PathBuf) -> Thing {
    let age = path.parent().map_or(Duration::MAX, age);
    let problem = "the record is gone; the version before it is there".to_owned();
    Thing {
        what: What::Record { of: Holder::Many, path, problem, spare: Spare::Good, newer: false },
        age,
    }
}

fn spare(good: bool) -> Spare {
    if good { Spare::Good } else { Spare::Missing }
}

fn snapshots(record: &InstanceRecord, dir: &Path) -> Vec<Thing> {
    let all = Snapshots::of(dir);
    let thing = |path: PathBuf| {
        let generation = name(&path).parse().ok();
        let held = generation.map_or(Ok(Held::Nothing), |generation| all.held(generation)).ok();
        let (of, age) = (record.instance_id, age(&path));
        Thing { what: What::Snapshot { of, path, generation, held }, age }
    };
    list(&dir.join("snapshots")).into_iter().map(thing).collect()
}

/// Drives and memory in a jail that have no other name. The rest of it is the VMM's own.
pub(super) fn last_links(root: &Path) -> Vec<PathBuf> {
    let files = [root.join("drives/data"), root.join("snapshot/memory")];
    let is_last = |path: &PathBuf| {
        let meta = fs::symlink_metadata(path).ok();
        meta.is_some_and(|meta| meta.is_file() && meta.nlink() == 1 && meta.len() > PLACEHOLDER)
    };
    files.into_iter().filter(is_last).collect()
}

/// The drive of an instance that asked for none; nothing can be on it.
const PLACEHOLDER: u64 = 64 << 10;

/// The units whose pid file is in our run directory. None where there is no systemd.
async fn units(run: &Path) -> Vec<Thing> {
    if !systemd::is_running() {
        return Vec::new();
    }
    let Ok(systemd) = Systemd::connect().await else { return Vec::new() };
    let all = systemd.vm_units().await.unwrap_or_default();
    let ours = all.into_iter().filter(|unit| unit.pid_file.starts_with(run));
    ours.map(|unit| old(What::Unit { of: unit.instance, name: unit.name })).collect()
}

fn link(link: OwnLink) -> Thing {
    old(match link {
        OwnLink::Tap { name, net_id, offset, attached } => {
            What::Tap { name, net_id, offset, attached }
        }
        OwnLink::Bridge { name, net_id, tenant, attached } => {
            What::Bridge { name, net_id, tenant, attached }
        }
    })
}

/// Something without an age. It is looked at again under the lock its maker would hold.
fn old(what: What) -> Thing {
    Thing { what, age: Duration::MAX }
}

fn word(waste: Waste) -> &'static str {
    match waste {
        Waste::HalfRemoved => "its removal was interrupted",
        Waste::Unfinished => "an interrupted command was writing it",
        _ => "it is of an earlier boot",
    }
}

/// The instance a file of the state directory belongs to.
fn instance_in(path: &Path) -> Option<InstanceId> {
    path.components().find_map(|part| part.as_os_str().to_str()?.parse().ok())
}

/// `<instance>-<nonce>`.
fn jailed(name: &str) -> Option<InstanceId> {
    name.rsplit_once('-')?.0.parse().ok()
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let hidden = |path: &PathBuf| name(path).starts_with('.');
    let paths: BTreeSet<_> =
        entries.map(|entry| entry.path()).filter(|path| !hidden(path)).collect();
    paths.into_iter().collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How long ago something was changed last. A clock that was set back makes nothing old.
fn age(path: &Path) -> Duration {
    let modified = path.symlink_metadata().and_then(|meta| meta.modified());
    let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.unwrap_or_default()
}
