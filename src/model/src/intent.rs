//! Intent: what the whole fleet should be. The one truth that CLI, files, Nix and API edit.
//!
//! ```text
//!  cli ─┐
//!  file ┼─► Declaration ─► check ─► merge(current, declaration, writing)
//!  nix ─┘                              ├─ changes   apply(current, changes) ─► new Intent
//!                                      └─ refusals  who owns it, how to adopt it
//!  Intent ─► plan::place ─► DesiredState of each node
//! ```
//!
//! On a single host the tenant, pool and instance records *are* the Intent; [`merge`] tells what
//! to write into them. Each object is decided on by itself: a refused one never blocks another.
//! The rules of ownership and removal are in [`merge`](self::merge()).

mod merge;
mod owner;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::desired::{
    self, DesiredState, Fields, Problem, Problems, Reader, SCHEMA_VERSION, TenantSpec, Unreadable,
};
use crate::name::TenantName;
use crate::record::ManagedBy;

pub use merge::{Change, Merge, apply, merge};
pub use owner::{Object, Refusal, Why, adopt, permit};

/// Where intent comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A command.
    Cli,
    /// A file a person wrote.
    File,
    /// The host's NixOS configuration.
    Nix,
}

impl Source {
    /// What its objects are managed by.
    pub fn owner(self) -> ManagedBy {
        match self {
            Self::Cli | Self::File => ManagedBy::Local,
            Self::Nix => ManagedBy::Nix,
        }
    }
}

/// A host of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostSpec {
    /// Its name within the fleet, by the rule of tenant names.
    pub host_id: TenantName,
    /// The node it is, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Where it is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// For placement, people and tools.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What the whole fleet should be. Counts are totals over all hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Intent {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The hosts; none means the one it is applied on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostSpec>,
    /// The tenants with their pools and named instances.
    pub tenants: Vec<TenantSpec>,
}

impl Default for Intent {
    fn default() -> Self {
        Self { schema_version: SCHEMA_VERSION, hosts: Vec::new(), tenants: Vec::new() }
    }
}

impl Intent {
    /// A tenant of it.
    pub fn tenant(&self, name: &TenantName) -> Option<&TenantSpec> {
        self.tenants.iter().find(|tenant| tenant.tenant_id == *name)
    }

    pub(crate) fn tenant_mut(&mut self, name: &TenantName) -> Option<&mut TenantSpec> {
        self.tenants.iter_mut().find(|tenant| tenant.tenant_id == *name)
    }

    /// As JSON for people, with a final line end.
    pub fn to_json(&self) -> String {
        // Cannot fail: every field is a string, a number, a list or a map with string keys.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Everything wrong with it.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = desired::check_tenants(&self.tenants);
        for (i, host) in self.hosts.iter().enumerate() {
            if self.hosts[..i].iter().any(|other| other.host_id == host.host_id) {
                problems.push(Problem {
                    object: format!("host {}", host.host_id),
                    problem: "is there twice".into(),
                    hint: "keep one of the two".into(),
                });
            }
        }
        problems
    }
}

/// An Intent as it was read: the good objects, and what was wrong with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntentDocument {
    /// The good objects.
    pub intent: Intent,
    /// Everything wrong with the others.
    pub problems: Vec<Problem>,
}

impl IntentDocument {
    /// All of it or nothing.
    ///
    /// # Errors
    /// Every problem, those of [`Intent::check`] included.
    pub fn whole(self) -> Result<Intent, Problems> {
        let mut problems = self.problems;
        problems.extend(self.intent.check());
        if problems.is_empty() { Ok(self.intent) } else { Err(Problems(problems)) }
    }
}

/// Reads an Intent: what Nix's `lib.fleet` emits.
///
/// # Errors
/// [`Unreadable`] when it says nothing usable.
pub fn read(text: &str, reader: Reader) -> Result<IntentDocument, Unreadable> {
    let mut problems = Vec::new();
    let mut fields = Fields::of(desired::parse(text)?, String::new(), reader, &mut problems);
    desired::version(&mut fields, reader)?;
    let hosts = fields.list("hosts", host).unwrap_or_default();
    let tenants = desired::tenants(&mut fields)?;
    fields.finish();
    Ok(IntentDocument { intent: Intent { hosts, tenants, ..Intent::default() }, problems })
}

fn host(fields: &mut Fields<'_>) -> Option<HostSpec> {
    fields.named("host_id");
    let host_id = fields.required("host_id");
    let (node_id, address) = (fields.optional("node_id"), fields.optional("address"));
    let labels = fields.or("labels", BTreeMap::new());
    Some(HostSpec { host_id: host_id?, node_id, address, labels })
}

/// What a source says should be, and how far it speaks for what it does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// What it names.
    pub tenants: Vec<TenantSpec>,
    /// What becomes of tenants it does not name.
    pub other_tenants: Unnamed,
    /// What becomes of pools its tenants do not name.
    pub other_pools: Unnamed,
    /// What becomes of named instances its pools do not name, where it has a list of them.
    pub other_instances: Unnamed,
}

/// What becomes of the declarer's own objects that a declaration does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unnamed {
    /// They stay as they are.
    Keep,
    /// They are orphaned: stopped, with their data kept.
    Orphan,
}

impl Declaration {
    /// A document of a person or a push: speaks for others only where it prunes.
    pub fn of_document(state: DesiredState) -> Self {
        let prune = |prune| if prune { Unnamed::Orphan } else { Unnamed::Keep };
        Self {
            other_tenants: prune(state.prune_unknown_tenants && !state.tenants.is_empty()),
            other_pools: prune(state.prune_unknown_pools),
            other_instances: Unnamed::Keep,
            tenants: state.tenants,
        }
    }

    /// A complete declaration, as Nix makes it: whatever its owner once declared and it no
    /// longer names is orphaned. An empty one still orphans nothing.
    pub fn complete(intent: Intent) -> Self {
        let others = if intent.tenants.is_empty() { Unnamed::Keep } else { Unnamed::Orphan };
        Self {
            tenants: intent.tenants,
            other_tenants: others,
            other_pools: others,
            other_instances: others,
        }
    }
}

#[cfg(test)]
mod tests;
