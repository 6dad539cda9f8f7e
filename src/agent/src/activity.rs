//! Since when a guest does nothing: a cheap, honest guess from outside.
//!
//! The agent samples what each running VM used (CPU time of its VMM, packets through its tap)
//! whenever it looks at the host, and compares with the sample before. A VM was idle in between
//! when it used less than 5 % of one CPU and exchanged less than one packet a second, and nobody
//! had a shell, command, copy or port open in it ([`visit`](crate::visit)). It is idle since the
//! first of the idle samples that follow one another.
//!
//! What this cannot see: a guest that waits for a slow answer looks idle, one whose clock ticks a
//! lot looks busy. Both are why pools say themselves when idleness counts (`idle`), and why
//! without that nothing is ever sampled.
//!
//! Samples are kept in `<run>/activity.json`: who looks next may be another process. Losing them
//! makes everybody busy again.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use mvm_host::file;
use mvm_model::InstanceId;
use mvm_model::record::{InstanceRecord, Millis};
use mvm_model::vm::ProcessId;
use serde::{Deserialize, Serialize};

use crate::service::Service;
use crate::stats::{cpu_ms, link_counter};

/// The shortest time between two samples that are compared, milliseconds.
const LEAST: u64 = 5000;
/// CPU an idle VM uses at most, percent of one CPU.
const CPU_PERCENT: u64 = 5;
/// Packets an idle VM exchanges at most, per second.
const PACKETS: u64 = 1;

/// What a VM had used at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    at: Millis,
    /// Another process counts from zero.
    process: ProcessId,
    cpu_ms: u64,
    packets: u64,
    /// When somebody last opened something in its guest.
    #[serde(default)]
    opened: Option<Millis>,
    /// Somebody has something open in its guest.
    #[serde(default)]
    visited: bool,
    /// Since when it is idle; `None` while it works.
    idle_since: Option<Millis>,
}

/// Compares a sample with the one before; the result is the one to keep.
fn compare(before: Option<&Sample>, fresh: Sample) -> Sample {
    let same = before.filter(|before| before.process == fresh.process);
    // One from the future was taken before the clock was set back: it says nothing.
    let Some(before) = same.filter(|before| before.at <= fresh.at) else { return fresh };
    let passed = fresh.at - before.at;
    let visited = fresh.visited || fresh.opened > before.opened;
    if passed < LEAST && !visited {
        return before.clone();
    }
    let cpu = fresh.cpu_ms.saturating_sub(before.cpu_ms);
    let packets = fresh.packets.saturating_sub(before.packets);
    let busy = cpu * 100 > passed * CPU_PERCENT || packets * 1000 > passed * PACKETS || visited;
    let idle_since = if busy { None } else { before.idle_since.or(Some(before.at)) };
    Sample { idle_since, ..fresh }
}

/// The samples of all running instances that may be parked.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    before: BTreeMap<InstanceId, Sample>,
    now: BTreeMap<InstanceId, Sample>,
}

impl Activity {
    /// Samples an instance that runs, and says since when it is idle.
    pub(crate) fn sample(
        &mut self,
        service: &Service,
        record: &InstanceRecord,
        now: Millis,
    ) -> Option<Millis> {
        let process = record.state.vm()?.process.clone();
        let tap = record.tap();
        let fresh = Sample {
            at: now,
            cpu_ms: cpu_ms(process.pid)?,
            packets: link_counter(&tap, "rx_packets") + link_counter(&tap, "tx_packets"),
            opened: service.last_visited(record),
            visited: service.is_visited(record),
            process,
            idle_since: None,
        };
        let kept = compare(self.before.get(&record.instance_id), fresh);
        let idle_since = kept.idle_since;
        self.now.insert(record.instance_id, kept);
        idle_since
    }
}

impl Service {
    fn activity_file(&self) -> PathBuf {
        self.dirs.run.join("activity.json")
    }

    /// The samples taken before.
    pub(crate) fn activity(&self) -> Activity {
        let read = fs::read(self.activity_file()).unwrap_or_default();
        Activity { before: serde_json::from_slice(&read).unwrap_or_default(), now: BTreeMap::new() }
    }

    /// Keeps the samples for who looks next. Failing costs a round of idleness, no more.
    pub(crate) fn keep_activity(&self, activity: Activity) {
        if activity.now == activity.before {
            return;
        }
        let json = serde_json::to_vec(&activity.now).unwrap_or_default();
        if let Err(error) = file::write_durably(&self.activity_file(), &json) {
            tracing::warn!(%error, "samples of activity are not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, cpu_ms: u64, packets: u64) -> Sample {
        let process = ProcessId { pid: 7, start_ticks: 1, boot_id: "b".into() };
        Sample {
            at: seconds * 1000,
            process,
            cpu_ms,
            packets,
            opened: None,
            visited: false,
            idle_since: None,
        }
    }

    fn idle(samples: impl IntoIterator<Item = Sample>) -> Option<u64> {
        let mut kept = None;
        for sample in samples {
            kept = Some(compare(kept.as_ref(), sample));
        }
        kept.and_then(|kept| kept.idle_since)
    }

    #[test]
    fn idle_since_the_first_of_the_idle_samples() {
        assert_eq!(idle([at(100, 0, 0)]), None);
        assert_eq!(idle([at(100, 0, 0), at(130, 300, 9), at(160, 600, 20)]), Some(100_000));
        assert_eq!(idle([at(100, 0, 0), at(130, 9000, 9), at(160, 9100, 20)]), Some(130_000));
    }

    #[test]
    fn work_traffic_and_visitors_end_it() {
        let first = [at(100, 0, 0), at(130, 0, 0)];
        let then = |last: Sample| idle(first.iter().cloned().chain([last]));
        assert_eq!(then(at(160, 0, 0)), Some(100_000));
        assert_eq!(then(at(160, 2000, 0)), None);
        assert_eq!(then(at(160, 0, 31)), None);
        assert_eq!(then(Sample { opened: Some(1), ..at(131, 0, 0) }), None);
    }

    #[test]
    fn an_open_visit_is_activity_for_as_long_as_it_lasts() {
        let visited = |seconds| Sample { visited: true, ..at(seconds, 0, 0) };
        assert_eq!(idle([at(100, 0, 0), visited(130), visited(160), visited(3600)]), None);
        assert_eq!(idle([visited(100), visited(3600), at(3630, 0, 0)]), Some(3_600_000));
    }

    #[test]
    fn what_cannot_be_compared_says_nothing() {
        let other = ProcessId { pid: 8, start_ticks: 1, boot_id: "b".into() };
        let restarted = Sample { process: other, ..at(130, 0, 0) };
        assert_eq!(idle([at(100, 0, 0), restarted]), None);
        // The clock was set back.
        assert_eq!(idle([at(100, 0, 0), at(50, 0, 0)]), None);
        // Too soon: the older sample stays, so that a later one has something to compare with.
        assert_eq!(idle([at(100, 0, 0), at(102, 1000, 0), at(130, 1200, 0)]), Some(100_000));
    }
}
