//! Destroying a pool: its instances first, one by one, each whole; then its record.

use mvm_model::PoolPath;
use mvm_model::intent::Object;
use mvm_model::record::DesiredCounts;

use crate::error::{Error, Kind, Result};
use crate::service::Service;

/// How often what somebody created meanwhile is destroyed too.
const TRIES: u32 = 3;

impl Service {
    /// Destroys a pool with its instances and their data.
    ///
    /// # Errors
    /// What the first instance that stays says.
    pub async fn destroy_pool(&self, path: &PoolPath) -> Result<()> {
        let pool = self.pool(path)?;
        self.permit(Object::Pool(path.clone()), pool.managed_by)?;
        self.remove_pool(path).await
    }

    /// Destroys a pool, whoever's it is.
    pub(crate) async fn remove_pool(&self, path: &PoolPath) -> Result<()> {
        let (tenant, object) = (path.tenant.clone(), path.clone());
        let result = self.destroy_pool_unlogged(path).await;
        self.audit(&tenant, &object, "pool.destroy", &result).await;
        result
    }

    async fn destroy_pool_unlogged(&self, path: &PoolPath) -> Result<()> {
        self.ask_for_none(path).await?;
        for _ in 0..TRIES {
            self.empty_pool(path).await?;
            let _lock = self.lock_state().await?;
            // A loop that was at it may have filled the counts of before.
            if self.records.instances(path).all(path, "destroy it")?.is_empty() {
                self.forget_verified(path);
                return self.records.remove(path, &self.dirs.pool(path));
            }
        }
        Err(Error::new(Kind::Busy, path, "instances were created in it again and again")
            .hint("destroy it again"))
    }

    /// Nobody creates in its place what is destroyed now.
    async fn ask_for_none(&self, path: &PoolPath) -> Result<()> {
        let _lock = self.lock_state().await?;
        let mut record = self.pool(path)?;
        // Nothing is removed while something of it cannot be read.
        self.records.instances(path).all(path, "destroy it")?;
        record.desired_counts = DesiredCounts::default();
        match self.records.put_pool(&record) {
            // A full disk must not keep anybody from freeing it.
            Err(error) if error.kind == Kind::DiskFull => Ok(()),
            other => other,
        }
    }

    async fn empty_pool(&self, path: &PoolPath) -> Result<()> {
        for instance in self.records.instances(path).all(path, "destroy it")? {
            self.remove_instance(&instance.path()).await?;
        }
        Ok(())
    }
}
