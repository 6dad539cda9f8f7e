//! Building a pool's image, and making the result the revision new boots use.
//!
//! ```text
//! build_pool ─► choice.rs   who builds it: Nix, or for our own image set the embedded builder
//!            │    └ dry_run.rs   asks Nix, remembers the answer
//!            ├─► image::{build, import}   a revision in the image store, held against collectors
//!            └─► shelf.rs   linked into the pool, then current, under the state lock
//! shelf.rs: rollback and gc of a pool's revisions · images.rs: the image store itself
//! ```

mod choice;
mod dry_run;
mod images;
mod shelf;
mod source;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mvm_api::image::PoolBuilt;
use mvm_host::image::{self, Import, Target};
use mvm_host::packages::{Arch, Control};
use mvm_host::progress::Progress;
use mvm_model::image::{Builder, BuilderChoice, FlakeRef, ImageSource, PoolRevision, Role};
use mvm_model::record::PoolRecord;
use mvm_model::{Digest, PoolPath, ProfileName};

use crate::error::{About, Result};
use crate::service::{Service, now};
use choice::Chosen;

/// Progress that can be sent to another thread.
pub type SharedSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// What a build made.
struct Made {
    digest: Digest,
    builder: Option<Builder>,
    lock: Option<Digest>,
    note: Option<String>,
}

impl Service {
    /// Builds a pool's image by whom the pool says, and makes it the revision new boots use.
    ///
    /// # Errors
    /// When it cannot be built; the revision before stays current.
    pub async fn build_pool(
        &self,
        path: &PoolPath,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Digest> {
        self.build_pool_with(path, None, progress, cancel).await.map(|built| built.digest)
    }

    /// Builds a pool's image and makes it the revision new boots use. `builder` goes before what
    /// the pool says.
    ///
    /// # Errors
    /// [`Kind::ImageBuilderUnavailable`] when nobody here can build it, or what the builder says;
    /// the revision before stays current.
    pub async fn build_pool_with(
        &self,
        path: &PoolPath,
        builder: Option<BuilderChoice>,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<PoolBuilt> {
        let result = self.build_pool_unlogged(path, builder, progress, cancel).await;
        let detail = result.as_ref().map(audited).unwrap_or_default();
        self.audit_with(&path.tenant, path, "pool.build", &result, &detail).await;
        result
    }

    async fn build_pool_unlogged(
        &self,
        path: &PoolPath,
        builder: Option<BuilderChoice>,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<PoolBuilt> {
        let pool = self.pool(path)?;
        let images = self.images()?;
        // Until it is linked, nothing else keeps what is built from being collected.
        let (sink, stop) = (progress.clone(), cancel.clone());
        let held = images.clone();
        let _hold = self
            .blocking("keep the image", move || held.hold(Control::new(&|now| sink(now), &stop)))
            .await?;
        let choice = builder.unwrap_or(pool.origin.builder);
        let made = self.make(&pool, choice, progress, cancel).await?;
        images
            .link_revision(&self.dirs.pool(path), &made.digest)
            .about(path, "put the image into the pool")?;
        let revision = PoolRevision {
            digest: made.digest.clone(),
            builder: made.builder,
            source: pool.image.to_string(),
            lock: made.lock,
            built_at: now(),
            current_since: now(),
        };
        self.make_current(path, revision, Some(&pool.image)).await?;
        Ok(PoolBuilt { digest: made.digest, builder: made.builder, note: made.note })
    }

    /// Whether an image could be built here, before anything is made that needs it: the same
    /// decision [`Self::build_pool_with`] takes, and the same error.
    ///
    /// # Errors
    /// [`Kind::ImageBuilderUnavailable`] naming the flake, the reason and the ways out.
    pub async fn check_builder(
        &self,
        object: impl std::fmt::Display,
        image: &ImageSource,
        role: &Role,
        builder: BuilderChoice,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<()> {
        self.check_image(&object, image)?;
        match image {
            ImageSource::Flake { reference, profile, .. } => {
                let target = target(reference, profile, image.role(role));
                self.choose(&object, builder, target, progress, cancel).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    async fn make(
        &self,
        pool: &PoolRecord,
        choice: BuilderChoice,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Made> {
        let path = pool.path();
        self.check_image(&path, &pool.image)?;
        let role = pool.image.role(&pool.role).clone();
        match &pool.image {
            ImageSource::Revision { digest } => {
                Ok(Made { digest: digest.clone(), builder: None, lock: None, note: None })
            }
            ImageSource::Embedded { profile, .. } => {
                let digest = self.ensure_image(*profile, role, progress, cancel).await;
                let digest = digest.map_err(|error| error.of(&path))?;
                Ok(Made { digest, builder: Some(Builder::Embedded), lock: None, note: None })
            }
            ImageSource::Flake { reference, profile, .. } => {
                let target = target(reference, profile, &role);
                let lock = source::lock_digest(reference);
                let chosen =
                    self.choose(&path, choice, target.clone(), progress.clone(), cancel.clone());
                let (digest, builder, note) = match chosen.await? {
                    Chosen::Nix => {
                        let digest = self.build_with_nix(target, progress, cancel).await;
                        (digest, Builder::Nix, None)
                    }
                    Chosen::Embedded { profile, note } => {
                        let digest = self.ensure_image(profile, role, progress, cancel).await;
                        (digest, Builder::Embedded, note)
                    }
                };
                let digest = digest.map_err(|error| error.of(&path))?;
                Ok(Made { digest, builder: Some(builder), lock, note })
            }
            // Refused above.
            ImageSource::Oci { .. } => Err(source::reserved(&path)),
        }
    }

    async fn build_with_nix(
        &self,
        target: Target,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Digest> {
        let images = self.images()?;
        let log = self.dirs.cache.join("nix-build.log");
        self.blocking("build the image with Nix", move || {
            let sink = |now| progress(now);
            let control = Control::new(&sink, &cancel);
            let nix = image::Nix::find()?;
            let built = nix.build(&target, &log, control)?;
            let store_name = built.path.file_name().unwrap_or_default().to_string_lossy();
            let inputs = [("nix".into(), store_name.into()), ("attribute".into(), built.attribute)];
            let import = Import {
                from: &built.path,
                builder: Builder::Nix,
                inputs: inputs.into(),
                wanted: Some((target.profile, target.role)),
                guest_proto: mvm_guest_proto::VERSION.into(),
            };
            image::import(&images, &import, control).map(|revision| revision.digest)
        })
        .await
    }
}

fn target(flake: &FlakeRef, profile: &ProfileName, role: &Role) -> Target {
    let (flake, profile, role) = (flake.clone(), profile.clone(), role.clone());
    Target { flake, profile, role, arch: Arch::HOST }
}

/// What the audit log says of a build.
fn audited(built: &PoolBuilt) -> String {
    let by = built.builder.map_or_else(String::new, |builder| format!(", builder: {builder}"));
    format!("revision {}{by}", built.digest.short())
}

#[cfg(test)]
mod tests;
