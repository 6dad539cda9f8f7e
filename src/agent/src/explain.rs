//! Why a pool's instances are what they are: the planner's decisions in words.

use mvm_model::PoolPath;
use mvm_model::id::InstancePath;
use mvm_model::record::{DesiredCounts, Millis};
use mvm_plan::{About as Of, Explained, Terms};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::observed::Nets;
use crate::reconcile::{NoteView, note_view};
use crate::service::{Service, now};

/// What the planner thinks of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolExplanation {
    /// The pool.
    pub pool: String,
    /// What its counts ask for.
    pub desired: DesiredCounts,
    /// Its instances, by offset.
    pub instances: Vec<Explained>,
    /// What the next round of the loop does in the pool.
    pub next: Vec<String>,
    /// What waits, and why.
    pub notes: Vec<NoteView>,
    /// When the first of what waits for a time is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due: Option<Millis>,
}

impl Service {
    /// Explains what the loop would do with each instance of a pool now, and why.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn explain_pool(&self, path: &PoolPath) -> Result<PoolExplanation> {
        let (tenant, pool) = (self.tenant(&path.tenant)?, self.pool(path)?);
        let (terms, now) = (Terms::default(), now());
        let observed = self.look(&Nets::new(), now).observed;
        let mut desired = self.desired()?;
        desired.tenants.retain(|tenant| tenant.tenant_id == path.tenant);
        let seen = observed.tenants.iter().find(|seen| seen.spec.tenant_id == path.tenant);
        let seen = seen.and_then(|seen| seen.pools.iter().find(|seen| seen.spec.pool_id == path.pool));
        let gone = || Error::new(Kind::NotFound, path, format!("pool {path} was destroyed meanwhile"));
        let instances = &seen.ok_or_else(gone)?.instances;
        let plan = mvm_plan::host(&desired, &observed, &terms, now);
        let ours = |about: &Of| match about {
            Of::Pool(pool) | Of::Instance(InstancePath { pool, .. }) => pool == path,
            Of::Tenant(tenant) => *tenant == path.tenant,
            Of::Node => true,
        };
        let steps = plan.steps.iter().filter(|step| step.pool().is_none_or(|pool| pool == path));
        let notes: Vec<_> = plan.notes.iter().filter(|note| ours(&note.about)).collect();
        Ok(PoolExplanation {
            pool: path.to_string(),
            desired: pool.desired_counts,
            instances: mvm_plan::explain(&self.pool_spec(&pool), tenant.pinned, instances, &terms, now),
            next: steps.map(ToString::to_string).collect(),
            next_due: notes.iter().filter_map(|note| note.reason.until()).min(),
            notes: notes.into_iter().map(note_view).collect(),
        })
    }
}
