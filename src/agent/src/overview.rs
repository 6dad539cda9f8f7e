//! This host at a glance, for `mvm status`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mvm_host::facts::Facts;
use mvm_host::file;
use mvm_model::state::Status;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::node::Program;
use crate::prove::Verdict;
use crate::service::Service;

/// What `mvm status` shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Overview {
    /// This host's id.
    pub node_id: String,
    /// What it is.
    pub facts: Facts,
    /// Firecracker and QEMU.
    pub vmm_programs: Vec<Program>,
    /// What was proven since this boot.
    pub vmms: Vec<Verdict>,
    /// Whether an agent serves this host.
    pub agent: String,
    /// The dev microVM.
    pub dev: String,
    /// Tenants, mvm's own included.
    pub tenants: usize,
    /// Instances by status.
    pub instances: BTreeMap<Status, usize>,
    /// Bytes of the image cache.
    pub image_bytes: u64,
    /// Where everything is kept.
    pub state_dir: PathBuf,
}

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
        let vmm_programs = self.programs_of(&running_vmms).await;
        Ok(Overview {
            node_id: self.node_id()?,
            facts: Facts::read(),
            vmm_programs,
            vmms: self.known_verdicts(),
            agent: self.agent_word().await.found,
            dev,
            tenants: self.records.tenants().records.len(),
            instances,
            image_bytes: file::allocated_bytes(&self.dirs.cache),
            state_dir: self.dirs.state.clone(),
        })
    }
}
