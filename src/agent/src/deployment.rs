//! Whole deployments: `mvm new` and `mvm connect`.
//!
//! ```text
//! new ─ template, changes ─► may it be? ─► tenant ─► pools ─► images ─► counts ─► reconcile ─► ready?
//!                             └ refused here: nothing was changed
//! ```
//!
//! Each step makes only what is not there, so a `new` that broke off is completed by the next
//! one of the same words. Nothing is taken back on a failure: what is there is true, visible and
//! the next attempt's beginning.

mod dashboard;
mod ready;

use std::time::{Duration, Instant};

use mvm_api::deployment::{Deployed, New};
use mvm_model::image::{ImageSource, Origin};
use mvm_model::record::{PoolRecord, TenantRecord};
use mvm_model::{PoolPath, TenantName};

use crate::error::{Error, Kind, Result};
use crate::handle::Control;
use crate::pool::{NewPool, Scale};
use crate::reconcile::Verdict;
use crate::service::Service;
use crate::template::{self, Template, TemplatePool};
use crate::tenant::NewTenant;

/// How long everything may take to run, images built.
const RUNNING: Duration = Duration::from_secs(600);

impl Service {
    /// Makes a deployment from a template, or completes one.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when the tenant is another one, [`Kind::ImageBuilderUnavailable`]; both
    /// before anything is changed. Else what the step that failed said.
    pub async fn deploy(&self, new: New, control: &Control) -> Result<Deployed> {
        let started = Instant::now();
        let template = template::read(&new.template, new.config.as_deref())?;
        self.may_deploy(&new, &template, control).await?;
        self.deploy_tenant(&new, &template).await?;
        let _hold = self.hold(&new.name);
        for pool in &template.pools {
            self.deploy_pool(&new, pool).await?;
        }
        let mut notes = self.deploy_images(&new, &template, control).await?;
        for pool in &template.pools {
            let counts = pool.desired_counts;
            let wanted = Scale {
                running: Some(counts.running),
                warm: Some(counts.warm),
                sleeping: Some(counts.sleeping),
            };
            self.scale_pool(&path(&new, pool), wanted).await?;
        }
        let tenants = std::slice::from_ref(&new.name);
        let Control { progress, cancel } = control;
        let report = self.reconcile_tenants(tenants, RUNNING, progress, cancel).await?;
        report.verdict().map_err(|error| error.of(&new.name))?;
        notes.extend(report.notes.iter().map(|note| format!("{}: {}", note.object, note.reason)));
        notes.extend(self.await_gateways(&new.name, control).await?);
        let took_ms = started.elapsed().as_millis() as u64;
        let dashboard = self.dashboard(&new.name).await?;
        Ok(Deployed { about: template.about, dashboard, notes, took_ms })
    }

    /// Whether it may be made: refuses before anything is changed.
    async fn may_deploy(&self, new: &New, template: &Template, control: &Control) -> Result<()> {
        for pool in &template.pools {
            let (image, builder) = (image(new, pool)?, new.builder);
            let Control { progress, cancel } = control.clone();
            self.check_builder(&new.name, &image, &pool.role, builder, progress, cancel).await?;
        }
        let Some(tenant) = self.records.tenant(&new.name)? else { return Ok(()) };
        same_network(new, &tenant)?;
        let pools = self.records.pools(&new.name).records;
        let ours =
            |record: &PoolRecord| template.pools.iter().find(|pool| pool.pool_id == record.pool_id);
        if !pools.is_empty() && !pools.iter().any(|record| ours(record).is_some()) {
            return Err(not_a(new, "it has other pools"));
        }
        for record in &pools {
            if let Some(pool) = ours(record)
                && (record.role != pool.role || record.image != image(new, pool)?)
            {
                return Err(not_a(new, &format!("its pool {} is another one", pool.pool_id)));
            }
        }
        Ok(())
    }

    async fn deploy_tenant(&self, new: &New, template: &Template) -> Result<()> {
        if self.records.tenant(&new.name)?.is_some() {
            return Ok(());
        }
        let tenant = NewTenant {
            net_id: new.net_id,
            subnet: new.subnet,
            quotas: template.quotas,
            egress: template.egress.clone(),
            ..NewTenant::named(new.name.clone())
        };
        self.create_tenant(tenant).await.map(drop)
    }

    async fn deploy_pool(&self, new: &New, pool: &TemplatePool) -> Result<()> {
        let path = path(new, pool);
        if self.records.pool(&path)?.is_some() {
            return Ok(());
        }
        let made = NewPool {
            path,
            image: image(new, pool)?,
            role: pool.role.clone(),
            resources: pool.instance_resources,
        };
        let origin = Origin { typed: new.typed.clone(), builder: new.builder };
        self.create_pool_from(made, origin).await.map(drop)
    }

    async fn deploy_images(
        &self,
        new: &New,
        template: &Template,
        control: &Control,
    ) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        for path in template.pools.iter().map(|pool| path(new, pool)) {
            if self.pool(&path)?.current.is_some() {
                continue;
            }
            let Control { progress, cancel } = control.clone();
            let built = self.build_pool_with(&path, None, progress, cancel).await;
            let built = built.map_err(|error| match error.kind {
                Kind::Interrupted | Kind::DiskFull => error,
                _ => error.hint(
                    "make sure that this host is prepared: run 'mvm add host' first, then the \
                     same 'mvm new' again; it goes on where it broke off",
                ),
            })?;
            notes.extend(built.note);
        }
        notes.dedup();
        Ok(notes)
    }
}

fn path(new: &New, pool: &TemplatePool) -> PoolPath {
    PoolPath { tenant: new.name.clone(), pool: pool.pool_id.clone() }
}

fn image(new: &New, pool: &TemplatePool) -> Result<ImageSource> {
    Ok(match &new.flake {
        None => ImageSource::embedded(pool.profile),
        Some(flake) => ImageSource::flake(flake.clone(), pool.profile_name()?),
    })
}

/// A tenant's network is its for life: asking for another one is a mistake.
fn same_network(new: &New, tenant: &TenantRecord) -> Result<()> {
    let present = tenant.network;
    let same = new.net_id.is_none_or(|id| id == present.tenant_net_id)
        && new.subnet.is_none_or(|subnet| subnet == present.ipv4_subnet);
    if same {
        return Ok(());
    }
    let text = format!(
        "tenant {} exists with net id {} and subnet {}, its for life",
        new.name, present.tenant_net_id, present.ipv4_subnet
    );
    Err(Error::new(Kind::Conflict, &new.name, text)
        .hint("leave out --net-id and --subnet, or use another name"))
}

fn not_a(new: &New, why: &str) -> Error {
    let name: &TenantName = &new.name;
    let text = format!("tenant {name} exists and is no {} deployment: {why}", new.template);
    Error::new(Kind::Conflict, name, text)
        .hint(format!("use another name, or look at it: mvm connect {name}"))
}
