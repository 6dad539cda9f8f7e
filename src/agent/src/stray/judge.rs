//! What is stray, and what is done about it: facts and records in, findings out. Reads nothing.
//!
//! ```text
//! what is there          no instance     record unreadable   somebody at it   record good
//! VM, supervisor, unit   reclaim         leave               leave            needed, else reclaim
//! run directory, jail    reclaim¹        leave               leave            needed, else reclaim¹
//! snapshot               (in a directory without record)     leave            needed, else quarantine²
//! tap, bridge            reclaim³
//! record                 restore from the version before, else quarantine; a newer one, and one
//!                        with another's address: ask
//! directory w/o record   restore from the version before; with drives: ask; empty: reclaim
//! ```
//! ¹ a jail that holds the only name of a drive: that drive is quarantined first
//! ² one that was used, or has no whole memory, holds nothing anybody may use: reclaimed; one that
//!   cannot be looked at is left
//! ³ unless a process is attached, or a record that cannot be read may name it
//!
//! Two rules before all: nothing is taken that a living record names, and nothing that holds data
//! is deleted. Whatever is younger than asked for is left: somebody may be making it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use mvm_api::repair::{Stray, Verdict};
use mvm_host::snapshot::Held;
use mvm_model::state::Status;
use mvm_model::vm::ProcessId;
use mvm_model::{InstanceId, NetId, Offset, TenantName};

/// Something that is on this host and is provably ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thing {
    /// What it is.
    pub(crate) what: What,
    /// How long it has been there at least.
    pub(crate) age: Duration,
}

/// What a process of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The VMM.
    Vm,
    /// The shim beside it.
    Supervisor,
}

/// The version of a record before the one that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spare {
    /// It is there and good.
    Good,
    /// There is none, or it cannot be read either.
    Missing,
}

/// Whose record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An instance's.
    Instance(InstanceId),
    /// A tenant's or a pool's.
    Many,
}

/// The kinds of things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A process, found by what it holds open in our run directory.
    Process { of: InstanceId, part: Part, process: ProcessId },
    /// A unit of systemd's whose pid file is in our run directory.
    Unit { of: InstanceId, name: String },
    /// A run directory, a supervisor's log, or a secrets image.
    RunFiles { of: InstanceId, path: PathBuf, former_boot: bool },
    /// A jail.
    Jail { of: InstanceId, path: PathBuf, inhabited: bool },
    /// A drive or a snapshot that has no other name than the one in a jail.
    LastLink { of: InstanceId, path: PathBuf, inhabited: bool },
    /// A tap with our alias.
    Tap { name: String, net_id: NetId, offset: Offset, attached: bool },
    /// A bridge with our alias.
    Bridge { name: String, net_id: NetId, tenant: TenantName, attached: bool },
    /// A directory below an instance's snapshots, and what is in it if that can be looked at.
    Snapshot { of: InstanceId, path: PathBuf, generation: Option<u64>, held: Option<Held> },
    /// An instance's directory without a record.
    Unrecorded { of: InstanceId, path: PathBuf, spare: Spare, drives: bool },
    /// A record that cannot be used.
    Record { of: Holder, path: PathBuf, problem: String, spare: Spare, newer: bool },
    /// An instance with another's address: somebody put a record back.
    Twin { of: InstanceId, path: PathBuf },
    /// What an interrupted command of ours was writing or removing.
    Litter { of: Option<InstanceId>, path: PathBuf, what: &'static str },
    /// The tenants' resolver.
    Resolver { pid: u32 },
}

/// What a good record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Its status.
    pub(crate) status: Status,
    /// The VM it names.
    pub(crate) vm: Option<ProcessId>,
    /// Whether that one lives.
    pub(crate) vm_lives: bool,
    /// The VM that was started last for it and lives, by its supervisor's own record.
    pub(crate) recorded: Option<ProcessId>,
    /// The VMM that waits for its wake.
    pub(crate) waiting: Option<ProcessId>,
    /// The snapshot it sleeps in or was resumed from.
    pub(crate) generation: Option<u64>,
    /// What is on its way with it.
    pub(crate) motion: Moving,
}

