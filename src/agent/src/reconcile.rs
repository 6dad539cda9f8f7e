//! Making this host what is asked for: look, plan, execute, look again.
//!
//! ```text
//!  a file ─► apply (intent) ─┐
//!                            ▼
//!  records ─► desired ─► ┌ observe ─► plan::host ─► execute ┐ until the plan is empty, only what
//!                        └──────────────◄───────────────────┘ waits is left, or nothing moves
//! ```
//!
//! Called by the agent's loop, by `agent reconcile`, and for some tenants by `new` and
//! `scale --wait`. It keeps nothing between two calls: whoever is killed in it leaves records
//! and transitions the next call continues from.

mod passes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use mvm_api::agent::{FailedStep, NoteView, Report};
use mvm_host::progress::Progress;
use mvm_model::desired::DesiredState;
use mvm_model::intent::{Intent, Source};
use mvm_model::observed::Failure;
use mvm_model::record::InstanceRecord;
use mvm_model::state::State;
use mvm_model::{PoolPath, TenantName};
use mvm_plan::{Overrides, Removal, Step, Terms};
use serde::{Deserialize, Serialize};

use crate::build::SharedSink;
use crate::error::{Error, Kind, Result};
use crate::facilities::Real;
use crate::intent::{Applied, Document, Repeat};
use crate::service::{Service, now};

pub(crate) use passes::{Converging, note_view};

/// How long one call may take when nobody says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(600);

/// More passes than any plan needs: each creates, boots and parks at most.
const MOST_PASSES: u32 = 24;

/// The most steps at once: each may boot a guest, which takes a CPU.
const MOST_LANES: usize = 4;

/// How a reconcile goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Takes down what the document does not name.
    pub prune: bool,
    /// Deletes the data of what is pruned.
    pub delete_data: bool,
    /// Starts no step after so long, seconds.
    pub timeout_seconds: u64,
    /// A person asks: what was done by hand does not hold, an unchanged document is applied
    /// again, and only what it names is reconciled.
    pub person: bool,
}

impl Default for Options {
    fn default() -> Self {
        let timeout_seconds = TIMEOUT.as_secs();
        Self { prune: false, delete_data: false, timeout_seconds, person: false }
    }
}

/// What reports say about how they went.
pub trait Verdict {
    /// The failure a command ends with: what was refused, failed, ran out of time or cannot be.
    ///
    /// # Errors
    /// The first of them.
    fn verdict(&self) -> Result<()>;
}

impl Verdict for Report {
    fn verdict(&self) -> Result<()> {
        if let Some(first) = self.failed.first() {
            let others = others(self.failed.len());
            let text = format!("cannot {}: {}{others}", first.step, first.message);
            return Err(hinted(first.kind, &first.object, text, first.hint.as_ref()));
        }
        if let Some(first) = self.refused.first() {
            let text = format!("{}{}", first.problem, others(self.refused.len()));
            return Err(hinted(first.kind, &first.object, text, first.hint.as_ref()));
        }
        if self.converged {
            return Ok(());
        }
        let again = "run it again; what is done stays done".to_owned();
        match self.notes.first() {
            None => {
                Err(Error::new(Kind::Timeout, "", "there was no time for all of it").hint(again))
            }
            Some(note) => {
                let others = others(self.notes.len());
                let text = format!("not all of it can be so now: {}{others}", note.reason);
                let hint = note.hint.clone().unwrap_or(again);
                Err(Error::new(Kind::Unavailable, &note.object, text).hint(hint))
            }
        }
    }
}

fn others(count: usize) -> String {
    if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() }
}

fn hinted(kind: Kind, object: &str, text: String, hint: Option<&String>) -> Error {
    let error = Error::new(kind, object, text);
    match hint {
        Some(hint) => error.hint(hint.clone()),
        None => error,
    }
}

