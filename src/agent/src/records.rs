//! The records on disk: one JSON file per tenant, pool and instance.
//!
//! Reading tolerates: a record that cannot be read, or that is another object's, is a [`Problem`]
//! beside the others, never a reason not to see them. Writing is durable (see
//! [`mvm_host::file`]), and the version before stays beside it (`….json.bak`), for
//! `doctor --repair` alone: never older than one version, never read as if it were true. Who
//! writes holds the state lock, or for an existing instance's record the instance's lock.

use std::fs;
use std::path::{Path, PathBuf};

use mvm_host::file::{self, Context};
use mvm_model::record::{InstanceRecord, PoolRecord, SCHEMA_VERSION, TenantRecord};
use mvm_model::{InstanceId, PoolPath, TenantName};
use serde::Serialize;
use serde::de::DeserializeOwned;

mod leftover;
mod place;

pub(crate) use place::Placed;

use crate::dirs::Dirs;
use crate::error::{About, Error, Kind, Result};

/// A record that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What sort of problem: damaged, or of a newer version.
    pub kind: Kind,
}

/// What was read, and what could not be.
#[derive(Debug)]
pub struct Found<T> {
    /// The good records.
    pub records: Vec<T>,
    /// The others.
    pub problems: Vec<Problem>,
}

impl<T> Found<T> {
    /// The records, when all of them could be read: for what must not overlook one.
    ///
    /// # Errors
    /// [`Kind::Corrupt`], naming the first file that could not.
    pub fn all(self, object: impl std::fmt::Display, doing: &str) -> Result<Vec<T>> {
        match self.problems.first() {
            None => Ok(self.records),
            Some(first) => Err(Error::new(
                Kind::Corrupt,
                object,
                format!(
                    "cannot {doing} while {} cannot be read: {}",
                    first.path.display(),
                    first.problem
                ),
            )
            .hint(REPAIR)),
        }
    }
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { records: Vec::new(), problems: Vec::new() }
    }
}

/// Reads and writes records.
#[derive(Debug, Clone)]
pub struct Records {
    dirs: Dirs,
}

impl Records {
    /// The records below `dirs.state`.
    pub fn new(dirs: Dirs) -> Self {
        Self { dirs }
    }

    fn tenant_file(&self, tenant: &TenantName) -> PathBuf {
        self.dirs.tenant(tenant).join("tenant.json")
    }

    fn pool_file(&self, pool: &PoolPath) -> PathBuf {
        self.dirs.pool(pool).join("pool.json")
    }

    fn instance_file(&self, pool: &PoolPath, id: InstanceId) -> PathBuf {
        self.dirs.instance(pool, id).join("instance.json")
    }

    /// A tenant, if it exists.
    ///
    /// # Errors
    /// When its record cannot be used.
    pub fn tenant(&self, tenant: &TenantName) -> Result<Option<TenantRecord>> {
        load_placed(tenant, &self.tenant_file(tenant))
    }

    /// A pool, if it exists.
    ///
    /// # Errors
    /// When its record cannot be used.
    pub fn pool(&self, pool: &PoolPath) -> Result<Option<PoolRecord>> {
        load_placed(pool, &self.pool_file(pool))
    }

    /// An instance, if it exists.
    ///
    /// # Errors
    /// When its record cannot be used.
    pub fn instance(&self, pool: &PoolPath, id: InstanceId) -> Result<Option<InstanceRecord>> {
        let file = self.instance_file(pool, id);
        let found = load_placed(id, &file)?;
        match found {
            None if holds_data(&file) => Err(lost(id, &file)),
            found => Ok(found),
        }
    }

    /// All tenants, by name.
    pub fn tenants(&self) -> Found<TenantRecord> {
        scan(&self.dirs.tenants(), "tenant.json")
    }

    /// A tenant's pools, by name.
    pub fn pools(&self, tenant: &TenantName) -> Found<PoolRecord> {
        scan(&self.dirs.tenant(tenant).join("pools"), "pool.json")
    }

