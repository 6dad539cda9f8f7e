//! What can be said about an image source without building it.

use std::fmt::Display;
use std::fs;

use mvm_model::Digest;
use mvm_model::image::{FlakeRef, ImageSource};

use crate::error::{About, Error, Kind, Result};
use crate::service::Service;

impl Service {
    /// Refuses an image source that nothing can be built from: a directory that is no flake, a
    /// revision that is not here, a kind that is reserved.
    ///
    /// # Errors
    /// [`Kind::Invalid`] or [`Kind::NotFound`], naming the source and what to do.
    pub(crate) fn check_image(&self, object: impl Display, image: &ImageSource) -> Result<()> {
        match image {
            ImageSource::Flake { reference, .. } => check_flake(object, reference),
            ImageSource::Embedded { .. } => Ok(()),
            ImageSource::Revision { digest } => {
                let found = self.images()?.get(digest);
                let doing = "use the image revision";
                found.map(drop).about(object, doing).map_err(|error| {
                    error
                        .hint("'mvm image list' shows those there are; 'mvm image import' adds one")
                })
            }
            ImageSource::Oci { .. } => Err(reserved(object)),
        }
    }
}

fn check_flake(object: impl Display, reference: &FlakeRef) -> Result<()> {
    let bad = |text: String, hint: &str| Err(Error::new(Kind::Invalid, &object, text).hint(hint));
    if reference.is_relative() {
        let text =
            format!("the flake reference {reference} is relative: to what is not known here");
        return bad(text, "write the whole path");
    }
    match reference.dir() {
        Some(dir) if !dir.is_dir() => {
            let text = format!("{} is no directory, so no flake", dir.display());
            bad(text, "give the directory with the flake.nix, or github:OWNER/REPO")
        }
        Some(dir) if !dir.join("flake.nix").is_file() => {
            let text = format!("{} is no flake: it has no flake.nix", dir.display());
            bad(
                text,
                "name the directory with the flake.nix; mvm's own images need no flake, only a \
                 profile",
            )
        }
        _ => Ok(()),
    }
}

/// The error for container images.
pub(super) fn reserved(object: impl Display) -> Error {
    let text = "container images (OCI) are reserved: this version builds none";
    Error::new(Kind::Invalid, object, text).hint("use --flake REF or --profile NAME")
}

/// The digest of a flake's lock file, where it has one on this host.
pub(super) fn lock_digest(reference: &FlakeRef) -> Option<Digest> {
    let lock = reference.dir()?.join("flake.lock");
    fs::read(lock).ok().map(|bytes| Digest::of(&bytes))
}