/// What is on its way with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moving {
    /// Nothing.
    No,
    /// A transition.
    Yes,
    /// Its end.
    Ending,
}

/// What is known of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// What its record says.
    Good(Claim),
    /// It has a record that cannot be used, or a directory and no record.
    Unreadable,
}

/// An instance there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    /// `<tenant>/<pool>/<id>`.
    pub(crate) path: String,
    /// Whether somebody holds its lock.
    pub(crate) held: bool,
    /// What is known of it.
    pub(crate) seen: Seen,
}

/// What the records say, read after reality was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Instances.
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    /// Tenants with the net id of those whose record is good.
    pub(crate) tenants: BTreeMap<TenantName, Option<NetId>>,
    /// Addresses that are leased.
    pub(crate) ports: BTreeSet<(NetId, Offset)>,
    /// Net ids of tenants some of whose instances cannot be read.
    pub(crate) doubtful: BTreeSet<NetId>,
    /// Instances that have a VM, whatever their records say.
    pub(crate) living: BTreeSet<InstanceId>,
}

/// Holds one thing against the records; `None` when it is where it belongs.
pub(crate) fn judge(thing: &Thing, known: &Known, min_age: Duration) -> Option<Stray> {
    let (object, found) = (thing.what.to_string(), of(&thing.what, known)?);
    let Judged(verdict, why) = found;
    if thing.age < min_age && verdict.acts() && verdict != Verdict::Settle {
        let why = format!("{why}; it is only {} s old", thing.age.as_secs());
        return Some(Stray { object, verdict: Verdict::Leave, why });
    }
    Some(Stray { object, verdict, why })
}

/// An instance that is not what its record says: its VM is gone, or a command was interrupted.
pub(crate) fn unsettled(instance: &Instance) -> Option<Stray> {
    let Seen::Good(claim) = &instance.seen else { return None };
    if instance.held {
        return None;
    }
    let why = match (claim.motion, &claim.vm, &claim.recorded) {
        (Moving::Yes, ..) => "a command was interrupted on its way".to_owned(),
        // It deletes data: who asked for it, or the agent's loop, carries it through.
        (Moving::Ending, ..) => {
            let why = "it is being destroyed; whoever asked for that, or the agent, ends it";
            let object = format!("instance {}", instance.path);
            return Some(Stray { object, verdict: Verdict::Leave, why: why.into() });
        }
        (Moving::No, Some(vm), recorded) if !claim.vm_lives => match recorded {
            Some(other) => format!(
                "its record names process {}, which is gone; its VM lives as process {}",
                vm.pid, other.pid
            ),
            None => format!("its VM, process {}, is gone", vm.pid),
        },
        _ => return None,
    };
    let object = format!("instance {}", instance.path);
    Some(Stray { object, verdict: Verdict::Settle, why })
}

/// A verdict and its reason.
struct Judged(Verdict, String);

fn say(verdict: Verdict, why: impl Into<String>) -> Option<Judged> {
    Some(Judged(verdict, why.into()))
}

fn of(what: &What, known: &Known) -> Option<Judged> {
    match what {
        What::Process { of, part, process } => living(known, *of, |claim| match part {
            Part::Vm => claim.owns(process),
            Part::Supervisor => claim.has_vm(),
        }),
        What::Unit { of, .. } => living(known, *of, Claim::has_vm),
        What::RunFiles { of, former_boot, .. } => {
            living(known, *of, |claim| !former_boot || claim.vm.is_some())
        }
        What::Jail { inhabited: true, .. } => None,
        What::LastLink { inhabited: true, .. } => None,
        What::Jail { of, .. } => living(known, *of, |_| false),
        What::LastLink { of, .. } => kept(known, *of),
        What::Snapshot { of, generation, held, .. } => snapshot(known, *of, *generation, *held),
        What::Tap { net_id, offset, attached, .. } => tap(known, *net_id, *offset, *attached),
        What::Bridge { net_id, tenant, attached, .. } => bridge(known, *net_id, tenant, *attached),
        What::Unrecorded { of, spare, drives, .. } => unrecorded(known, *of, *spare, *drives),
        What::Record { of, problem, spare, newer, .. } => {
            record(known, *of, problem, *spare, *newer)
        }
        What::Twin { .. } => say(
            Verdict::Ask,
            "another instance has the address too: destroy one of them, its data copied before",
        ),
        What::Litter { of, what, .. } => match of.and_then(|of| at_it(known, of)) {
            Some(left) => Some(left),
            None => say(Verdict::Reclaim, *what),
        },
        What::Resolver { .. } => say(Verdict::Reclaim, "there is no bridge it could answer on"),
    }
}

