//! Where things are on a host.
//!
//! ```text
//! /var/lib/mvm/  node-id  .lock
//!   tenants/<t>/tenant.json
//!   tenants/<t>/pools/<p>/pool.json  artifacts/{revisions/<digest>/…,current}
//!   tenants/<t>/pools/<p>/instances/<i>/{instance.json,data.img,config.img,snapshots/<n>/…}
//!   artifacts-cache/   image revisions and downloaded packages, shared by all pools
//!   jails/firecracker/<i>-<nonce>/root/   the roots of VMs that run   bin/  installed VMMs
//!   quarantine/<date>/ what 'doctor --repair' moved aside, with a note each
//! /run/mvm/      vm/<i>/{shim, sockets, console}  secrets/<i>.img  dns.sock  probe.json
//! /etc/mvm/      configuration and keys
//! ```
//!
//! Each can be moved by an environment variable, so that tests and several agents share a
//! machine.

use std::path::{Path, PathBuf};

use mvm_model::{InstanceId, PoolPath, TenantName};
use serde::{Deserialize, Serialize};

/// The directories one agent works in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirs {
    /// What must survive: `MVM_STATE_DIR`, else `/var/lib/mvm`.
    pub state: PathBuf,
    /// What a reboot may take: `MVM_RUN_DIR`, else `/run/mvm`.
    pub run: PathBuf,
    /// Configuration: `MVM_CONFIG_DIR`, else `/etc/mvm`.
    pub config: PathBuf,
    /// What can be made again: `MVM_CACHE_DIR`, else `<state>/artifacts-cache`.
    pub cache: PathBuf,
}

impl Dirs {
    /// The directories the environment asks for. `var` looks a variable up.
    pub fn from_env(var: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let dir = |name, default: PathBuf| match var(name) {
            Some(value) if !value.is_empty() => absolute(&PathBuf::from(value)),
            _ => default,
        };
        let state = dir("MVM_STATE_DIR", "/var/lib/mvm".into());
        Self {
            run: dir("MVM_RUN_DIR", "/run/mvm".into()),
            config: dir("MVM_CONFIG_DIR", "/etc/mvm".into()),
            cache: dir("MVM_CACHE_DIR", state.join("artifacts-cache")),
            state,
        }
    }

    /// All tenants.
    pub fn tenants(&self) -> PathBuf {
        self.state.join("tenants")
    }

    /// One tenant.
    pub fn tenant(&self, tenant: &TenantName) -> PathBuf {
        self.tenants().join(tenant.as_str())
    }

    /// One pool.
    pub fn pool(&self, pool: &PoolPath) -> PathBuf {
        self.tenant(&pool.tenant).join("pools").join(pool.pool.as_str())
    }

    /// One instance.
    pub fn instance(&self, pool: &PoolPath, instance: InstanceId) -> PathBuf {
        self.pool(pool).join("instances").join(instance.to_string())
    }

    /// The log of a VM's supervisor, which holds a lock on it while it lives.
    pub fn supervisor_log(&self, instance: InstanceId) -> PathBuf {
        self.run.join("vm").join(format!("{instance}.log"))
    }

    /// The roots of jailed VMs: on the file system of what is linked into them.
    pub fn jails(&self) -> PathBuf {
        self.state.join("jails")
    }

    /// Programs that `mvm bootstrap` installed.
    pub fn bin(&self) -> PathBuf {
        self.state.join("bin")
    }

    /// What belongs to an instance's VM while there is one.
    pub fn vm(&self, instance: InstanceId) -> PathBuf {
        self.run.join("vm").join(instance.to_string())
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_moves_every_directory() {
        let dirs =
            Dirs::from_env(|name| (name != "MVM_CACHE_DIR").then(|| format!("/t/{name}").into()));
        assert_eq!(dirs.state, Path::new("/t/MVM_STATE_DIR"));
        assert_eq!(dirs.run, Path::new("/t/MVM_RUN_DIR"));
        assert_eq!(dirs.cache, Path::new("/t/MVM_STATE_DIR/artifacts-cache"));
        assert_eq!(Dirs::from_env(|_| Some("".into())).state, Path::new("/var/lib/mvm"));
    }

    #[test]
    fn an_instance_is_below_its_pool_and_tenant() {
        let dirs = Dirs::from_env(|_| None);
        let pool: PoolPath = "acme/workers".parse().unwrap();
        assert_eq!(
            dirs.instance(&pool, InstanceId::from_bits(7)),
            Path::new("/var/lib/mvm/tenants/acme/pools/workers/instances/i-00000007")
        );
    }
}
