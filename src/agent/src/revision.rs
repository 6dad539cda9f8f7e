//! Image revisions in the hands of instances: hashed whole once per boot of the host, then
//! trusted as long as their files' stamps stay as they were.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use mvm_host::file;
use mvm_host::image::{ImageError, NixError, Revision, Store};
use mvm_host::packages::Control;
use mvm_model::snapshot::FileStamp;
use mvm_model::{Digest, PoolPath};
use serde::{Deserialize, Serialize};

use crate::error::{About, Classify, Kind, Result};
use crate::service::Service;

/// What a revision's files were when they were hashed.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Verified {
    boot_id: String,
    files: BTreeMap<String, FileStamp>,
}

impl Verified {
    /// The same files since the same boot. The change time is that of the last link into a jail.
    fn same_content(&self, now: &Self) -> bool {
        let files = |of: &Self| of.files.keys().cloned().collect::<Vec<_>>();
        let alike = |(then, now): (&FileStamp, &FileStamp)| then.same_content(now);
        self.boot_id == now.boot_id
            && files(self) == files(now)
            && self.files.values().zip(now.files.values()).all(alike)
    }
}

impl Service {
    /// The image store.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn images(&self) -> Result<Store> {
        Store::open(&self.dirs.cache).about("", "open the image store")
    }

    /// A pool's copy of a revision, proven to be what was built.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] naming the file that is not.
    pub(crate) fn verified_revision(&self, pool: &PoolPath, digest: &Digest) -> Result<Revision> {
        let dir = self.dirs.pool(pool).join("artifacts/revisions").join(digest.as_str());
        let doing = "use the pool's image";
        let revision = Revision::open(&dir, digest).about(pool, doing)?;
        let now = stamps(&dir);
        if self.verified(pool, digest).same_content(&now) {
            return Ok(revision);
        }
        let (silent, never) = (|_| (), AtomicBool::new(false));
        revision.verify(Control::new(&silent, &never)).about(pool, doing)?;
        let json = serde_json::to_vec(&now).unwrap_or_default();
        let kept = self.verified_file(pool, digest);
        // What cannot be remembered is hashed again next time.
        let _ = kept
            .parent()
            .map_or(Ok(()), file::create_dir)
            .and_then(|()| file::write_durably(&kept, &json));
        Ok(revision)
    }

    fn verified(&self, pool: &PoolPath, digest: &Digest) -> Verified {
        let bytes = fs::read(self.verified_file(pool, digest)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn verified_file(&self, pool: &PoolPath, digest: &Digest) -> PathBuf {
        self.dirs.run.join("verified").join(format!(
            "{}.{}.{}",
            pool.tenant,
            pool.pool,
            digest.short()
        ))
    }
}

impl Service {
    /// What was proven of a pool's images goes with the pool; what stays is outdated, no more.
    pub(crate) fn forget_verified(&self, pool: &PoolPath) {
        let of_pool = format!("{}.{}.", pool.tenant, pool.pool);
        let kept = fs::read_dir(self.dirs.run.join("verified")).into_iter().flatten().flatten();
        for file in kept {
            if file.file_name().to_str().is_some_and(|name| name.starts_with(&of_pool)) {
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

fn stamps(dir: &std::path::Path) -> Verified {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| {
        let stamp = file::stamp(&entry.path()).ok()?;
        Some((entry.file_name().into_string().ok()?, stamp))
    });
    Verified { boot_id: mvm_vmm::process::boot_id().unwrap_or_default(), files: files.collect() }
}

impl Classify for NixError {
    fn classify(&self) -> (Kind, Option<String>) {
        let kind = match self {
            _ if self.is_cancelled() => Kind::Interrupted,
            _ if self.is_timeout() => Kind::Timeout,
            Self::NotInstalled => Kind::ImageBuilderUnavailable,
            Self::NoAttribute { .. } => Kind::NotFound,
            Self::Failed { .. } | Self::Output { .. } | Self::Run(_) => Kind::Failed,
        };
        (kind, self.hint())
    }
}

impl Classify for ImageError {
    fn classify(&self) -> (Kind, Option<String>) {
        let kind = match self {
            _ if self.is_cancelled() => Kind::Interrupted,
            Self::Package(error) => return error.classify(),
            Self::Nix(error) => return error.classify(),
            Self::Import { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Damaged { .. } => Kind::Corrupt,
            Self::NoSpace { .. } => Kind::DiskFull,
            Self::Busy { .. } => Kind::Busy,
            Self::UnsupportedOs { .. } | Self::NoMkfs { .. } | Self::Guest(_) => Kind::Unavailable,
            _ => Kind::Failed,
        };
        (kind, self.hint())
    }
}
