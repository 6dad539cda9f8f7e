//! One change to the network at a time among the mvm processes of one run directory.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::error::NetError;

const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(5);

/// Takes the lock; dropped, it is free again, also when the process dies.
pub(super) async fn take(dir: &Path) -> Result<Flock<File>, NetError> {
    let path = dir.join("lock");
    let state = |source| NetError::State { doing: "open", path: path.clone(), source };
    std::fs::create_dir_all(dir).map_err(state)?;
    let open =
        || OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let mut file = open().map_err(state)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, _)) if Instant::now() < deadline => file,
            Err(_) => return Err(NetError::Busy(path)),
        };
        tokio::time::sleep(RETRY).await;
    }
}
