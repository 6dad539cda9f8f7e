//! running, warm, sleeping, failed → stopped; any → destroyed.

use std::time::Duration;

use mvm_host::snapshot::Snapshots;
use mvm_model::state::{State, Transition};

use super::Driver;
use crate::error::{About, Result};

impl Driver<'_> {
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.begin(Transition::Stopping).await?;
        self.turn_off().await?;
        self.finish(State::Stopped)
    }

    async fn turn_off(&mut self) -> Result<()> {
        let path = self.record.path();
        let machine = self.machine();
        if let State::Warm { .. } = self.record.state {
            // A paused guest cannot turn itself off.
            let _ = machine.resume().await;
        }
        if self.record.state.vm().is_some() && machine.power_off(self.grace()).await.is_err() {
            self.record.note =
                Some("the guest did not turn itself off in time; its VM was ended".into());
        }
        machine.kill().await?;
        self.phase("off");
        Snapshots::of(&self.service.instance_dir(&self.record))
            .remove_except(None)
            .about(&path, "delete its snapshot")?;
        self.service.forget_vm(&self.record)
    }

    /// How long its guest may take to turn itself off before its VM is ended: what its pool says.
    fn grace(&self) -> Duration {
        let pool = self.service.pool(&self.record.pool_path());
        let policy = pool.map(|pool| pool.runtime_policy).unwrap_or_default();
        Duration::from_secs(policy.graceful_shutdown_seconds)
    }

    pub(super) async fn destroy(&mut self) -> Result<()> {
        let path = self.record.path();
        self.begin(Transition::Destroying).await?;
        self.machine().kill().await?;
        self.service.forget_vm(&self.record)?;
        self.service.forget_logs(&self.record)?;
        self.remove_port().await?;
        let dir = self.service.instance_dir(&self.record);
        self.service.records.remove(&path, &dir)?;
        if let Err(error) = self.service.refresh_dns().await {
            // The instance is gone; a name that leads nowhere goes with the next change.
            tracing::warn!(instance = %path, error = error.chain(), "cannot take its name away");
        }
        Ok(())
    }

    async fn remove_port(&self) -> Result<()> {
        let net = self.service.net().await?;
        let subnet = self.service.tenant(&self.record.tenant_id)?.network.ipv4_subnet;
        net.remove_port(self.record.net_id, subnet, self.record.offset)
            .await
            .about(self.record.path(), "remove its network port")
    }
}
