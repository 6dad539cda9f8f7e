//! Tenants' secrets: set, listed, rotated, removed; and who has them when.
//!
//! ```text
//! set, rotate, remove ─▶ vault (encrypted, epoch + 1) ─▶ deliver: every instance of the tenant
//!                                                         running   now, by its guest
//!                                                         warm      when it resumes
//!                                                         sleeping  at its wake; image made now
//!                                                         off       at its start
//! ```
//!
//! The vault is the truth and is written first. An instance's image ([`image`]) is made from it
//! whenever it is not the one the vault asks for, so an interrupted delivery is made up for by the
//! next transition, the next change, or the agent's start ([`Service::refresh_secrets`]).

use std::time::Duration;

use mvm_api::secret::{Changed, Doomed, Listed, Set, View};
use mvm_host::lock::Lock;
use mvm_host::secrets::{
    Contents, EnvelopeError, HostKey, KeyError, Vault, VaultError, guard_memory,
};
use mvm_model::secret::{self, BadSecret, SecretName};
use mvm_model::{Digest, TenantName};

use crate::error::{About, Classify, Error, Kind, Result};
use crate::service::{Service, now};

mod deliver;
mod image;

pub(crate) use image::{Image, Readiness};

/// How long a writer of a tenant's secrets waits for another.
const PATIENCE: Duration = Duration::from_secs(10);

impl Service {
    /// Sets secrets of a tenant and delivers them.
    ///
    /// # Errors
    /// When they are too large or too many, or the present ones cannot be opened; nothing is
    /// changed then. What could not be delivered yet is in the result.
    pub async fn set_secrets(&self, set: Set) -> Result<Changed> {
        let names: Vec<_> = set.secrets.keys().cloned().collect();
        let change = |contents: &mut Contents| {
            for (name, value) in set.secrets {
                contents.set(name, value, now());
            }
            Ok(())
        };
        self.change_secrets(&set.tenant, "secrets.set", names, Older::Refused, change).await
    }

    /// Encrypts a tenant's secrets anew, with a fresh data key and a new epoch, and delivers them
    /// again. Accepts an envelope that is older than what was delivered (a restored backup).
    ///
    /// # Errors
    /// When there are none or they cannot be opened.
    pub async fn rotate_secrets(&self, tenant: &TenantName) -> Result<Changed> {
        if !self.vault(tenant).exists() {
            self.tenant(tenant)?;
            return Err(Error::new(Kind::NotFound, tenant, "it has no secrets yet")
                .hint(format!("mvm tenant secrets set {tenant} NAME")));
        }
        self.change_secrets(tenant, "secrets.rotate", Vec::new(), Older::Accepted, |_| Ok(())).await
    }

    /// Removes secrets of a tenant, from its running instances as well.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when one of them does not exist; nothing is removed then.
    pub async fn remove_secrets(&self, tenant: &TenantName, doomed: Doomed) -> Result<Changed> {
        let names = match &doomed {
            Doomed::Names(names) => names.clone(),
            Doomed::All => self.drop_unreadable(tenant).await?,
        };
        let change = |contents: &mut Contents| match doomed {
            Doomed::All => {
                *contents = Contents::default();
                Ok(())
            }
            Doomed::Names(names) => names.iter().try_for_each(|name| {
                let missing = || {
                    Error::new(Kind::NotFound, tenant, format!("it has no secret {name}"))
                        .hint(format!("'mvm tenant secrets list {tenant}' shows those it has"))
                };
                contents.remove(name).then_some(()).ok_or_else(missing)
            }),
        };
        self.change_secrets(tenant, "secrets.remove", names, Older::Accepted, change).await
    }

    /// The names of all secrets. Those that nobody can open any more (their key is lost) are
    /// given up here: the envelope goes, and with it what stood in the way of a new one.
    async fn drop_unreadable(&self, tenant: &TenantName) -> Result<Vec<SecretName>> {
        let _turn = self.lock_secrets(tenant).await?;
        match self.open_vault(tenant) {
            Ok(opened) => Ok(opened.contents.iter().map(|(name, _)| name.clone()).collect()),
            Err(error) if error.kind == Kind::NewerState => Err(error),
            Err(error) => {
                tracing::warn!(%tenant, error = error.chain(), "removing secrets that do not open");
                self.vault(tenant).remove().about(tenant, "remove its secrets")?;
                Ok(Vec::new())
            }
        }
    }

