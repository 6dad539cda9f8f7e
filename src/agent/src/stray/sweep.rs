//! The agent's sweep: takes away what nothing needs and nobody would miss.
//!
//! Only what holds no data ([`Verdict::Reclaim`]), and only what two looks at least a minute apart
//! found: what somebody is just making, or just removing, is gone or explained by then. The rest
//! is for `doctor --repair`, which a person reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mvm_api::repair::{Outcome, Verdict};

use super::MIN_AGE;
use crate::error::Result;
use crate::service::Service;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(90);

/// What the last look found, and since when.
#[derive(Debug, Default)]
struct Memory(BTreeMap<String, Instant>);

impl Memory {
    /// Notes what is found now; answers what was there all the time for long enough.
    fn due(&mut self, found: impl Iterator<Item = String>, now: Instant) -> Vec<String> {
        let now_found: BTreeMap<_, _> = found
            .map(|object| {
                let since = self.0.get(&object).copied().unwrap_or(now);
                (object, since)
            })
            .collect();
        self.0 = now_found;
        let old = self.0.iter().filter(|(_, since)| now.duration_since(**since) >= MIN_AGE);
        old.map(|(object, _)| object.clone()).collect()
    }
}

/// Looks again and again, until it is told to stop.
pub(crate) async fn watch(service: Service, stopping: Arc<AtomicBool>) {
    let mut memory = Memory::default();
    while !stopping.load(Ordering::SeqCst) {
        // A panic ends this look, not the next ones.
        let (service, mut seen) = (service.clone(), std::mem::take(&mut memory));
        let look = tokio::spawn(async move { (service.sweep(&mut seen).await, seen) });
        match look.await {
            Ok((outcome, seen)) => {
                memory = seen;
                if let Err(error) = outcome {
                    tracing::warn!(error = error.chain(), "cannot look for what nothing needs");
                }
            }
            Err(error) => tracing::error!(%error, "looking for what nothing needs failed"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

impl Service {
    async fn sweep(&self, memory: &mut Memory) -> Result<()> {
        let (mut cases, known) = self.cases(MIN_AGE).await?;
        cases.retain(|case| case.stray.verdict == Verdict::Reclaim);
        let objects = cases.iter().map(|case| case.stray.object.clone());
        let due = memory.due(objects, Instant::now());
        for case in cases.iter().filter(|case| due.contains(&case.stray.object)) {
            let (object, why) = (&case.stray.object, &case.stray.why);
            match self.carry_out(case, &known).await {
                Outcome::Done { .. } => tracing::info!(object, why, "nothing needed it; removed"),
                Outcome::Failed { message } => tracing::warn!(object, message, "stays"),
                Outcome::Gone | Outcome::Planned => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_two_looks_a_minute_apart_find_is_due() {
        let mut memory = Memory::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let names = |names: &[&str]| names.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(memory.due(names(&["a", "b"]).into_iter(), at(0)).is_empty());
        assert!(memory.due(names(&["a"]).into_iter(), at(59)).is_empty());
        // What was gone in between is new.
        assert_eq!(memory.due(names(&["a", "b"]).into_iter(), at(90)), names(&["a"]));
        assert_eq!(memory.due(names(&["b"]).into_iter(), at(150)), names(&["b"]));
    }
}