    /// A pool's instances, by offset.
    pub fn instances(&self, pool: &PoolPath) -> Found<InstanceRecord> {
        let mut found: Found<InstanceRecord> =
            scan(&self.dirs.pool(pool).join("instances"), "instance.json");
        found.records.sort_by_key(|record| record.offset);
        found
    }

    /// All instances of a tenant: pool by pool, by offset.
    pub fn tenant_instances(&self, tenant: &TenantName) -> Found<InstanceRecord> {
        let mut all = Found::default();
        for pool in subdirectories(&self.dirs.tenant(tenant).join("pools")) {
            let Some(pool) = pool.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            let found = self.instances(&PoolPath { tenant: tenant.clone(), pool });
            all.records.extend(found.records);
            all.problems.extend(found.problems);
        }
        all
    }

    /// Every instance on this host.
    pub fn all_instances(&self) -> Found<InstanceRecord> {
        let mut all = Found::default();
        for tenant in subdirectories(&self.dirs.tenants()) {
            let Some(tenant) = tenant.file_name().and_then(|name| name.to_str()?.parse().ok())
            else {
                continue;
            };
            let found = self.tenant_instances(&tenant);
            all.records.extend(found.records);
            all.problems.extend(found.problems);
        }
        all
    }

    /// Writes a tenant.
    ///
    /// # Errors
    /// When it is not certain to be on disk.
    pub fn put_tenant(&self, record: &TenantRecord) -> Result<()> {
        save(&record.tenant_id, &self.tenant_file(&record.tenant_id), record)
    }

    /// Writes a pool.
    ///
    /// # Errors
    /// When it is not certain to be on disk.
    pub fn put_pool(&self, record: &PoolRecord) -> Result<()> {
        save(record.path(), &self.pool_file(&record.path()), record)
    }

    /// Writes an instance.
    ///
    /// # Errors
    /// When it is not certain to be on disk.
    pub fn put_instance(&self, record: &InstanceRecord) -> Result<()> {
        save(record.path(), &self.instance_file(&record.pool_path(), record.instance_id), record)
    }

    /// Removes an object's directory with everything in it. One rename takes it away, so that a
    /// crash in the middle leaves no object, only space for the next removal or `node gc`.
    ///
    /// # Errors
    /// When something stays.
    pub fn remove(&self, object: impl std::fmt::Display, dir: &Path) -> Result<()> {
        let go = || {
            let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(()) };
            // Under a name no object has, so that what a crash leaves is found and removed by
            // the next removal beside it.
            let gone = parent.join(format!("{GONE}{}", name.to_string_lossy()));
            file::remove_dir(&gone)?;
            if dir.exists() {
                file::rename_durably(dir, &gone)?;
            }
            sweep(parent)
        };
        match go() {
            // Somebody else removed what this is in, and this with it.
            Err(_) if dir.parent().is_some_and(|parent| !parent.exists()) => Ok(()),
            other => other.about(object, "remove it"),
        }
    }
}

/// Prefix of directories that are on their way out.
pub(crate) const GONE: &str = ".gone-";

fn sweep(dir: &Path) -> std::result::Result<(), file::FileError> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(GONE) {
            file::remove_dir(&entry.path())?;
        }
    }
    file::sync_dir(dir)
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut dirs: Vec<_> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path())
        .collect();
    dirs.sort();
    dirs
}

fn scan<T: Placed>(dir: &Path, name: &str) -> Found<T> {
    let mut found = Found::default();
    for path in subdirectories(dir).into_iter().map(|dir| dir.join(name)) {
        match load_placed(path.display(), &path) {
            Ok(Some(record)) => found.records.push(record),
            Ok(None) => {}
            Err(error) => {
                let (problem, kind) = (error.chain(), error.kind);
                found.problems.push(Problem { path, problem, kind });
            }
        }
    }
    found
}

#[derive(serde::Deserialize)]
struct Versioned {
    schema_version: u32,
}

