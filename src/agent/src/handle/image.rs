//! Calls about images and pools' revisions.

use mvm_api::image::{
    Build, BuildPool, Collected, Gc, Import, List, PoolBuilt, PoolGc, Rollback, RolledBack, View,
};
use mvm_model::Digest;

use super::{Control, Handle};
use crate::error::Result;
use crate::service::Service;

impl Handle for BuildPool {
    async fn handle(self, service: &Service, control: &Control) -> Result<PoolBuilt> {
        let (progress, cancel) = (control.progress.clone(), control.cancel.clone());
        service.build_pool_with(&self.pool, self.builder, progress, cancel).await
    }
}

impl Handle for Rollback {
    async fn handle(self, service: &Service, _: &Control) -> Result<RolledBack> {
        service.rollback_pool(&self.pool, self.to.as_deref()).await
    }
}

impl Handle for PoolGc {
    async fn handle(self, service: &Service, _: &Control) -> Result<Collected> {
        service.collect_pool(&self.pool).await
    }
}

impl Handle for List {
    async fn handle(self, service: &Service, _: &Control) -> Result<Vec<View>> {
        service.image_views()
    }
}

impl Handle for Build {
    async fn handle(self, service: &Service, control: &Control) -> Result<Digest> {
        let (progress, cancel) = (control.progress.clone(), control.cancel.clone());
        service.ensure_image(self.profile, self.role, progress, cancel).await
    }
}

impl Handle for Import {
    async fn handle(self, service: &Service, control: &Control) -> Result<View> {
        let (progress, cancel) = (control.progress.clone(), control.cancel.clone());
        service.import_image(self.path, progress, cancel).await
    }
}

impl Handle for Gc {
    async fn handle(self, service: &Service, control: &Control) -> Result<Collected> {
        let (progress, cancel) = (control.progress.clone(), control.cancel.clone());
        service.collect_images(progress, cancel).await
    }
}
