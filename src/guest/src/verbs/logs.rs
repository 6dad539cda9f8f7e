//! Sends a log's end, and what follows.

use mvm_guest_proto::frame::DATA_CHUNK;
use mvm_guest_proto::message::{FROM_GUEST, LogSource, Logs, Transferred};

use super::Stop;
use crate::guest::Guest;
use crate::session::Stream;

/// Sends the log; with `follow`, until the host has enough.
pub(super) fn send(guest: &Guest, stream: &Stream, logs: &Logs) -> Result<Transferred, Stop> {
    let log = match logs.source {
        LogSource::Workload => &guest.workload.log,
        LogSource::Agent => &guest.log,
    };
    let mut position = log.position(logs.lines);
    let mut sent = 0;
    // Followed before read, so that nothing is missed in between.
    let waker = stream.waker();
    if logs.follow {
        log.follow(&waker);
    }
    loop {
        let (bytes, end) = log.read(position, DATA_CHUNK);
        position = end;
        sent += bytes.len() as u64;
        stream.send(FROM_GUEST, &bytes)?;
        if !bytes.is_empty() {
            continue;
        }
        if !logs.follow {
            return Ok(Transferred { bytes: sent });
        }
        while let Some(inbound) = stream.try_recv() {
            if inbound.is_end() {
                return Err(Stop::Gone);
            }
        }
        stream.wait();
    }
}
