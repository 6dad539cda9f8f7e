//! Changing the secrets of a guest that runs.
//!
//! ```text
//!  release: unmount, forget the device ─► (the host writes the drive) ─► mount: what is there now
//! ```
//!
//! While a process holds a file of the old secrets nothing changes: it would go on with the old
//! file system, and nobody could mount the new one beside it. In between there are no secrets;
//! who opens a file then finds none and tries again.

use std::sync::{Arc, PoisonError};

use mvm_guest_proto::message::{ErrorKind, Failure, SecretsMounted, SecretsStep};

use super::sleep;
use crate::drives::Drive;
use crate::guest::Guest;

/// Takes a step.
pub(super) fn step(guest: &Arc<Guest>, step: &SecretsStep) -> Result<SecretsMounted, Failure> {
    sleep::owns_machine(guest)?;
    let _turn = guest.sleep.lock().unwrap_or_else(PoisonError::into_inner);
    match step {
        SecretsStep::Release => release(guest),
        SecretsStep::Mount { epoch } => mount(guest, *epoch),
    }
}

fn release(guest: &Guest) -> Result<SecretsMounted, Failure> {
    sleep::unmount_patiently(Drive::Secrets).map_err(|error| {
        let at = Drive::Secrets.mount_point();
        Failure::new(ErrorKind::Refused, format!("cannot unmount {at}: {error}"))
    })?;
    guest.life().secrets_epoch = 0;
    Ok(SecretsMounted::default())
}

fn mount(guest: &Guest, epoch: u64) -> Result<SecretsMounted, Failure> {
    if !Drive::Secrets.is_mounted() {
        let mounted = guest.mount(Drive::Secrets);
        mounted.map_err(|why| Failure::new(ErrorKind::Failed, why))?;
    }
    let uuid = Drive::Secrets.uuid();
    guest.life().secrets_epoch = if uuid.is_some() { epoch } else { 0 };
    Ok(SecretsMounted { uuid })
}
