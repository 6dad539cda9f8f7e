//! What is kept: room for it, who may read it, whether it can be read at all, what could go.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mvm_host::file;
use mvm_host::lock;
use mvm_host::secrets::{HostKey, KeyError};
use mvm_model::record::Millis;

use super::{Check, Health, when};
use crate::error::Kind;
use crate::records::{Problem, REPAIR};
use crate::service::{Service, now};

/// Images and a few snapshots, bytes.
const ROOM: u64 = 4 << 30;
/// Not enough to write records safely, bytes.
const NO_ROOM: u64 = 64 << 20;
/// Garbage nobody need be told of, bytes.
const UNTIDY: u64 = 1 << 30;
/// How far a record may be ahead of the clock, milliseconds.
const AHEAD: Millis = 60_000;
/// Records change in milliseconds; who holds the lock longer hangs.
const HOLDING: Duration = Duration::from_millis(400);

impl Service {
    pub(super) fn keeping(&self) -> Vec<Check> {
        vec![
            self.disk(),
            self.encryption(),
            self.readable(),
            self.times(),
            self.secret_key(),
            self.locks(),
            self.garbage(),
        ]
    }

    fn disk(&self) -> Check {
        let free = file::free_bytes(&self.dirs.state).unwrap_or(0);
        let health = match free {
            ROOM.. => Health::Good,
            NO_ROOM.. => Health::Warning,
            _ => Health::Bad,
        };
        let found = format!("{} MiB free at {}", free >> 20, self.dirs.state.display());
        Check::new("disk", health, found)
            .remedy("images and snapshots need a few GiB; 'mvm node disk' shows what takes space, 'mvm node gc' frees what nothing needs")
    }

    fn encryption(&self) -> Check {
        let encrypted = is_encrypted(&self.dirs.state);
        let found = match encrypted {
            true => "state is on encrypted storage".to_owned(),
            false => format!("{} is not on a dm-crypt device", self.dirs.state.display()),
        };
        Check::new("encryption", when(encrypted, Health::Warning), found)
            .remedy("snapshots hold guests' memory: put the state directory on an encrypted disk, or waive it in host.json: \"waive\": [\"encryption\"]")
            .mandatory()
    }

    /// Every record that cannot be used.
    pub(crate) fn record_problems(&self) -> Vec<Problem> {
        let tenants = self.records.tenants();
        let mut problems = tenants.problems;
        for tenant in &tenants.records {
            problems.extend(self.records.pools(&tenant.tenant_id).problems);
        }
        problems.extend(self.records.all_instances().problems);
        problems
    }

    fn readable(&self) -> Check {
        readable(&self.record_problems())
    }

    /// A record from the future: the clock was set back, or the state came from elsewhere.
    fn times(&self) -> Check {
        let newest = self.records.all_instances().records.iter().map(|record| record.since).max();
        let ahead = newest.is_some_and(|newest| newest > now() + AHEAD);
        let found = match ahead {
            false => "no record is ahead of the clock",
            true => "records are ahead of the clock: it was set back",
        };
        Check::new("times", when(!ahead, Health::Warning), found)
            .remedy("check the clock; ages and idle times are wrong until it has caught up")
    }

    fn secret_key(&self) -> Check {
        let (health, found) = match HostKey::load(&self.dirs.config) {
            Ok(_) => (Health::Good, "readable by root alone".into()),
            Err(KeyError::Missing { .. }) if !self.has_sealed_secrets() => {
                (Health::Good, "none yet; made with the first secret".into())
            }
            Err(error) => (Health::Bad, error.to_string()),
        };
        let path = self.dirs.config.join("secret.key");
        let remedy = format!(
            "restore {} from a backup, owned by root, mode 0400; without it tenants' secrets cannot be read",
            path.display()
        );
        Check::new("secret key", health, found).remedy(remedy)
    }

    fn has_sealed_secrets(&self) -> bool {
        let tenants = fs::read_dir(self.dirs.tenants()).into_iter().flatten().flatten();
        tenants.into_iter().any(|tenant| tenant.path().join("secrets.sealed").exists())
    }

    /// The kernel frees a dead holder's lock, so one that stays held has a living holder.
    fn locks(&self) -> Check {
        let path = lock::path_in(&self.dirs.state);
        let first = lock::holder(&path);
        if first.is_some() {
            std::thread::sleep(HOLDING);
        }
        match first.filter(|first| lock::holder(&path).as_ref() == Some(first)) {
            None => Check::new("locks", Health::Good, "nobody keeps others from changing records"),
            Some(holder) => Check::new(
                "locks",
                Health::Warning,
                format!("{holder} does not let go of the records"),
            )
            .remedy("wait for it; if it hangs, end that process: nothing is lost"),
        }
    }

    fn garbage(&self) -> Check {
        let bytes = match self.find_garbage() {
            Ok(garbage) => garbage.iter().map(|garbage| garbage.bytes).sum::<u64>(),
            Err(error) => return Check::new("garbage", Health::Warning, error.chain()),
        };
        let last = match self.last_gc() {
            Some(at) => format!("last collected {} h ago", now().saturating_sub(at) / 3_600_000),
            None => "never collected".into(),
        };
        let found = format!("{} MiB nothing needs, {last}", bytes >> 20);
        Check::new("garbage", when(bytes < UNTIDY, Health::Warning), found).remedy("mvm node gc")
    }
}

/// A record of a newer version is no damage: that version is what is missing.
fn readable(problems: &[Problem]) -> Check {
    let Some(first) = problems.first() else {
        return Check::new("records", Health::Good, "all readable");
    };
    let found = format!(
        "{} cannot be used, first {}: {}",
        problems.len(),
        first.path.display(),
        first.problem
    );
    let remedy = match first.kind {
        Kind::NewerState => "use the newer mvm that wrote it; this one leaves it alone",
        _ => REPAIR,
    };
    Check::new("records", Health::Bad, found).remedy(remedy)
}

/// Whether the file system below `path` is on a dm-crypt device, directly or through others.
fn is_encrypted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = path.metadata() else { return false };
    let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
    is_crypt_device(&Path::new("/sys/dev/block").join(format!("{major}:{minor}")), 8)
}

fn is_crypt_device(device: &Path, depth: u8) -> bool {
    let uuid = fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
    if uuid.starts_with("CRYPT-") || depth == 0 {
        return depth > 0;
    }
    let below = fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
    let mut below = below.map(|entry| entry.path()).peekable();
    below.peek().is_some() && below.all(|device| is_crypt_device(&device, depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryption_is_found_through_stacked_devices() {
        let dir = tempfile::tempdir().unwrap();
        let (top, below) = (dir.path().join("dm-1"), dir.path().join("dm-1/slaves/dm-0"));
        fs::create_dir_all(below.join("dm")).unwrap();
        fs::create_dir_all(top.join("dm")).unwrap();
        fs::write(top.join("dm/uuid"), "LVM-x").unwrap();
        assert!(!is_crypt_device(&top, 8));
        fs::write(below.join("dm/uuid"), "CRYPT-LUKS2-x").unwrap();
        assert!(is_crypt_device(&top, 8));
    }
}