/// Why nothing of an instance is touched now.
fn at_it(known: &Known, of: InstanceId) -> Option<Judged> {
    let instance = known.instances.get(&of)?;
    let path = &instance.path;
    if instance.held {
        return say(Verdict::Leave, format!("somebody is at {path} just now"));
    }
    match &instance.seen {
        Seen::Good(claim) if claim.motion != Moving::No => say(
            Verdict::Leave,
            format!("{path} is on its way to another state; settling that decides"),
        ),
        Seen::Good(_) | Seen::Unreadable => None,
    }
}

/// What only an instance with a VM needs.
fn living(known: &Known, of: InstanceId, needed: impl Fn(&Claim) -> bool) -> Option<Judged> {
    if let Some(left) = at_it(known, of) {
        return Some(left);
    }
    match known.instances.get(&of) {
        None if known.tenants.is_empty() => say(
            Verdict::Ask,
            "the records name no tenant at all: is the disk with the state mounted?",
        ),
        None => say(Verdict::Reclaim, format!("this host has no instance {of}")),
        Some(Instance { seen: Seen::Good(claim), path, .. }) => match needed(claim) {
            true => None,
            false if claim.has_vm() => say(Verdict::Reclaim, format!("{path} has another VM")),
            false => {
                say(Verdict::Reclaim, format!("nothing of {path}, {}, needs it", claim.status))
            }
        },
        // Nothing of it is touched before its record can be read; that one is told.
        Some(_) => None,
    }
}

impl Claim {
    /// Whether a VM is this instance's: the one its record names or, when that one is gone, the
    /// one that was started last.
    fn owns(&self, process: &ProcessId) -> bool {
        match (&self.vm, &self.recorded) {
            (Some(vm), _) if self.vm_lives => vm == process,
            (Some(_), Some(recorded)) => recorded == process,
            _ => self.waiting.as_ref() == Some(process),
        }
    }

    /// Whether any VM of it has a right to be.
    fn has_vm(&self) -> bool {
        self.vm_lives || self.waiting.is_some() || (self.vm.is_some() && self.recorded.is_some())
    }
}

fn kept(known: &Known, of: InstanceId) -> Option<Judged> {
    let found = living(known, of, |_| false)?;
    match found.0 {
        Verdict::Reclaim => {
            say(Verdict::Quarantine, format!("{}; it is the only name this data has", found.1))
        }
        _ => Some(found),
    }
}

fn snapshot(
    known: &Known,
    of: InstanceId,
    generation: Option<u64>,
    held: Option<Held>,
) -> Option<Judged> {
    if let Some(left) = at_it(known, of) {
        return Some(left);
    }
    let instance = known.instances.get(&of)?;
    let Seen::Good(claim) = &instance.seen else { return None };
    if generation.is_some() && claim.generation == generation {
        return None;
    }
    let path = &instance.path;
    let (verdict, why) = match held {
        None => (Verdict::Leave, "does not sleep in it; it cannot be looked at now"),
        Some(Held::Whole) => (Verdict::Quarantine, "does not sleep in it"),
        Some(Held::Used) => (Verdict::Reclaim, "was resumed from it: never again"),
        Some(Held::Nothing) => (Verdict::Reclaim, "cannot sleep in it: no whole memory is there"),
    };
    say(verdict, format!("{path} {why}"))
}

