//! The planner's decisions about one pool in words: `pool explain`.

use std::fmt;

use mvm_model::InstanceId;
use mvm_model::InstanceName;
use mvm_model::desired::PoolSpec;
use mvm_model::observed::ObservedInstance;
use mvm_model::record::Millis;
use mvm_model::state::Status;
use serde::{Deserialize, Serialize};

use crate::slots::{self, Act, Entry, Scene, Slot, Then};
use crate::step::Why;
use crate::terms::Terms;

/// What the planner thinks of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The instance.
    pub instance_id: InstanceId,
    /// Its name, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<InstanceName>,
    /// What it is.
    pub status: Status,
    /// What it is there for.
    pub slot: String,
    /// What happens to it next, or why it waits with that.
    pub next: String,
    /// What the idle policy says, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// When what waits for a time is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<Millis>,
}

/// Explains what a plan does with each of a pool's instances, by offset. Quotas are not looked
/// at: what they hold back is in the plan's notes.
pub fn explain(
    spec: &PoolSpec,
    tenant_pinned: bool,
    instances: &[ObservedInstance],
    terms: &Terms,
    now: Millis,
) -> Vec<Explained> {
    let scene = Scene::new(spec, tenant_pinned, terms, now);
    let mut filled = match spec.orphaned {
        true => slots::clear(instances, Why::Orphaned, &scene),
        false => slots::fill(spec, instances, &scene),
    };
    filled.entries.sort_by_key(|entry| entry.instance.offset);
    filled.entries.iter().map(one).collect()
}

fn one(entry: &Entry<'_>) -> Explained {
    let (next, due) = match &entry.act {
        None => ("stays as it is".to_owned(), None),
        Some(Ok(act)) => (act.to_string(), None),
        Some(Err(reason)) => (format!("waits: {reason}"), reason.until()),
    };
    Explained {
        instance_id: entry.instance.instance_id,
        name: entry.instance.name.clone(),
        status: entry.instance.status,
        slot: entry.slot.to_string(),
        next,
        idle: entry.idle.map(|verdict| verdict.to_string()),
        due,
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(wanted) => write!(f, "one of those the counts want {wanted}"),
            Self::Parked => f.write_str("counts as running, parked by the idle policy"),
            Self::Extra => f.write_str("beyond the counts, kept as a person put it"),
            Self::Surplus => f.write_str("more than the counts ask for"),
            Self::Named(wanted) => write!(f, "named, asked to be {wanted}"),
            Self::Untouched => f.write_str("named, the desired state does not speak about it"),
            Self::Removed => f.write_str("removed from its declaration"),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = |then: &Then| match then {
            Then::Run => "",
            Then::Warm => ", then is paused",
            Then::Sleep => ", then is put to sleep",
        };
        match self {
            Self::Settle => f.write_str("an interrupted transition is settled"),
            Self::Stop(why) => write!(f, "is stopped ({why})"),
            Self::Remove(why) => write!(f, "is stopped and removed ({why})"),
            Self::Destroy(why) => write!(f, "is removed ({why})"),
            Self::Sleep(why) => write!(f, "is put to sleep ({why})"),
            Self::Warm(why) => write!(f, "is paused ({why})"),
            Self::Wake(to) => write!(f, "is woken{}", then(to)),
            Self::Resume => f.write_str("is resumed"),
            Self::Start(to) => write!(f, "is started{}", then(to)),
        }
    }
}
