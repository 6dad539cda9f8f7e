//! What an instance's secrets image should hold, and making it so.
//!
//! Every secret the pool's scopes admit is a file, readable by the workload's user alone (and
//! root): owned by that uid and gid, mode 0400. An image is current when it has the id of what
//! it should hold; the vault alone decides that, there is no list of who has what.

use mvm_host::drive::SmallFile;
use mvm_host::secrets::{Contents, Entry, ImageId, Secrets};
use mvm_model::TenantName;
use mvm_model::image::Workload;
use mvm_model::record::InstanceRecord;
use mvm_model::secret::SecretName;

use super::refuse_older;
use crate::error::{About, Result};
use crate::service::Service;

/// Permissions of a secret in the guest.
const MODE: u32 = 0o400;

/// What an image should hold.
pub(crate) struct Image {
    pub(crate) id: ImageId,
    contents: Contents,
    scopes: Option<Vec<String>>,
    owner: (u32, u32),
}

/// Whether an image was there or had to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It was there.
    Ready,
    /// It was made just now.
    Made,
}

impl Image {
    fn files(&self) -> Vec<SmallFile<'_>> {
        files(&self.contents, self.scopes.as_deref(), self.owner)
    }

    #[cfg(test)]
    pub(crate) fn names(&self) -> Vec<&str> {
        self.files().iter().map(|file| file.name).collect()
    }
}

fn files<'a>(
    contents: &'a Contents,
    scopes: Option<&[String]>,
    owner: (u32, u32),
) -> Vec<SmallFile<'a>> {
    let seen = contents.iter().filter(|(name, _)| name.is_in_scope(scopes));
    let file = |(name, entry): (&'a SecretName, &'a Entry)| SmallFile {
        name: name.as_str(),
        content: entry.value.expose(),
        owner,
        mode: MODE,
    };
    seen.map(file).collect()
}

/// Who owns the files: the workload's user where it is known by numbers, else root.
fn owner(workload: Option<&Workload>) -> (u32, u32) {
    let numbers = |user: &str| {
        let (uid, gid) = user.split_once(':')?;
        Some((uid.parse().ok()?, gid.parse().ok()?))
    };
    workload.and_then(|workload| numbers(workload.user.as_deref()?)).unwrap_or((0, 0))
}

impl Service {
    /// What an instance's image should hold now, when its image runs this workload.
    pub(crate) fn wanted_secrets(
        &self,
        record: &InstanceRecord,
        workload: Option<&Workload>,
    ) -> Result<Image> {
        let opened = self.open_vault(&record.tenant_id)?;
        let had = self.delivered(record).map_or(0, |id| id.epoch);
        refuse_older(&record.tenant_id, opened.epoch, had)?;
        let scopes = self.pool(&record.pool_path())?.secret_scopes;
        let owner = owner(workload);
        let id = match &opened.key {
            None => ImageId::EMPTY,
            Some(key) => {
                let files = files(&opened.contents, scopes.as_deref(), owner);
                ImageId::of(key, opened.epoch, &files)
            }
        };
        Ok(Image { id, contents: opened.contents, scopes, owner })
    }

    /// Makes sure the image of an instance that does not run is the one it should have.
    pub(crate) fn ensure_secrets(
        &self,
        record: &InstanceRecord,
        wanted: &Image,
    ) -> Result<Readiness> {
        let path = record.path();
        let store = Secrets::open(&self.dirs.run).about(&path, "make room for its secrets")?;
        if store.id(record.instance_id) == Some(wanted.id) {
            return Ok(Readiness::Ready);
        }
        store
            .write(record.instance_id, wanted.id, &wanted.files())
            .about(&path, "make its secrets drive")
            .map(|()| Readiness::Made)
    }

    /// Writes the image of an instance that runs and has it not mounted.
    pub(crate) fn overwrite_secrets(&self, record: &InstanceRecord, wanted: &Image) -> Result<()> {
        let path = record.path();
        let store = Secrets::open(&self.dirs.run).about(&path, "find its secrets drive")?;
        store
            .overwrite(record.instance_id, wanted.id, &wanted.files())
            .about(&path, "write its secrets drive")
    }

    /// What an instance's image holds; `None` without one.
    pub(crate) fn delivered(&self, record: &InstanceRecord) -> Option<ImageId> {
        self.secrets_if_any()?.id(record.instance_id)
    }

    /// The newest epoch any image of a tenant has; 0 without any.
    pub(crate) fn newest_delivered(&self, tenant: &TenantName) -> u64 {
        let Some(store) = self.secrets_if_any() else { return 0 };
        let records = self.records.tenant_instances(tenant).records;
        let epochs = records.iter().filter_map(|record| Some(store.id(record.instance_id)?.epoch));
        epochs.max().unwrap_or(0)
    }

    /// The directory of images, not made for a look.
    pub(crate) fn secrets_if_any(&self) -> Option<Secrets> {
        let is_there = self.dirs.run.join("secrets").exists();
        is_there.then(|| Secrets::open(&self.dirs.run).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_model::image::Restart;

    #[test]
    fn files_belong_to_the_workloads_user() {
        let run_as = |user: Option<&str>| Workload {
            argv: vec!["x".into()],
            env: Default::default(),
            user: user.map(Into::into),
            ports: Vec::new(),
            health: None,
            restart: Restart::Never,
        };
        assert_eq!(owner(None), (0, 0));
        assert_eq!(owner(Some(&run_as(None))), (0, 0));
        assert_eq!(owner(Some(&run_as(Some("65534:65533")))), (65534, 65533));
        assert_eq!(owner(Some(&run_as(Some("app")))), (0, 0));
    }
}
