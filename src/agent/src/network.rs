//! The tenants' networks as a whole: verifying them, parking one while nothing runs.

use mvm_host::net::{Expected, Isolation, NetError, Port, Report, Spot, TenantNet};
use mvm_model::record::InstanceRecord;
use mvm_model::state::Status;
use mvm_model::{Offset, Subnet, TenantName};

use crate::error::{About, Classify, Kind, Result};
use crate::service::Service;
use crate::tenant::net_of;

/// More are left to the static checks: each is held against every other.
const PROBED_AT_ONCE: usize = 32;

impl Service {
    /// Holds bridges, taps, rules and forwarding against the records.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn verify_net(&self) -> Result<Report> {
        let expected = self.expected_net();
        self.net().await?.verify(&expected).await.about("", "verify the tenants' networks")
    }

    /// The same, and tries it: from a place in each tenant's network, what must work and what
    /// must not. Takes about a second.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or a probe's own tap cannot be made or removed.
    pub async fn verify_and_probe_net(&self) -> Result<Report> {
        let doing = "verify the tenants' networks";
        let (expected, net) = (self.expected_net(), self.net().await?);
        let mut report = net.verify(&expected).await.about("", doing)?;
        // A bridge that is not there is said already.
        let tenants = expected.tenants.iter();
        let tenants = tenants.filter(|tenant| link_exists(&tenant.network.tenant_net_id.bridge()));
        let spots: Vec<_> =
            tenants.filter_map(|tenant| self.spot(tenant)).take(PROBED_AT_ONCE).collect();
        report.findings.extend(net.probe(&spots).await.about("", doing)?);
        report.probed = spots.len();
        Ok(report)
    }

    fn expected_net(&self) -> Expected {
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
        expected
    }

    /// Where a tenant can be probed from: its last free place, because instances get the first.
    fn spot(&self, tenant: &TenantNet) -> Option<Spot> {
        let found = self.records.tenant_instances(&tenant.tenant);
        let subnet = tenant.network.ipv4_subnet;
        let is_free = |offset: &Offset| found.records.iter().all(|other| other.offset != *offset);
        let mut free = (Offset::FIRST.0..=subnet.max_offset().0).rev().map(Offset).filter(is_free);
        // What cannot be read may have any place.
        let offset = free.next().filter(|_| found.problems.is_empty())?;
        let running =
            |record: &InstanceRecord| self.observe(record).state.status() == Status::Running;
        Some(Spot {
            tenant: tenant.tenant.clone(),
            port: Port {
                net_id: tenant.network.tenant_net_id,
                subnet,
                offset,
                // Nobody else may attach while it is there: it is up before we hold it.
                owner_uid: Some(0),
                isolation: Isolation::Shared,
            },
            resolver: found.records.iter().any(running),
        })
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
        owner_uid: Some(record.uid),
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
