//! Applying a declaration: what a file (or Nix) says should be, written into the records.
//!
//! ```text
//!  text ─► parse (strict, whole or nothing) ─► ledger (older: refused) ─► merge(intent, declared)
//!                                                   ┌─ changes: each made by itself, durably
//!                                                   └─ refusals: whose it is, how to adopt it
//!  then the ledger's entry, then reconcile
//! ```
//!
//! A refused object never blocks another. Nothing is started or stopped here.

mod making;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

pub use mvm_api::agent::{DocumentForm, Refused};
use mvm_host::lock::Lock;
use mvm_model::TenantName;
use mvm_model::desired::{self, DesiredState, Problems, Reader, TenantSpec, Unreadable};
use mvm_model::id::PoolPath;
use mvm_model::image::{FlakeRef, ImageSource};
use mvm_model::intent::{self, Declaration, Intent, Source};
use mvm_model::record::ManagedBy;
use mvm_plan::place;
use serde::{Deserialize, Serialize};

use crate::error::{About, Error, Kind, Result};
use crate::ledger::{Entry, Verdict};
use crate::service::Service;
use making::Making;

/// How long one document waits until another is applied.
const TURN: Duration = Duration::from_secs(10);

/// Whether a document that was applied already is applied again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// A person asks for it.
    Always,
    /// The loop found it in the file it watches: what people changed since stays. Only what
    /// could not be made when it was applied is tried again.
    OnlyNew,
}

/// What applying a document came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Applied {
    /// The document's number.
    pub generation: u64,
    /// Whether it was not known before.
    pub fresh: bool,
    /// What was changed.
    pub changes: Vec<String>,
    /// What stays as it is.
    pub refused: Vec<Refused>,
    /// Tenants of which nothing was applied, because they may be others of the same name.
    pub strangers: Vec<TenantName>,
    /// The objects that could not be made for now: the loop tries them again.
    pub pending: BTreeSet<String>,
}

impl From<&Error> for Refused {
    fn from(error: &Error) -> Self {
        let (object, problem) = (error.object.clone(), error.chain());
        Self { object, problem, hint: error.hint.clone(), kind: error.kind }
    }
}

/// A document that was read: what it asks for, and how far it speaks for what it does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One node's desired state: a person's, who owns what it names (`local`).
    State(DesiredState),
    /// A whole Intent, as `lib.fleet` makes it: Nix owns what it names (`nix`).
    Intent(Intent),
}

/// Reads a document from its file.
///
/// # Errors
/// [`Kind::NotFound`] without a file, [`Kind::Invalid`] for everything wrong with it.
pub fn read_file(path: &Path, form: DocumentForm) -> Result<Document> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::InvalidData => Kind::Invalid,
            _ => Kind::Failed,
        };
        let (what, hint) = match form {
            DocumentForm::DesiredState => {
                ("the desired state", "'mvm agent desired --file F' writes the present one")
            }
            DocumentForm::Intent => ("the intent", "'nix eval --json' of a lib.fleet writes one"),
        };
        Error::new(kind, &name, format!("cannot read {what}")).because(error).hint(hint)
    })?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    parse_document(&text, &path.display().to_string(), form)
}

/// Reads a document from its text; for `name` see [`parse`].
///
/// # Errors
/// [`Kind::Invalid`], with every problem.
pub fn parse_document(text: &str, name: &str, form: DocumentForm) -> Result<Document> {
    match form {
        DocumentForm::DesiredState => parse(text, name).map(Document::State),
        DocumentForm::Intent => parse_intent(text, name).map(Document::Intent),
    }
}

/// Reads a person's desired state from its text; `name` stands for it in errors. Where that is
/// an absolute path, flakes the document names by relative ones are found from its directory.
///
/// # Errors
/// [`Kind::Invalid`], with every problem.
pub fn parse(text: &str, name: &str) -> Result<DesiredState> {
    let document = desired::read(text, Reader::Strict).map_err(|error| unreadable(error, name))?;
    let mut state = document.whole().map_err(|problems| bad(&problems, name))?;
    settle_flakes(&mut state.tenants, name)?;
    Ok(state)
}

fn parse_intent(text: &str, name: &str) -> Result<Intent> {
    let document = intent::read(text, Reader::Strict).map_err(|error| unreadable(error, name))?;
    let mut intent = document.whole().map_err(|problems| bad(&problems, name))?;
    settle_flakes(&mut intent.tenants, name)?;
    Ok(intent)
}

fn unreadable(error: Unreadable, name: &str) -> Error {
    Error::new(Kind::Invalid, name, error.to_string()).hint(error.hint())
}

fn bad(problems: &Problems, name: &str) -> Error {
    let hint = problems.0.first().map(|first| first.hint.clone()).unwrap_or_default();
    let count = match problems.0.len() {
        1 => String::new(),
        several => format!("{several} problems, nothing was changed:\n"),
    };
    Error::new(Kind::Invalid, name, format!("{count}{problems}")).hint(hint)
}

fn settle_flakes(tenants: &mut [TenantSpec], name: &str) -> Result<()> {
    let base = Path::new(name).parent().filter(|base| base.is_absolute());
    for tenant in tenants {
        for pool in &mut tenant.pools {
            let path = format!("{}/{}", tenant.tenant_id, pool.pool_id);
            if let ImageSource::Flake { reference, .. } = &mut pool.image {
                *reference = settled(reference, base, &path)?;
            }
        }
    }
    Ok(())
}

