//! An instance's secrets: ready before its VM needs them, and brought to a guest that runs.
//!
//! A guest that runs is asked to unmount them; only then the image its VM has open is written,
//! and the guest mounts it again and says what it mounted. If a process in the guest holds the
//! old ones nothing is written: it has the old or the new, never parts of both. Cut short between
//! the steps the guest has none, and the next delivery begins again.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mvm_api::secret::Delivery;
use mvm_host::drive::SmallId;
use mvm_host::secrets::ImageId;
use mvm_model::InstancePath;
use mvm_model::state::State;

use super::Driver;
use crate::error::{About, Error, Kind, Result};
use crate::secret::Image;
use crate::service::Service;

impl Service {
    /// Gives an instance its tenant's secrets as they are now, or makes them ready for when it
    /// can take them.
    ///
    /// # Errors
    /// When somebody else is at it for longer than `patience`, its guest keeps the old ones, or a
    /// step fails.
    pub(crate) async fn deliver_secrets_to(
        &self,
        path: &InstancePath,
        patience: Duration,
    ) -> Result<Delivery> {
        let never = AtomicBool::new(false);
        let mut driver = Driver::open(self, path, &never, patience).await?;
        driver.settle().await?;
        match driver.record.state {
            State::Running { .. } => driver.push_secrets().await.map(|()| Delivery::Now),
            State::Warm { .. } => Ok(Delivery::AtResume),
            State::Sleeping { .. } => {
                driver.park()?;
                driver.stand_by().await;
                Ok(Delivery::AtWake)
            }
            State::Created | State::Stopped | State::Failed { .. } => {
                self.forget_secrets(&driver.record)?;
                Ok(Delivery::AtStart)
            }
        }
    }
}

impl Driver<'_> {
    /// What its image should hold, by the revision it runs.
    fn wanted_secrets(&self) -> Result<Image> {
        let record = &self.record;
        let revision = record.revision.as_ref();
        let revision = revision
            .map(|digest| self.service.verified_revision(&record.pool_path(), digest))
            .transpose()?;
        let workload = revision.and_then(|revision| revision.manifest.workload);
        self.service.wanted_secrets(record, workload.as_ref())
    }

    /// Brings a guest that was just booted, woken or resumed what changed meanwhile. What cannot
    /// be done is for the instance's note.
    pub(super) async fn catch_up_secrets(&self) -> Option<String> {
        let delivered = self.service.delivered(&self.record);
        let has_none = !self.service.vault(&self.record.tenant_id).exists();
        if has_none && delivered == Some(ImageId::EMPTY) {
            return None;
        }
        let caught_up = async {
            let wanted = self.wanted_secrets()?;
            match delivered == Some(wanted.id) {
                true => Ok(()),
                false => self.replace_secrets(&wanted).await,
            }
        };
        let error = caught_up.await.err()?;
        Some(format!("its secrets are not the newest: {}", error.chain()))
    }

    /// Gives a guest that runs its secrets, unless it has them.
    async fn push_secrets(&self) -> Result<()> {
        let wanted = self.wanted_secrets()?;
        let is_ready = self.service.delivered(&self.record) == Some(wanted.id);
        if is_ready && self.machine().secrets_epoch().await? == wanted.id.epoch {
            return Ok(());
        }
        self.replace_secrets(&wanted).await
    }

    async fn replace_secrets(&self, wanted: &Image) -> Result<()> {
        let machine = self.machine();
        machine.release_secrets().await?;
        let written = self.service.overwrite_secrets(&self.record, wanted);
        // Also after a failure: what is still whole is better than nothing.
        let mounted = machine.mount_secrets(wanted.id.epoch).await;
        written?;
        let mounted = mounted?;
        if mounted.as_deref() == Some(SmallId::from(wanted.id).to_string().as_str()) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Failed,
            self.record.path(),
            "its guest does not see what was written to its secrets drive",
        )
        .hint(format!("stop and start it: mvm instance stop {}", self.record.path())))
    }

    /// Makes ready what its wake needs and can change only with its tenant: the small drives.
    pub(super) fn park(&self) -> Result<()> {
        let path = self.record.path();
        let tenant = self.service.living_tenant(&self.record.tenant_id)?;
        let digest = self
            .record
            .revision
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Corrupt, &path, "it sleeps and names no image"))?;
        let revision = self.service.verified_revision(&self.record.pool_path(), digest)?;
        self.prepare_small_drives(&tenant, revision.manifest.workload.as_ref()).map(drop)
    }

    /// Removes its secrets in clear now that it has no VM. Those that stay are removed by the next
    /// stop, or when an agent starts.
    pub(super) fn forget_secrets(&self) {
        if let Err(error) = self.service.forget_secrets(&self.record) {
            tracing::warn!(instance = %self.record.path(), error = error.chain(), "its secrets stay in memory");
        }
    }

    /// Parks after a sleep. A failure costs time at the wake, which tries again and says why.
    pub(super) fn park_if_possible(&self) {
        if let Err(error) = self.park() {
            tracing::warn!(instance = %self.record.path(), error = error.chain(), "nothing is ready for its wake");
        }
    }
}

impl Service {
    /// Removes an instance's secrets in clear, when its VM is gone for good.
    pub(crate) fn forget_secrets(&self, record: &mvm_model::record::InstanceRecord) -> Result<()> {
        let Some(store) = self.secrets_if_any() else { return Ok(()) };
        store.remove(record.instance_id).about(record.path(), "remove its secrets")?;
        drop(store);
        mvm_host::secrets::close_if_empty(&self.dirs.run).about(record.path(), "remove its secrets")
    }
}
