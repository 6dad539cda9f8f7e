//! Turns the machine off, after the answer left.

use std::process::{Command, Stdio};
use std::time::Duration;

use mvm_guest_proto::message::{Done, ErrorKind, Failure, Poweroff};

use crate::guest::{Guest, Place};
use crate::power;
use crate::session::{Session, Stream};

/// Grace processes have when the host does not say.
const GRACE_MS: u64 = 5000;
/// Longest grace a host can ask for.
const LONGEST_GRACE_MS: u64 = 600_000;

/// Whether the machine is ours to turn off.
pub(super) fn may(guest: &Guest) -> Result<Done, Failure> {
    let refused = |why| Err(Failure::new(ErrorKind::Refused, why));
    match &guest.place {
        Place::Init | Place::Service { poweroff: Some(_) } => Ok(Done {}),
        Place::Service { poweroff: None } => refused("the agent was given no power off command"),
        Place::Lodger => refused("this agent must not turn its machine off"),
    }
}

/// Turns it off, if it may.
pub(super) fn now(guest: &Guest, request: &Poweroff, session: &Session) {
    Stream::flushed(session, 500);
    let grace = request.grace_ms.unwrap_or(GRACE_MS).min(LONGEST_GRACE_MS);
    match &guest.place {
        Place::Init => power::power_off(guest, Duration::from_millis(grace)),
        Place::Service { poweroff: Some(argv) } => {
            let Some((program, arguments)) = argv.split_first() else {
                return;
            };
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
            if let Err(error) = guest.reaper.spawn(&mut command) {
                guest.note(&format!("cannot run {program}: {error}"));
            }
        }
        Place::Service { poweroff: None } | Place::Lodger => {}
    }
}
