//! The host as the planner sees it: records held against processes, locks and the network.
//!
//! One scan of the records, one look at each VM's process, one netlink dump and one listing of
//! the rules for all tenants together: nothing is started per instance, so looking at hundreds
//! takes tens of milliseconds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mvm_host::facts::Facts;
use mvm_host::file;
use mvm_host::net::{Expected, Report, Severity};
use mvm_model::PoolPath;
use mvm_model::TenantName;
use mvm_model::desired::TenantSpec;
use mvm_model::image::ImageSource;
use mvm_model::observed::{
    ImageState, Life, Motion, NetState, Observed, ObservedInstance, ObservedPool, ObservedTenant,
    Parked,
};
use mvm_model::record::{Egress, InstanceRecord, Millis, PoolRecord, TenantRecord};
use mvm_model::state::Status;
use serde::{Deserialize, Serialize};

use crate::activity::Activity;
use crate::error::{About, Error, Result};
use crate::network::{link_exists, port_of};
use crate::records::Problem;
use crate::service::Service;
use crate::tenant::net_of;

/// Memory the host keeps for itself at least, MiB.
const HOST_MIB: u64 = 512;
/// And as a part of what it has.
const HOST_PART: u64 = 16;

/// Memory of a host that guests may be given, MiB.
fn guest_mem_mib(total: u64) -> u64 {
    total.saturating_sub(HOST_MIB.max(total / HOST_PART))
}

/// The networks as they were last looked at; what somebody breaks is found by the next round.
pub(crate) type Nets = BTreeMap<TenantName, NetState>;

/// The host, and what of it could not be read.
pub(crate) struct Sight {
    pub(crate) observed: Observed,
    pub(crate) problems: Vec<Problem>,
}

impl Sight {
    /// Adds how the networks are.
    pub(crate) fn with(mut self, nets: &Nets) -> Self {
        for tenant in &mut self.observed.tenants {
            tenant.net = nets.get(&tenant.spec.tenant_id).copied().unwrap_or_default();
        }
        self
    }
}

impl Service {
    /// Looks at the host; every network counts as it should be.
    pub(crate) fn look(&self, now: Millis) -> Sight {
        let found = self.records.tenants();
        let mut looking =
            Looking { service: self, activity: self.activity(), now, problems: found.problems };
        let tenants = found.records.iter().map(|record| looking.tenant(record)).collect();
        let Looking { activity, problems, .. } = looking;
        self.keep_activity(activity);
        let guest_mem_mib = Some(guest_mem_mib(Facts::read().mem_mib));
        Sight { observed: Observed { guest_mem_mib, tenants }, problems }
    }

    /// Whether each tenant's bridge, taps and rules are as they should be.
    ///
    /// # Errors
    /// When the kernel or `nft` cannot be asked.
    pub(crate) async fn look_at_nets(&self) -> Result<Nets> {
        let tenants: Vec<_> = self.records.tenants().records;
        let (mut expected, mut owners) = (Expected::default(), BTreeMap::new());
        for tenant in tenants.iter().filter(|tenant| !tenant.builtin && !tenant.destroying) {
            owners.insert(tenant.network.tenant_net_id.bridge(), &tenant.tenant_id);
            for record in self.records.tenant_instances(&tenant.tenant_id).records {
                if record.state.vm().is_some() || link_exists(&record.tap()) {
                    owners.insert(record.tap(), &tenant.tenant_id);
                    expected.ports.push(port_of(&record, tenant.network.ipv4_subnet));
                }
            }
            expected.tenants.push(net_of(tenant));
        }
        let report = self.net().await?.verify_ours(&expected).await;
        let report = report.about("", "look at the tenants' networks")?;
        let leaving = expected.tenants.iter().find(|tenant| tenant.egress != Egress::None);
        let leaving = leaving.map(|tenant| &tenant.tenant);
        Ok(net_states(&report, &owners, leaving))
    }

    fn build_note(&self, pool: &PoolPath) -> PathBuf {
        self.dirs.run.join("builds").join(format!("{}.{}.json", pool.tenant, pool.pool))
    }

