//! Bringing a tenant's secrets to its instances, each under its own lock.

use std::time::Duration;

use mvm_api::secret::{Delivered, Delivery};
use mvm_model::{InstancePath, TenantName};
use tokio::task::{JoinError, JoinSet};

use crate::error::Kind;
use crate::service::Service;

/// What a delivery came to; one that broke off is said as well.
fn told(instance: InstancePath, ended: Result<Option<Delivered>, JoinError>) -> Option<Delivered> {
    ended.unwrap_or_else(|error| {
        let delivery = Delivery::NotYet { why: format!("the delivery broke off: {error}") };
        Some(Delivered { instance, delivery })
    })
}

/// How many instances are served at once.
const AT_ONCE: usize = 8;
/// How long a delivery waits for somebody else's transition of an instance.
const PATIENCE: Duration = Duration::from_secs(30);

impl Service {
    /// Brings a tenant's secrets to all its instances, as far as they can take them now. Also
    /// for who changed a pool's scopes.
    pub async fn deliver_secrets(&self, tenant: &TenantName) -> Vec<Delivered> {
        let records = self.records.tenant_instances(tenant).records;
        self.deliver_to_each(records.iter().map(|record| record.path()).collect(), PATIENCE).await
    }

    /// Makes every instance's image what it should be, and removes the others: after the host's
    /// boot, which takes the tmpfs, and whenever an agent starts. Instances somebody is at are
    /// left to them.
    pub async fn refresh_secrets(&self) -> Vec<Delivered> {
        // Images first: an instance made after that has one we do not know of.
        let store = self.secrets_if_any();
        let images = store.as_ref().map(|store| store.instances()).unwrap_or_default();
        let records = self.records.all_instances();
        if let (Some(store), true) = (store, records.problems.is_empty()) {
            let known = |id| records.records.iter().any(|record| record.instance_id == id);
            for stray in images.into_iter().filter(|id| !known(*id)) {
                if let Err(error) = store.remove(stray) {
                    tracing::warn!(instance = %stray, %error, "cannot remove a stray image");
                }
            }
        }
        let paths = records.records.iter().map(|record| record.path()).collect();
        self.deliver_to_each(paths, Duration::ZERO).await
    }

    async fn deliver_to_each(
        &self,
        instances: Vec<InstancePath>,
        patience: Duration,
    ) -> Vec<Delivered> {
        let mut waiting = instances.into_iter().enumerate();
        let (mut served, mut done) = (JoinSet::new(), Vec::new());
        loop {
            while served.len() < AT_ONCE
                && let Some((at, instance)) = waiting.next()
            {
                let (service, name) = (self.clone(), instance.clone());
                let one = async move { service.deliver_to(instance, patience).await };
                served.spawn(async move { (at, told(name, tokio::spawn(one).await)) });
            }
            match served.join_next().await {
                None => break,
                Some(Ok((at, Some(delivered)))) => done.push((at, delivered)),
                Some(_) => {}
            }
        }
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, delivered)| delivered).collect()
    }

    /// `None` for an instance that is gone.
    async fn deliver_to(&self, instance: InstancePath, patience: Duration) -> Option<Delivered> {
        let delivery = match self.deliver_secrets_to(&instance, patience).await {
            Ok(delivery) => delivery,
            Err(error) if error.kind == Kind::NotFound => return None,
            Err(error) => Delivery::NotYet { why: error.chain() },
        };
        Some(Delivered { instance, delivery })
    }
}
