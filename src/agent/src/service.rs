//! The agent's service: every operation on tenants, pools and instances of this host.
//!
//! The CLI calls it in its own process; a daemon will call the same methods for others. Two
//! locks keep callers apart: the *state lock*, held only while records change, and one lock per
//! instance, held through a transition. Streams (shell, exec, cp, logs) hold none.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mvm_host::facts;
use mvm_host::file;
use mvm_host::lock::{self, Lock};
use mvm_host::net::Net;
use mvm_model::record::{InstanceRecord, Millis, PoolRecord, TenantRecord};
use mvm_model::{InstancePath, PoolPath, TenantName};

use crate::dirs::Dirs;
use crate::error::{About, Error, Kind, Result};
use crate::records::Records;

/// How long we wait for somebody who changes records; they take milliseconds.
const STATE_PATIENCE: Duration = Duration::from_secs(10);

/// Everything the agent can do.
#[derive(Debug, Clone)]
pub struct Service {
    /// Where things are.
    pub dirs: Dirs,
    /// The records on disk.
    pub records: Records,
    /// The `mvm` binary, which is also the shim, the resolver and the confining trampoline.
    pub exe: PathBuf,
    /// Who we are in lock files: `mvm instance sleep`.
    pub who: String,
    /// The person who asked, when it is not who runs this process.
    pub person: Option<String>,
}

impl Service {
    /// A service on these directories. `exe` is the running `mvm`, `who` names it in lock files.
    ///
    /// # Errors
    /// When the state or run directory cannot be created.
    pub fn open(dirs: Dirs, exe: PathBuf, who: String) -> Result<Self> {
        crate::failpoint::arm("mvm");
        for dir in [&dirs.state, &dirs.run, &dirs.cache, &dirs.tenants()] {
            file::create_dir(dir).about("", "prepare mvm's directories")?;
        }
        Ok(Self { records: Records::new(dirs.clone()), dirs, exe, who, person: None })
    }

    /// The same for somebody else: who is named in the audit log.
    #[must_use]
    pub fn on_behalf(&self, person: &str) -> Self {
        Self { who: "mvm agent".into(), person: Some(person.to_owned()), ..self.clone() }
    }

    /// This host's id.
    ///
    /// # Errors
    /// When it was never stored and cannot be.
    pub fn node_id(&self) -> Result<String> {
        facts::node_id(&self.dirs.state, || format!("{:016x}", random::<u64>()))
            .about("", "keep this host's id")
    }

    /// The kernel's network, as far as it is ours.
    ///
    /// # Errors
    /// When netlink refuses.
    pub async fn net(&self) -> Result<Net> {
        Net::open(&self.node_id()?, &self.dirs.run).await.about("", "open the host's network")
    }

    /// Keeps others from changing records until dropped.
    ///
    /// # Errors
    /// After ten seconds, naming the holder.
    pub async fn lock_state(&self) -> Result<Lock> {
        Lock::take(&lock::path_in(&self.dirs.state), &self.who, STATE_PATIENCE)
            .await
            .about("", "change records")
    }

    /// A tenant that must exist.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or what reading it said.
    pub fn tenant(&self, tenant: &TenantName) -> Result<TenantRecord> {
        self.records.tenant(tenant)?.ok_or_else(|| {
            self.records.end_removals(&self.dirs.tenants());
            Error::new(Kind::NotFound, tenant, format!("there is no tenant {tenant}"))
                .hint("'mvm tenant list --all' shows those there are")
        })
    }

    /// A pool that must exist.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or what reading it said.
    pub fn pool(&self, pool: &PoolPath) -> Result<PoolRecord> {
        self.tenant(&pool.tenant)?;
        self.records.pool(pool)?.ok_or_else(|| {
            self.records.end_removals(&self.dirs.tenant(&pool.tenant).join("pools"));
            Error::new(Kind::NotFound, pool, format!("there is no pool {pool}"))
                .hint(format!("'mvm pool list {}' shows those there are", pool.tenant))
        })
    }

    /// An instance that must exist, by id or name.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or what reading it said.
    pub fn instance(&self, path: &InstancePath) -> Result<InstanceRecord> {
        use mvm_model::id::InstanceRef;
        let found = match &path.instance {
            InstanceRef::Id(id) => self.records.instance(&path.pool, *id)?,
            InstanceRef::Name(name) => {
                let all = self.records.instances(&path.pool).records;
                all.into_iter().find(|record| record.name.as_ref() == Some(name))
            }
        };
        if let Some(record) = found {
            return Ok(record);
        }
        // Say what is missing first: the tenant, the pool, or only the instance.
        self.pool(&path.pool)?;
        self.records.end_removals(&self.dirs.pool(&path.pool).join("instances"));
        Err(Error::new(Kind::NotFound, path, format!("there is no instance {path}")).hint(format!(
            "'mvm instance list --tenant {}' shows those there are",
            path.pool.tenant
        )))
    }

    /// Where an instance's files are.
    pub fn instance_dir(&self, record: &InstanceRecord) -> PathBuf {
        self.dirs.instance(&record.pool_path(), record.instance_id)
    }
}

/// Milliseconds since the Unix epoch.
pub fn now() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
}

/// A number nobody can predict.
pub fn random<T: FromRandom>() -> T {
    T::from_random()
}

/// What [`random`] can draw.
pub trait FromRandom {
    /// Draws one.
    fn from_random() -> Self;
}

impl FromRandom for u32 {
    fn from_random() -> Self {
        u64::from_random() as Self
    }
}

impl FromRandom for u64 {
    fn from_random() -> Self {
        let mut bytes = [0; 8];
        // The kernel's generator does not fail once it is seeded, and a host that runs us has
        // booted; were it to, going on with a constant would hand out one id twice.
        #[expect(clippy::expect_used, reason = "no sane way to go on without randomness")]
        getrandom::fill(&mut bytes).expect("the kernel's random number generator failed");
        Self::from_le_bytes(bytes)
    }
}
