//! Why a pool's instances are what they are: the planner's decisions in words.

use mvm_api::update::{ExplainedInstance, PoolExplanation};
use mvm_model::PoolPath;
use mvm_model::id::InstancePath;
use mvm_plan::{About as Of, Explained, Terms};

use crate::error::{Error, Kind, Result};
use crate::reconcile::note_view;
use crate::service::{Service, now};

impl Service {
    /// Explains what the loop would do with each instance of a pool now, and why.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn explain_pool(&self, path: &PoolPath) -> Result<PoolExplanation> {
        let (tenant, pool) = (self.tenant(&path.tenant)?, self.pool(path)?);
        let (terms, now) = (Terms::default(), now());
        let observed = self.look(now).observed;
        let mut desired = self.desired()?;
        desired.tenants.retain(|tenant| tenant.tenant_id == path.tenant);
        let seen = observed.tenants.iter().find(|seen| seen.spec.tenant_id == path.tenant);
        let seen =
            seen.and_then(|seen| seen.pools.iter().find(|seen| seen.spec.pool_id == path.pool));
        let gone =
            || Error::new(Kind::NotFound, path, format!("pool {path} was destroyed meanwhile"));
        let instances = &seen.ok_or_else(gone)?.instances;
        let spec = self.pool_spec(&pool);
        let explained = mvm_plan::explain(&spec, tenant.pinned, instances, &terms, now);
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
            instances: explained.into_iter().map(view).collect(),
            next: steps.map(ToString::to_string).collect(),
            next_due: notes.iter().filter_map(|note| note.reason.until()).min(),
            notes: notes.into_iter().map(note_view).collect(),
        })
    }
}

fn view(explained: Explained) -> ExplainedInstance {
    let Explained { instance_id, name, status, slot, next, idle, due } = explained;
    ExplainedInstance { instance_id, name, status, slot, next, idle, due }
}
