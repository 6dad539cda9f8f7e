//! What is kept in step with the records: names in DNS, secrets images, directories of VMs.

use std::collections::BTreeMap;
use std::time::Duration;

use mvm_host::file;
use mvm_host::lock::Lock;
use mvm_host::net::dns;
use mvm_model::NetId;
use mvm_model::record::InstanceRecord;

use crate::error::{About, Error, Kind, Result};
use crate::network::link_exists;
use crate::service::Service;

/// How long an update of names waits for others.
const DNS_PATIENCE: Duration = Duration::from_secs(15);
/// The hidden subcommand that is the tenants' resolver.
pub const RESOLVER: &str = "__dns";

impl Service {
    /// Makes the resolver serve every tenant's names as the records have them, starting it with
    /// the first tenant.
    ///
    /// # Errors
    /// When it does not start or take them.
    pub async fn refresh_dns(&self) -> Result<()> {
        // Whoever comes later must not be overwritten by what we read earlier.
        let turn = self.dirs.run.join(".dns.lock");
        let _turn = Lock::take(&turn, &self.who, DNS_PATIENCE).await.about("", "update names")?;
        let zones: Vec<_> = self
            .records
            .tenants()
            .records
            .iter()
            .filter(|tenant| {
                !tenant.destroying && link_exists(&tenant.network.tenant_net_id.bridge())
            })
            .map(|tenant| dns::Zone {
                tenant: tenant.tenant_id.clone(),
                network: tenant.network,
                forwarding: (&tenant.egress).into(),
                names: self.names(tenant),
            })
            .collect();
        let launcher = dns::Launcher { program: self.exe.clone(), args: vec![RESOLVER.into()] };
        dns::ensure(&self.dirs.run, &launcher, &zones)
            .await
            .about("", "keep the tenants' resolver up to date")
    }

    /// Stops serving a tenant's names; the resolver ends with the last. Nobody can ask it any
    /// more once the bridge is gone, so a failure costs nothing but a message.
    pub async fn forget_zone(&self, net_id: NetId) {
        if let Err(error) = dns::remove(&self.dirs.run, net_id).await {
            tracing::warn!(%net_id, %error, "cannot take the tenant's names from the resolver");
        }
    }

    fn names(
        &self,
        tenant: &mvm_model::record::TenantRecord,
    ) -> BTreeMap<String, std::net::Ipv4Addr> {
        let mut names = BTreeMap::new();
        for record in self.records.tenant_instances(&tenant.tenant_id).records {
            let Ok(address) = record.address(tenant.network.ipv4_subnet) else { continue };
            names.insert(format!("{}.{}", record.instance_id, record.pool_id), address);
            if let Some(name) = &record.name {
                names.insert(format!("{name}.{}", record.pool_id), address);
            }
        }
        names
    }

    /// Removes what only a living VM needs: its secrets in clear and its run directory, but for
    /// its logs, which say what happened.
    ///
    /// # Errors
    /// When something stays.
    pub fn forget_vm(&self, record: &InstanceRecord) -> Result<()> {
        let log = self.dirs.supervisor_log(record.instance_id);
        let doing = "remove what its VM left";
        mvm_vmm::supervisor::keep_only_logs(&self.dirs.vm(record.instance_id))
            .map_err(|error| Error::new(Kind::Failed, record.path(), doing).because(error))?;
        file::remove_file(&log).about(record.path(), doing)?;
        self.forget_secrets(record)
    }

    /// Removes what a VM said, with the rest of it.
    ///
    /// # Errors
    /// When something stays.
    pub(crate) fn forget_logs(&self, record: &InstanceRecord) -> Result<()> {
        let dir = self.dirs.vm(record.instance_id);
        file::remove_dir(&dir).about(record.path(), "remove what its VM said")
    }
}