    /// A tenant's secrets without their values.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn list_secrets(&self, tenant: &TenantName) -> Result<Listed> {
        self.tenant(tenant)?;
        let opened = self.open_vault(tenant)?;
        let view = |(name, entry): (&SecretName, &mvm_host::secrets::Entry)| View {
            name: name.clone(),
            size: entry.value.size(),
            set_at: entry.set_at,
        };
        Ok(Listed {
            tenant_id: tenant.clone(),
            epoch: opened.epoch,
            secrets_hash: self.secrets_hash(tenant),
            secrets: opened.contents.iter().map(view).collect(),
        })
    }

    /// The digest that changes when a tenant's secrets do, as DesiredState names it; `None`
    /// without secrets or when the envelope is no envelope.
    pub fn secrets_hash(&self, tenant: &TenantName) -> Option<Digest> {
        Some(self.vault(tenant).header().ok()??.digest())
    }

    async fn change_secrets(
        &self,
        tenant: &TenantName,
        event: &str,
        names: Vec<SecretName>,
        older: Older,
        change: impl FnOnce(&mut Contents) -> Result<()>,
    ) -> Result<Changed> {
        let changed = self.change_vault(tenant, older, change).await;
        let detail = said(&names, changed.as_ref().ok());
        self.audit_with(tenant, tenant, event, &changed, &detail).await;
        let epoch = changed?;
        let instances = self.deliver_secrets(tenant).await;
        Ok(Changed { tenant_id: tenant.clone(), epoch, names, instances })
    }

    /// Replaces the envelope by one with other contents and the next epoch.
    async fn change_vault(
        &self,
        tenant: &TenantName,
        older: Older,
        change: impl FnOnce(&mut Contents) -> Result<()>,
    ) -> Result<u64> {
        self.living_tenant(tenant)?;
        let _turn = self.lock_secrets(tenant).await?;
        let mut opened = self.open_vault(tenant)?;
        let newest = self.newest_delivered(tenant);
        if older == Older::Refused {
            refuse_older(tenant, opened.epoch, newest)?;
        }
        change(&mut opened.contents)?;
        secret::check(opened.contents.values()).about(tenant, "keep its secrets")?;
        let epoch = opened.epoch.max(newest) + 1;
        let key = opened.key.map_or_else(|| self.first_key(tenant), Ok)?;
        let written = self.vault(tenant).write(&key, epoch, &opened.contents);
        written.about(tenant, "keep its secrets").map(|()| epoch)
    }

    async fn lock_secrets(&self, tenant: &TenantName) -> Result<Lock> {
        self.tenant(tenant)?;
        let path = self.dirs.tenant(tenant).join(".secrets.lock");
        Lock::take(&path, &self.who, PATIENCE).await.about(tenant, "change its secrets")
    }

    pub(crate) fn vault(&self, tenant: &TenantName) -> Vault {
        Vault::of(&self.dirs.tenant(tenant), tenant)
    }

    /// Opens a tenant's envelope; a tenant without one has no secrets, which takes no key.
    pub(crate) fn open_vault(&self, tenant: &TenantName) -> Result<Opened> {
        let vault = self.vault(tenant);
        if !vault.exists() {
            return Ok(Opened::default());
        }
        guard_memory();
        let doing = "open its secrets";
        let start_over = format!(
            "put the key back, nothing is lost; 'mvm tenant secrets remove {tenant} --all --force' gives them up"
        );
        let key =
            HostKey::load(&self.dirs.config).about(tenant, doing).map_err(|error| {
                match error.kind {
                    Kind::Unavailable => error.hint(start_over.clone()),
                    _ => error,
                }
            })?;
        let opened = vault.open(&key).about(tenant, doing).map_err(|error| match error.kind {
            Kind::Unavailable => error.hint(start_over),
            _ => error,
        })?;
        let Some((header, contents)) = opened else { return Ok(Opened::default()) };
        Ok(Opened { key: Some(key), epoch: header.epoch, contents })
    }

    /// The host's key for a tenant's first envelope. Where another tenant has one there was a key:
    /// it is not replaced, and no second one is used beside it.
    fn first_key(&self, tenant: &TenantName) -> Result<HostKey> {
        guard_memory();
        let doing = "keep its secrets";
        let vaults = self.records.tenants().records.into_iter();
        let vaults = vaults.map(|record| self.vault(&record.tenant_id));
        let vaults: Vec<_> = vaults.filter(Vault::exists).collect();
        if vaults.is_empty() {
            return HostKey::load_or_create(&self.dirs.config).about(tenant, doing);
        }
        let key = HostKey::load(&self.dirs.config).about(tenant, doing)?;
        let headers = vaults.iter().filter_map(|vault| vault.header().ok().flatten());
        match headers.map(|header| header.key_id).find(|id| *id != key.id()) {
            None => Ok(key),
            Some(theirs) => {
                let other = EnvelopeError::OtherKey { theirs, ours: key.id() };
                let text = "another tenant's secrets need another key than this host has now";
                Err(Error::new(Kind::Unavailable, tenant, text)
                    .because(other)
                    .hint("put back the key that was there before"))
            }
        }
    }
}

