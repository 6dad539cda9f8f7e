//! The tenants' networks as a whole: verifying them, parking one while nothing runs.

use mvm_host::net::{Expected, Isolation, NetError, Port, Report};
use mvm_model::record::InstanceRecord;
use mvm_model::state::Status;
use mvm_model::{Subnet, TenantName};

use crate::error::{About, Classify, Kind, Result};
use crate::service::Service;
use crate::tenant::net_of;

impl Service {
    /// Holds bridges, taps, rules and forwarding against the records.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn verify_net(&self) -> Result<Report> {
        let mut expected = Expected::default();
        for tenant in self.records.tenants().records {
            let instances = self.records.tenant_instances(&tenant.tenant_id).records;
            let attached: Vec<_> =
                instances.iter().filter(|record| self.is_attached(record)).collect();
            // The dev tenant's network is taken away while nothing runs in it.
            if tenant.builtin && attached.is_empty() {
                continue;
            }
            expected.ports.extend(
                attached.into_iter().map(|record| port_of(record, tenant.network.ipv4_subnet)),
            );
            expected.tenants.push(net_of(&tenant));
        }
        self.net().await?.verify(&expected).await.about("", "verify the tenants' networks")
    }

    /// Takes a tenant's bridge, taps and rules away while none of its instances has a VM; its
    /// net id and subnet stay its own.
    ///
    /// # Errors
    /// When an instance still has one, or something stays.
    pub async fn park_network(&self, name: &TenantName) -> Result<()> {
        let tenant = self.tenant(name)?;
        // A start writes its transition under this lock before it makes the network.
        let _lock = self.lock_state().await?;
        let in_use = |record: &_| {
            let observed = self.observe(record);
            observed.state.vm().is_some() || observed.transition.is_some()
        };
        if self.records.tenant_instances(name).records.iter().any(in_use) {
            return Ok(());
        }
        self.forget_zone(tenant.network.tenant_net_id).await;
        self.net().await?.remove_tenant(&tenant.network).await.about(name, "take its network away")
    }

    /// Whether an instance should have its tap: it has a VM, or had one since its tenant's
    /// network was made.
    fn is_attached(&self, record: &InstanceRecord) -> bool {
        link_exists(&record.tap()) || self.observe(record).state.vm().is_some()
    }

    /// Whether an instance exists and runs.
    pub fn is_running(&self, path: &mvm_model::InstancePath) -> bool {
        let status = self.instance(path).map(|record| self.observe(&record));
        status.is_ok_and(|observed| {
            observed.state.status() == Status::Running && observed.transition.is_none()
        })
    }
}

/// Whether an interface exists in our network namespace (`/sys` may show another one's).
pub(crate) fn link_exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

/// The port an instance's tap is.
pub(crate) fn port_of(record: &InstanceRecord, subnet: Subnet) -> Port {
    Port {
        net_id: record.net_id,
        subnet,
        offset: record.offset,
        owner_uid: None,
        isolation: Isolation::Shared,
    }
}

impl Classify for NetError {
    fn classify(&self) -> (Kind, Option<String>) {
        let kind = match self {
            Self::Taken { .. } => Kind::Conflict,
            Self::Busy(_) => Kind::Busy,
            Self::NftMissing { .. } | Self::Open(_) => Kind::Unavailable,
            Self::Bad(_) => Kind::Invalid,
            _ => Kind::Failed,
        };
        (kind, self.hint().map(Into::into))
    }
}
