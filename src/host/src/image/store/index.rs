//! Which revision was built from which inputs.
//!
//! Only a shortcut: an entry that is lost, or whose revision is gone, costs a rebuild.

use std::fs;

use mvm_model::Digest;

use super::file::replace;
use super::{Revision, Store};
use crate::image::error::ImageError;

impl Store {
    /// The revision built from the inputs with this key, if it is still there.
    pub(in crate::image) fn built(&self, key: &Digest) -> Option<Revision> {
        let text = fs::read_to_string(self.index().join(key.as_str())).ok()?;
        self.get(&text.trim().parse().ok()?).ok()
    }

    /// Remembers what was built from the inputs with this key. The caller holds the lock.
    pub(in crate::image) fn remember(
        &self,
        key: &Digest,
        digest: &Digest,
    ) -> Result<(), ImageError> {
        let temp = self.tmp().join("index");
        replace(&self.index().join(key.as_str()), &temp, format!("{digest}\n").as_bytes())
    }

    /// Forgets entries whose revision `gone` names, so that it is built anew.
    pub(super) fn forget(&self, gone: impl Fn(&Digest) -> bool) {
        for entry in fs::read_dir(self.index()).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if text.trim().parse().map_or(true, |digest| gone(&digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