/// A flake that means the same whatever the working directory.
fn settled(reference: &FlakeRef, base: Option<&Path>, pool: &str) -> Result<FlakeRef> {
    match base {
        _ if !reference.is_relative() => Ok(reference.clone()),
        Some(base) => reference
            .absolute(base)
            .map_err(|bad| Error::new(Kind::Invalid, pool, bad.to_string()).hint(bad.hint())),
        None => {
            let text = format!("its flake {reference} is relative to no file");
            Err(Error::new(Kind::Invalid, pool, text).hint("write an absolute path"))
        }
    }
}

impl Service {
    /// Applies a desired state as intent for the tenants and pools it names.
    ///
    /// # Errors
    /// [`Kind::Refused`] for another node's, [`Kind::Conflict`] for an older one or another one
    /// of the same number. What could not be changed in it is in the answer.
    pub async fn apply_desired(
        &self,
        state: &DesiredState,
        source: Source,
        repeat: Repeat,
    ) -> Result<Applied> {
        self.refuse_other_node(state)?;
        let _turn = self.take_turn().await?;
        let (ledger, writer) = (self.ledger()?, writer(source.owner()));
        let verdict = ledger.judge(writer, state).map_err(|stale| {
            Error::new(Kind::Conflict, "", format!("the desired state is refused: {stale}"))
                .hint(stale.hint())
        })?;
        let (entry, fresh) = match verdict {
            Verdict::Same(entry) => (entry, false),
            Verdict::New(entry) => (entry, true),
        };
        let generation = entry.generation;
        let only = (!fresh && repeat == Repeat::OnlyNew).then(|| entry.pending.clone());
        if only.as_ref().is_some_and(BTreeSet::is_empty) {
            return Ok(Applied { generation, ..Applied::default() });
        }
        let declared = Declaration::of_document(state.clone());
        let applied = self.apply(declared, source, only).await;
        if fresh || entry.pending != applied.pending {
            let pending = applied.pending.clone();
            self.enter(ledger, writer, Entry { pending, ..entry })?;
        }
        Ok(Applied { generation, fresh, ..applied })
    }

    /// Applies a complete declaration, as Nix makes it: what its owner declared before and no
    /// longer names is orphaned. It changes nothing people can change, so it needs no ledger.
    ///
    /// # Errors
    /// [`Kind::Refused`] when it is for other hosts, or another one is being applied. What could
    /// not be changed is in the answer.
    pub async fn apply_complete(&self, intent: Intent, source: Source) -> Result<Applied> {
        self.refuse_other_hosts(&intent)?;
        let _turn = self.take_turn().await?;
        Ok(self.apply(Declaration::complete(intent), source, None).await)
    }

    fn refuse_other_hosts(&self, intent: &Intent) -> Result<()> {
        let placed = place::one(intent, &self.node_id()?);
        placed.map(drop).map_err(|error| {
            Error::new(Kind::Refused, "hosts", error.to_string()).hint(error.hint())
        })
    }

    async fn take_turn(&self) -> Result<Lock> {
        let path = self.dirs.state.join(".apply.lock");
        Lock::take(&path, &self.who, TURN).await.about("", "apply a desired state")
    }

    fn refuse_other_node(&self, state: &DesiredState) -> Result<()> {
        let ours = self.node_id()?;
        match &state.node_id {
            Some(theirs) if *theirs != ours => {
                let text = format!("the desired state is for node {theirs}, this is {ours}");
                Err(Error::new(Kind::Refused, "node_id", text)
                    .hint("take node_id away from a file of your own"))
            }
            _ => Ok(()),
        }
    }

    async fn apply(
        &self,
        mut declared: Declaration,
        source: Source,
        only: Option<BTreeSet<String>>,
    ) -> Applied {
        for tenant in &mut declared.tenants {
            // Which secrets there are is never a file's to say.
            tenant.secrets_hash = None;
        }
        let merge = intent::merge(&self.intent(), &declared, source);
        let (applied, failed) = (Applied::default(), BTreeSet::new());
        let mut making = Making { service: self, applied, only, failed };
        making.refuse(&merge.refusals);
        for change in &merge.changes {
            making.change(change).await;
        }
        making.applied
    }
}

/// The name of a writer in the ledger.
fn writer(owner: ManagedBy) -> &'static str {
    match owner {
        ManagedBy::Local => "local",
        ManagedBy::Nix => "nix",
        ManagedBy::Coordinator => "coordinator",
    }
}

impl Service {
    /// Marks a tenant as removed from its declaration.
    pub(crate) async fn orphan_tenant(&self, name: &TenantName) -> Result<()> {
        let _lock = self.lock_state().await?;
        let mut record = self.living_tenant(name)?;
        record.orphaned = true;
        self.records.put_tenant(&record)
    }

    /// Marks a pool as removed from its declaration.
    pub(crate) async fn orphan_pool(&self, path: &PoolPath) -> Result<()> {
        let _lock = self.lock_state().await?;
        let mut record = self.pool(path)?;
        record.orphaned = true;
        self.records.put_pool(&record)
    }
}

#[cfg(test)]
mod tests;