/// Reads a versioned document of ours; `None` when it is missing.
pub(crate) fn load<T: DeserializeOwned>(
    object: impl std::fmt::Display,
    path: &Path,
) -> Result<Option<T>> {
    let bytes = match fs::read(path).doing("read", path) {
        Err(error) if error.is_missing() => return Ok(None),
        other => other.about(&object, "read its record")?,
    };
    decode(&bytes).map(Some).map_err(|why| match why {
        Undecodable::Newer(version) => Error::new(
            Kind::NewerState,
            &object,
            format!("{} was written by a newer mvm (version {version}, this one knows {SCHEMA_VERSION})", path.display()),
        )
        .hint("use that version; this one leaves it alone"),
        Undecodable::Broken(error) => Error::new(Kind::Corrupt, &object, format!("{} is damaged", path.display()))
            .because(error)
            .hint(REPAIR),
    })
}

/// Whether an instance's directory holds drives or snapshots.
pub(crate) fn holds_data(file: &Path) -> bool {
    let Some(dir) = file.parent() else { return false };
    let snapshots = fs::read_dir(dir.join("snapshots")).into_iter().flatten();
    dir.join("data.img").exists() || snapshots.count() > 0
}

fn lost(id: InstanceId, file: &Path) -> Error {
    let dir = file.parent().unwrap_or(file).display();
    let text = format!("the record of {id} is gone; its drives are kept in {dir}");
    Error::new(Kind::Corrupt, id, text).hint(
        "'mvm doctor --repair' restores it from the version before, if there is one; else put \
         instance.json back, or create another instance and copy data.img into it while both are stopped",
    )
}

/// Reads a record; one that says that it belongs elsewhere is damaged: it was copied, or moved.
fn load_placed<T: Placed>(object: impl std::fmt::Display, path: &Path) -> Result<Option<T>> {
    let record: Option<T> = load(&object, path)?;
    match record.as_ref().and_then(|record| record.misplaced(path)) {
        None => Ok(record),
        Some(whose) => Err(Error::new(
            Kind::Corrupt,
            &object,
            format!("{} is the record of {whose}", path.display()),
        )
        .hint(REPAIR)),
    }
}

/// What to do about a record that cannot be used.
pub(crate) const REPAIR: &str = "'mvm doctor --repair' restores the version before it, or moves it aside and keeps the data; the other objects are not affected";

/// The name the version before keeps.
pub(crate) fn spare_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".bak");
    path.with_file_name(name)
}

/// The version of a record before the one at `path`, when it is good.
pub(crate) fn spare_of<T: Placed>(path: &Path) -> Option<T> {
    let record: T = decode(&fs::read(spare_path(path)).ok()?).ok()?;
    record.misplaced(path).is_none().then_some(record)
}

/// Keeps the version that is about to be replaced. One that cannot be kept is no reason not to
/// write the next; then there is none, rather than one that is too old.
fn keep_spare(path: &Path) {
    let (spare, beside) = (spare_path(path), file::temporary(&spare_path(path)));
    let _ = fs::remove_file(&beside);
    let kept = fs::hard_link(path, &beside).and_then(|()| fs::rename(&beside, &spare));
    // A rename onto another name of the same file does nothing: a write that failed left it so.
    let _ = fs::remove_file(&beside);
    let is_first = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    if kept.is_err_and(|error| !is_first(&error)) {
        let _ = fs::remove_file(&beside);
        let _ = fs::remove_file(&spare);
    }
}

enum Undecodable {
    Newer(u32),
    Broken(serde_json::Error),
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, Undecodable> {
    let versioned: Versioned = serde_json::from_slice(bytes).map_err(Undecodable::Broken)?;
    if versioned.schema_version > SCHEMA_VERSION {
        return Err(Undecodable::Newer(versioned.schema_version));
    }
    serde_json::from_slice(bytes).map_err(Undecodable::Broken)
}

fn save(object: impl std::fmt::Display, path: &Path, record: &impl Serialize) -> Result<()> {
    let write = || {
        path.parent().map_or(Ok(()), file::create_dir)?;
        let json = serde_json::to_vec_pretty(record)
            .map_err(std::io::Error::from)
            .doing("encode", path)?;
        keep_spare(path);
        file::write_durably(path, &json)
    };
    write().about(object, "write its record")
}

#[cfg(test)]
mod tests;