/// What the audit log says of a change.
fn said(names: &[SecretName], epoch: Option<&u64>) -> String {
    let names = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let epoch = epoch.map(|epoch| format!("epoch {epoch}"));
    epoch
        .into_iter()
        .chain(Some(names).filter(|names| !names.is_empty()))
        .collect::<Vec<_>>()
        .join(": ")
}

/// Refuses an envelope that is older than what an instance has: somebody put an old file in
/// place.
pub(crate) fn refuse_older(tenant: &TenantName, epoch: u64, newest: u64) -> Result<()> {
    if epoch >= newest {
        return Ok(());
    }
    let text = format!("its secrets are of epoch {epoch}, but epoch {newest} was delivered before");
    Err(Error::new(Kind::Corrupt, tenant, text)
        .hint(format!("'mvm tenant secrets rotate {tenant}' takes them as they are now")))
}

/// Whether an envelope may be older than what was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Older {
    Refused,
    Accepted,
}

/// An opened envelope.
#[derive(Default)]
pub(crate) struct Opened {
    /// The key it was opened with; `None` when there was no envelope.
    pub(crate) key: Option<HostKey>,
    pub(crate) epoch: u64,
    pub(crate) contents: Contents,
}

impl Classify for BadSecret {
    fn classify(&self) -> (Kind, Option<String>) {
        (Kind::Invalid, None)
    }
}

impl Classify for KeyError {
    fn classify(&self) -> (Kind, Option<String>) {
        match self {
            Self::Missing { .. } => (
                Kind::Unavailable,
                Some("other tenants' secrets are encrypted with it: put it back".into()),
            ),
            Self::Exposed { path, .. } => {
                (Kind::Refused, Some(format!("chown root: {0}; chmod 0400 {0}", path.display())))
            }
            Self::Malformed { .. } => {
                (Kind::Unavailable, Some("put back the key that was there before".into()))
            }
            Self::File(error) => error.classify(),
            Self::NoRandomness => (Kind::Failed, None),
        }
    }
}

impl Classify for VaultError {
    fn classify(&self) -> (Kind, Option<String>) {
        match self {
            Self::File(error) => error.classify(),
            Self::Envelope { source, .. } => match source {
                EnvelopeError::Newer(_) => {
                    (Kind::NewerState, Some("use that version; this one leaves it alone".into()))
                }
                EnvelopeError::OtherKey { .. } => (Kind::Unavailable, None),
                EnvelopeError::Foreign | EnvelopeError::Changed => {
                    (Kind::Corrupt, Some("restore the file from a backup".into()))
                }
                EnvelopeError::Provider => (Kind::Failed, None),
            },
        }
    }
}

#[cfg(test)]
mod tests;