impl Service {
    /// Makes this host what its records ask for, a document applied to them first.
    ///
    /// # Errors
    /// When the document is refused as a whole or the host cannot be looked at. What could not
    /// be done is in the report.
    pub async fn reconcile(
        &self,
        document: Option<Document>,
        options: Options,
        progress: &SharedSink,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Report> {
        let started = Instant::now();
        let (mut desired, applied) = match document {
            None => (self.desired()?, None),
            Some(Document::State(state)) => self.take_in_state(state, options).await?,
            Some(Document::Intent(intent)) => self.take_in_intent(intent, options).await?,
        };
        if !options.person {
            desired.tenants.retain(|tenant| !self.is_held(&tenant.tenant_id));
        }
        let deadline = started + Duration::from_secs(options.timeout_seconds);
        let report = self.converge(desired, options, deadline, progress, cancel).await?;
        Ok(with_applied(report, applied, started))
    }

    /// Applies a person's document; what is to be reconciled then.
    async fn take_in_state(
        &self,
        mut document: DesiredState,
        options: Options,
    ) -> Result<(DesiredState, Option<Applied>)> {
        document.prune_unknown_tenants |= options.prune;
        document.prune_unknown_pools |= options.prune;
        let repeat = if options.person { Repeat::Always } else { Repeat::OnlyNew };
        let applied = self.apply_desired(&document, Source::File, repeat).await?;
        let mut desired = self.desired()?;
        expect_secrets(&mut desired, &document);
        if options.person {
            narrow(&mut desired, &document, &applied);
        }
        Ok((desired, Some(applied)))
    }

    /// Applies Nix's declaration; what is to be reconciled then. What it no longer names belongs to
    /// that: it is stopped.
    async fn take_in_intent(
        &self,
        intent: Intent,
        options: Options,
    ) -> Result<(DesiredState, Option<Applied>)> {
        let applied = self.apply_complete(intent.clone(), Source::Nix).await?;
        let mut desired = self.desired()?;
        if options.person {
            let nix = Source::Nix.owner();
            desired.tenants.retain(|tenant| {
                let named = intent.tenant(&tenant.tenant_id).is_some();
                (named || tenant.managed_by == nix)
                    && !applied.strangers.contains(&tenant.tenant_id)
            });
        }
        Ok((desired, Some(applied)))
    }

    /// Makes some tenants what their records ask for, at once: what was done by hand does not
    /// hold.
    ///
    /// # Errors
    /// When the host cannot be looked at.
    pub async fn reconcile_tenants(
        &self,
        tenants: &[TenantName],
        timeout: Duration,
        progress: &SharedSink,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Report> {
        let started = Instant::now();
        let mut desired = self.desired()?;
        desired.tenants.retain(|tenant| tenants.contains(&tenant.tenant_id));
        let options = Options { person: true, ..Options::default() };
        let report = self.converge(desired, options, started + timeout, progress, cancel).await?;
        Ok(with_applied(report, None, started))
    }

    async fn converge(
        &self,
        desired: DesiredState,
        options: Options,
        deadline: Instant,
        progress: &SharedSink,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Report> {
        let terms = Terms {
            removal: if options.delete_data { Removal::DeleteData } else { Removal::KeepData },
            overrides: if options.person { Overrides::Since(now()) } else { Overrides::Respect },
            ..Terms::default()
        };
        let mut holds = Vec::new();
        if options.person {
            let tenants = desired.tenants.iter();
            holds.extend(tenants.filter_map(|tenant| self.hold(&tenant.tenant_id)));
            self.clear_overrides(&desired).await;
        }
        let real = Real::new(self.clone(), progress.clone(), cancel.clone());
        let goes_on = || !cancel.load(Ordering::SeqCst) && Instant::now() < deadline;
        // The loop leaves the rest of a tenant's plan to whoever begins to reconcile it.
        let is_left = |tenant: &TenantName| !options.person && self.is_held(tenant);
        let tell = |step: &Step| {
            progress(Progress { what: step.to_string(), done: 0, total: None });
        };
        let converging = Converging {
            facilities: &real,
            desired: &desired,
            terms,
            lanes: lanes(),
            waits: options.person,
            goes_on: &goes_on,
            is_left: &is_left,
            tell: &tell,
        };
        let mut report = converging.run().await?;
        drop(holds);
        for problem in &*real.problems.lock().await {
            report.notes.push(NoteView {
                object: problem.path.display().to_string(),
                reason: format!("left alone: {}", problem.problem),
                hint: None,
                until: None,
            });
        }
        if cancel.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Interrupted, "", "interrupted")
                .hint("what is done stays done; run it again to go on"));
        }
        Ok(report)
    }

    /// What people did by hand, and what failed before, holds no longer for what a person asks to
    /// reconcile. An instance somebody is at right now keeps its marks: those are newer.
    async fn clear_overrides(&self, desired: &DesiredState) {
        for tenant in &desired.tenants {
            for pool in &tenant.pools {
                let (tenant, pool) = (tenant.tenant_id.clone(), pool.pool_id.clone());
                self.forgive_build(&PoolPath { tenant, pool });
            }
            let records = self.records.tenant_instances(&tenant.tenant_id).records;
            let is_held = |record: &InstanceRecord| {
                let failed = matches!(record.state, State::Failed { .. });
                record.manual.is_some() || record.failure.is_some() || failed
            };
            let held = records
                .into_iter()
                .filter(|record| is_held(record) && tenant.pool(&record.pool_id).is_some());
            for record in held {
                // A failure that is forgiven: nobody waits for it.
                let forgiven = Some(Failure { count: 0, at: 0 });
                let edit = |record: &mut InstanceRecord| {
                    (record.manual, record.failure) = (None, forgiven);
                };
                let cleared = self.edit_instance(&record.path(), Duration::ZERO, edit).await;
                if let Err(error) = cleared {
                    tracing::info!(instance = %record.path(), error = error.chain(), "stays as put by hand");
                }
            }
        }
    }
}

fn lanes() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MOST_LANES))
}

/// Which secrets a document expects: told where they are others, never changed.
fn expect_secrets(desired: &mut DesiredState, document: &DesiredState) {
    for tenant in &mut desired.tenants {
        let named = document.tenant(&tenant.tenant_id);
        tenant.secrets_hash = named.and_then(|named| named.secrets_hash.clone());
    }
}

/// Leaves only what a document names, with how far it prunes.
fn narrow(desired: &mut DesiredState, document: &DesiredState, applied: &Applied) {
    let strangers = &applied.strangers;
    desired.tenants.retain_mut(|tenant| {
        let Some(named) = document.tenant(&tenant.tenant_id) else { return false };
        tenant.pools.retain(|pool| named.pool(&pool.pool_id).is_some());
        !strangers.contains(&tenant.tenant_id)
    });
    desired.prune_unknown_tenants = document.prune_unknown_tenants;
    desired.prune_unknown_pools = document.prune_unknown_pools;
}

fn with_applied(report: Report, applied: Option<Applied>, started: Instant) -> Report {
    let applied = applied.unwrap_or_default();
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Report {
        generation: (applied.generation > 0).then_some(applied.generation),
        applied: applied.changes,
        refused: applied.refused,
        pending: applied.pending.into_iter().collect(),
        took_ms,
        ..report
    }
}