fn tap(known: &Known, net_id: NetId, offset: Offset, attached: bool) -> Option<Judged> {
    if known.ports.contains(&(net_id, offset)) {
        return None;
    }
    if attached {
        return say(Verdict::Leave, "a process is attached to it");
    }
    let recorded = known.tenants.values().any(|net| *net == Some(net_id));
    match known.doubtful.contains(&net_id) || (!recorded && known.has_doubtful_tenant()) {
        true => say(Verdict::Leave, "a record that cannot be read may name it"),
        false => say(Verdict::Reclaim, "no instance has its address"),
    }
}

fn bridge(known: &Known, net_id: NetId, tenant: &TenantName, attached: bool) -> Option<Judged> {
    match known.tenants.get(tenant) {
        Some(Some(net)) if *net == net_id => return None,
        Some(None) => return say(Verdict::Leave, "its tenant's record cannot be read"),
        _ => {}
    }
    match attached {
        true => say(Verdict::Leave, "a process is attached to one of its taps"),
        false => say(Verdict::Reclaim, format!("there is no tenant {tenant} with this network")),
    }
}

impl Known {
    fn has_doubtful_tenant(&self) -> bool {
        self.tenants.values().any(Option::is_none)
    }
}

fn is_held(known: &Known, of: InstanceId) -> bool {
    known.instances.get(&of).is_some_and(|instance| instance.held)
}

fn unrecorded(known: &Known, of: InstanceId, spare: Spare, drives: bool) -> Option<Judged> {
    if is_held(known, of) {
        return say(Verdict::Leave, "somebody is at it just now");
    }
    match (spare, drives) {
        (Spare::Good, _) => {
            say(Verdict::Restore, "its record is gone; the version before is there")
        }
        (Spare::Missing, true) => say(
            Verdict::Ask,
            "it holds drives and no record leads to them: put its instance.json back, or copy \
             data.img out and remove the directory",
        ),
        (Spare::Missing, false) => say(Verdict::Reclaim, "it holds no record and no drive"),
    }
}

fn record(known: &Known, of: Holder, problem: &str, spare: Spare, newer: bool) -> Option<Judged> {
    if newer {
        return say(Verdict::Ask, format!("{problem}: use that version"));
    }
    match (of, spare) {
        (Holder::Instance(id), _) if is_held(known, id) => {
            say(Verdict::Leave, "somebody is at it just now")
        }
        (_, Spare::Good) => say(Verdict::Restore, problem),
        (Holder::Instance(id), Spare::Missing) if known.living.contains(&id) => say(
            Verdict::Ask,
            format!(
                "{problem}; its VM lives and there is no version before it: put its record back, \
                 or end that VM and repair again"
            ),
        ),
        (Holder::Instance(_), Spare::Missing) => say(
            Verdict::Quarantine,
            format!("{problem}; there is no version before it, its drives are kept where they are"),
        ),
        (Holder::Many, Spare::Missing) => say(
            Verdict::Ask,
            format!("{problem}; restore the file from a backup: all below it depends on it"),
        ),
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { of, part: Part::Vm, process } => {
                write!(f, "VM of {of}, process {}", process.pid)
            }
            Self::Process { of, part: Part::Supervisor, process } => {
                write!(f, "supervisor of {of}, process {}", process.pid)
            }
            Self::Unit { name, .. } => write!(f, "unit {name}"),
            Self::Jail { path, .. } => write!(f, "jail {}", path.display()),
            Self::Tap { name, .. } => write!(f, "tap {name}"),
            Self::Bridge { name, .. } => write!(f, "bridge {name}"),
            Self::Snapshot { path, .. } => write!(f, "snapshot {}", path.display()),
            Self::Twin { path, .. } | Self::Record { path, .. } => {
                write!(f, "record {}", path.display())
            }
            Self::RunFiles { path, .. }
            | Self::LastLink { path, .. }
            | Self::Unrecorded { path, .. }
            | Self::Litter { path, .. } => write!(f, "{}", path.display()),
            Self::Resolver { pid } => write!(f, "resolver, process {pid}"),
        }
    }
}

#[cfg(test)]
mod tests;
