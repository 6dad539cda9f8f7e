//! The image store: what is in it and who needs it, taking images in, removing the rest.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mvm_api::image::{Collected, View};
use mvm_host::image::{self, Import, Revision};
use mvm_host::packages::Control;
use mvm_model::image::Builder;

use super::SharedSink;
use crate::error::{About, Error, Kind, Result};
use crate::service::Service;

impl Service {
    /// The revisions in the image store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn image_views(&self) -> Result<Vec<View>> {
        let needs = self.needs();
        let revisions = self.images()?.list().about("", "list image revisions")?;
        let view = |revision: &Revision| {
            let needed_by = needs.get(&revision.digest).cloned().unwrap_or_default();
            view(revision, needed_by)
        };
        Ok(revisions.iter().map(view).collect())
    }

    /// Takes an image made elsewhere into the store: a directory, or a tar archive of one.
    ///
    /// # Errors
    /// When it is not what an image is (see `docs/reference/image-output.md`); nothing is kept.
    pub async fn import_image(
        &self,
        from: PathBuf,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<View> {
        if !from.is_absolute() {
            let text =
                format!("the path {} is relative: to what is not known here", from.display());
            return Err(Error::new(Kind::Invalid, "", text).hint("write the whole path"));
        }
        let images = self.images()?;
        let imported = self.blocking("import the image", move || {
            let sink = |now| progress(now);
            let import = Import {
                from: &from,
                builder: Builder::Import,
                inputs: Default::default(),
                wanted: None,
                guest_proto: mvm_guest_proto::VERSION.into(),
            };
            image::import(&images, &import, Control::new(&sink, &cancel))
        });
        Ok(view(&imported.await?, Vec::new()))
    }

    /// Removes revisions from the store that no pool and no instance needs. Pools keep copies of
    /// their own, so nothing that runs is touched.
    ///
    /// # Errors
    /// When the store is in use for too long.
    pub async fn collect_images(
        &self,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Collected> {
        let (images, service) = (self.images()?, self.clone());
        let freed = self.blocking("remove unneeded image revisions", move || {
            let sink = |now| progress(now);
            // What is needed is asked once nobody is building any more.
            images.gc_by(|| service.needed_revisions(), Control::new(&sink, &cancel))
        });
        let freed = freed.await?;
        Ok(Collected { revisions: freed.revisions, bytes: freed.bytes, kept: Vec::new() })
    }
}

fn view(revision: &Revision, needed_by: Vec<String>) -> View {
    let manifest = &revision.manifest;
    let files = manifest.arch.values().next();
    let bytes = |files: &mvm_model::image::ArchFiles| {
        [&files.kernel, &files.vmlinux, &files.initrd, &files.rootfs]
            .map(|file| file.size)
            .iter()
            .sum()
    };
    View {
        digest: revision.digest.clone(),
        profile: manifest.profile.to_string(),
        role: manifest.role.clone(),
        builder: manifest.builder.clone(),
        kernel: files.map_or_else(String::new, |files| files.kernel_release.clone()),
        bytes: files.map_or(0, bytes),
        needed_by,
    }
}
