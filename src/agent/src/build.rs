//! Building a pool's image: who builds it, and making the result the revision new boots use.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mvm_host::progress::Progress;
use mvm_model::image::ImageSource;
use mvm_model::{Digest, PoolPath};

use crate::error::{About, Error, Kind, Result};
use crate::service::Service;

/// Progress that can be sent to another thread.
pub type SharedSink = Arc<dyn Fn(Progress) + Send + Sync>;

impl Service {
    /// Builds a pool's image and makes it the revision new boots use.
    ///
    /// # Errors
    /// When it cannot be built; the revision before stays current.
    pub async fn build_pool(
        &self,
        path: &PoolPath,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Digest> {
        let (tenant, object) = (path.tenant.clone(), path.clone());
        let result = self.build_pool_unlogged(path, progress, cancel).await;
        self.audit(&tenant, &object, "pool.build", &result).await;
        result
    }

    async fn build_pool_unlogged(
        &self,
        path: &PoolPath,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Digest> {
        let pool = self.pool(path)?;
        let digest = match &pool.image {
            ImageSource::Revision { digest } => digest.clone(),
            ImageSource::Flake { reference, .. } => {
                let text = format!("there is no builder for the flake {reference} in this version");
                return Err(Error::new(Kind::ImageBuilderUnavailable, path, text)
                    .hint("create the pool with --profile; the embedded builder makes its image"));
            }
            ImageSource::Embedded { profile, .. } => {
                let role = pool.image.role(&pool.role).clone();
                self.ensure_image(*profile, role, progress, cancel).await?
            }
            ImageSource::Oci { .. } => {
                let text = "OCI images are reserved for a later version";
                return Err(Error::new(Kind::Invalid, path, text));
            }
        };
        let images = self.images()?;
        images
            .link_into(&self.dirs.pool(path), &digest)
            .about(path, "put the image into the pool")?;
        let _lock = self.lock_state().await?;
        let mut pool = self.pool(path)?;
        pool.current = Some(digest.clone());
        self.records.put_pool(&pool)?;
        Ok(digest)
    }

    /// Revisions pools and instances need; everything else in the store can go.
    pub fn needed_revisions(&self) -> Vec<Digest> {
        let mut needed: Vec<_> = Vec::new();
        for tenant in self.records.tenants().records {
            needed.extend(
                self.records
                    .pools(&tenant.tenant_id)
                    .records
                    .into_iter()
                    .filter_map(|pool| pool.current),
            );
        }
        needed.extend(
            self.records
                .all_instances()
                .records
                .into_iter()
                .filter_map(|instance| instance.revision),
        );
        needed.sort();
        needed.dedup();
        needed
    }
}
