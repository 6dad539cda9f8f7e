//! The file of a tenant's envelope: read, replaced as a whole, removed.
//!
//! Its writers hold the lock of the tenant's secrets; readers need none, they see the old file or
//! the new.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mvm_model::TenantName;

use super::contents::Contents;
use super::envelope::{self, EnvelopeError, Header};
use super::key::HostKey;
use crate::file::{self, Context, FileError};

/// Name of the file in the tenant's directory.
const FILE: &str = "secrets.sealed";

/// Why a tenant's secrets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what it should be.
    #[error("cannot open {}", path.display())]
    Envelope {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: EnvelopeError,
    },
}

/// Where a tenant's secrets are at rest.
#[derive(Debug, Clone)]
pub struct Vault {
    path: PathBuf,
    tenant: TenantName,
}

impl Vault {
    /// The vault of the tenant with this directory.
    pub fn of(tenant_dir: &Path, tenant: &TenantName) -> Self {
        Self { path: tenant_dir.join(FILE), tenant: tenant.clone() }
    }

    /// Whether there are secrets, or were any.
    pub fn exists(&self) -> bool {
        // One that cannot be examined counts: nothing is to be made in its place.
        self.path.try_exists().unwrap_or(true)
    }

    /// What the envelope says without being opened; `None` without one.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn header(&self) -> Result<Option<Header>, VaultError> {
        let Some(bytes) = self.read()? else { return Ok(None) };
        Header::read(&bytes).map(Some).map_err(|source| self.bad(source))
    }

    /// Opens the envelope; `None` without one.
    ///
    /// # Errors
    /// When it cannot be read or does not open with this key.
    pub fn open(&self, key: &HostKey) -> Result<Option<(Header, Contents)>, VaultError> {
        let Some(bytes) = self.read()? else { return Ok(None) };
        envelope::open(key, &self.tenant, &bytes).map(Some).map_err(|source| self.bad(source))
    }

    /// Replaces the envelope, durably.
    ///
    /// # Errors
    /// When it is not certain to be on disk; the old one is there then.
    pub fn write(&self, key: &HostKey, epoch: u64, contents: &Contents) -> Result<(), VaultError> {
        let sealed = envelope::seal(key, &self.tenant, epoch, contents);
        let sealed = sealed.map_err(|source| self.bad(source))?;
        Ok(file::write_durably(&self.path, &sealed)?)
    }

    /// Removes the envelope with all it holds, whether it opens or not.
    ///
    /// # Errors
    /// When it stays.
    pub fn remove(&self) -> Result<(), VaultError> {
        file::remove_file(&self.path)?;
        file::remove_file(&file::temporary(&self.path))?;
        Ok(self.path.parent().map_or(Ok(()), file::sync_dir)?)
    }

    fn read(&self) -> Result<Option<Vec<u8>>, VaultError> {
        let path = &self.path;
        let file = match File::open(path).doing("open", path) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        file.take(envelope::LARGEST + 1).read_to_end(&mut bytes).doing("read", path)?;
        match bytes.len() as u64 > envelope::LARGEST {
            true => Err(self.bad(EnvelopeError::Foreign)),
            false => Ok(Some(bytes)),
        }
    }

    fn bad(&self, source: EnvelopeError) -> VaultError {
        VaultError::Envelope { path: self.path.clone(), source }
    }
}