    /// Remembers that a pool's image could not be built, so that it is not tried all the time.
    pub(crate) fn note_build(&self, pool: &PoolRecord, error: &Error, at: Millis) {
        let path = self.build_note(&pool.path());
        let note = BuildNote { at, reason: error.chain(), image: pool.image.clone() };
        let json = serde_json::to_vec(&note).unwrap_or_default();
        let written = path.parent().map_or(Ok(()), file::create_dir);
        if let Err(error) = written.and_then(|()| file::write_durably(&path, &json)) {
            tracing::warn!(pool = %pool.path(), %error, "a failed build is not noted");
        }
    }

    /// A pool's image may be built again at once.
    pub(crate) fn forgive_build(&self, pool: &PoolPath) {
        let _ = file::remove_file(&self.build_note(pool));
    }

    fn image_state(&self, pool: &PoolRecord) -> ImageState {
        let asked = match &pool.image {
            ImageSource::Revision { digest } => Some(digest),
            _ => None,
        };
        match &pool.current {
            Some(current) if asked.is_none_or(|asked| asked == current) => {
                ImageState::Ready(current.clone())
            }
            _ => self.failed_build(pool).unwrap_or_default(),
        }
    }

    fn failed_build(&self, pool: &PoolRecord) -> Option<ImageState> {
        let bytes = std::fs::read(self.build_note(&pool.path())).ok()?;
        let note: BuildNote = serde_json::from_slice(&bytes).ok()?;
        (note.image == pool.image)
            .then_some(ImageState::Failed { at: note.at, reason: note.reason })
    }
}

/// A build that failed.
#[derive(Debug, Serialize, Deserialize)]
struct BuildNote {
    at: Millis,
    reason: String,
    /// Of which source: another one is tried at once.
    image: ImageSource,
}

/// Whose networks a report finds broken in a way that making them again repairs. What is about
/// the way out of the host is repaired with any tenant that leaves it.
fn net_states(
    report: &Report,
    owners: &BTreeMap<String, &TenantName>,
    leaving: Option<&TenantName>,
) -> Nets {
    let repairable = |finding: &&mvm_host::net::Finding| {
        finding.severity == Severity::Error && finding.is_repairable()
    };
    let broken = report.findings.iter().filter(repairable);
    let whose = broken.filter_map(|finding| owners.get(&finding.object).copied().or(leaving));
    whose.map(|tenant| (tenant.clone(), NetState::Broken)).collect()
}

/// One look at the host.
struct Looking<'a> {
    service: &'a Service,
    activity: Activity,
    now: Millis,
    problems: Vec<Problem>,
}

impl Looking<'_> {
    fn tenant(&mut self, record: &TenantRecord) -> ObservedTenant {
        let life = match (record.builtin, record.destroying) {
            (true, _) => Life::Builtin,
            (_, true) => Life::Destroying,
            _ => Life::Living,
        };
        let found = self.service.records.pools(&record.tenant_id);
        self.problems.extend(found.problems);
        let pools = found.records.iter().map(|pool| self.pool(pool)).collect();
        let secrets_hash = self.service.secrets_hash(&record.tenant_id);
        let spec = TenantSpec { secrets_hash, ..record.spec() };
        ObservedTenant { life, pools, ..ObservedTenant::new(spec) }
    }

    fn pool(&mut self, record: &PoolRecord) -> ObservedPool {
        let found = self.service.records.instances(&record.path());
        self.problems.extend(found.problems);
        let parks = record.idle.is_active();
        let instances = found.records.iter().map(|one| self.instance(one, parks)).collect();
        let image = self.service.image_state(record);
        ObservedPool { image, instances, ..ObservedPool::new(record.spec()) }
    }

    fn instance(&mut self, record: &InstanceRecord, parks: bool) -> ObservedInstance {
        let status = self.service.state_now(record).status();
        let mut seen = ObservedInstance { status, ..ObservedInstance::of_record(record) };
        if let Motion::Interrupted(transition) = &seen.motion
            && self.service.is_busy(record)
        {
            seen.motion = Motion::Moving(transition.clone());
        }
        if parks && status == Status::Running {
            seen.idle_since = self.activity.sample(self.service, record, self.now);
        }
        if !matches!(status, Status::Warm | Status::Sleeping) {
            seen.parked = Parked::No;
        }
        // It is no longer as a person put it.
        if status != record.state.status() {
            seen.manual = None;
        }
        seen
    }
}

#[cfg(test)]
mod tests;
