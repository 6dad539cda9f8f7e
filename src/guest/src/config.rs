//! Reads the config drive's document.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use mvm_guest_proto::config::{FILE, GuestConfig, MAX_SIZE};

use crate::drives::CONFIG_DIR;

/// The configuration on the mounted config drive.
///
/// # Errors
/// For people: what is wrong with it.
pub(crate) fn read() -> Result<GuestConfig, String> {
    let path = Path::new(CONFIG_DIR).join(FILE);
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(format!("{}: larger than {MAX_SIZE} bytes", path.display()));
    }
    GuestConfig::from_bytes(&bytes).map_err(|error| error.to_string())
}
