//! This host at a glance, for `mvm status`.

use std::collections::BTreeMap;

use mvm_model::state::Status;

pub use mvm_api::node::Overview;

use crate::error::Result;
use crate::node::machine;
use crate::service::Service;

impl Service {
    /// This host at a glance.
    ///
    /// # Errors
    /// When the node id cannot be kept.
    pub async fn overview(&self) -> Result<Overview> {
        let mut instances = BTreeMap::new();
        let mut dev = "not created; 'mvm dev' makes it".to_owned();
        let mut running_vmms = Vec::new();
        for record in self.records.all_instances().records {
            let observed = self.observe(&record).state;
            running_vmms.extend(observed.vm().map(|vm| vm.vmm.kind));
            *instances.entry(observed.status()).or_default() += 1;
            if record.path().to_string().starts_with("dev/vm/") {
                dev = if observed.status() == Status::Running {
                    "running".into()
                } else {
                    format!("not running ({})", observed.status())
                };
            }
        }
        let tenants = self.records.tenants().records;
        let vmm_programs = self.programs_of(&running_vmms).await;
        Ok(Overview {
            node_id: self.node_id()?,
            machine: machine(),
            vmm_programs,
            vmms: self.proofs_made(),
            agent: self.agent_word().await.found,
            dev,
            tenants: tenants.iter().filter(|tenant| !tenant.builtin).count(),
            instances,
            image_bytes: self.image_bytes(&tenants),
            state_dir: self.dirs.state.clone(),
        })
    }
}
