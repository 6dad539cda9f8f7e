//! Operations: what changes things, under an id, going on when its caller leaves.
//!
//! Each keeps the events it sent, so that whoever watches sees all of it, late or not. The last
//! ones that ended are remembered for as long as the agent runs.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mvm_api::Request;
use mvm_api::agent::{Ended, Operation};
use mvm_api::wire::Event;
use tokio::sync::watch;

use crate::service::{now, random};

/// So many ended operations are remembered.
const REMEMBERED: usize = 256;
/// So many signs of life of one operation are kept; the ones in the middle go.
const KEPT_EVENTS: usize = 1000;

/// All operations of an agent.
#[derive(Default)]
pub struct Operations {
    all: Mutex<VecDeque<Arc<Running>>>,
}

/// One operation.
pub struct Running {
    about: Operation,
    /// Raised to stop it where it is safe.
    pub cancel: Arc<AtomicBool>,
    log: Mutex<Log>,
    /// Counts what was added to the log.
    grown: watch::Sender<u64>,
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    ended: Option<Ended>,
}

impl Operations {
    /// Begins one.
    pub fn begin(&self, request: &Request, by: u32) -> Arc<Running> {
        // Unpredictable, so that an id of an agent before this one names nothing.
        let id = format!("op-{:08x}", random::<u32>());
        let about = Operation {
            id: id.clone(),
            name: request.name().into(),
            verb: request.verb(),
            object: request.object(),
            by,
            started_at: now(),
            ended: None,
        };
        let running = Arc::new(Running {
            about,
            cancel: Arc::default(),
            log: Mutex::new(Log { events: vec![Event::Operation(id)], ended: None }),
            grown: watch::Sender::new(1),
        });
        let mut all = lock(&self.all);
        all.push_back(running.clone());
        while all.len() > REMEMBERED {
            let Some(oldest) = all.iter().position(|one| one.ended().is_some()) else { break };
            all.remove(oldest);
        }
        running
    }

    /// One by its id.
    pub fn get(&self, id: &str) -> Option<Arc<Running>> {
        lock(&self.all).iter().find(|one| one.about.id == id).cloned()
    }

    /// All that are remembered, oldest first.
    pub fn list(&self) -> Vec<Operation> {
        let told = |one: &Arc<Running>| Operation { ended: one.ended(), ..one.about.clone() };
        lock(&self.all).iter().map(told).collect()
    }

    /// Waits until none is on its way.
    pub async fn all_ended(&self) {
        let running: Vec<_> = lock(&self.all).iter().cloned().collect();
        for one in running {
            let mut grown = one.grown.subscribe();
            let _ = grown.wait_for(|_| one.ended().is_some()).await;
        }
    }
}

impl Running {
    fn ended(&self) -> Option<Ended> {
        lock(&self.log).ended.clone()
    }

    /// Adds a sign of life or the end.
    pub fn add(&self, event: Event) {
        let mut log = lock(&self.log);
        match &event {
            Event::Reply(_) => log.ended = Some(Ended::Done { at: now() }),
            Event::Failed(failure) => {
                log.ended = Some(Ended::Failed { at: now(), message: failure.message.clone() });
            }
            Event::Progress(new) => {
                // A counter that moved is one sign of life, not many.
                if let Some(Event::Progress(last)) = log.events.last()
                    && last.what == new.what
                {
                    log.events.pop();
                }
                if log.events.len() >= KEPT_EVENTS {
                    log.events.remove(KEPT_EVENTS / 2);
                }
            }
            Event::Operation(_) => {}
        }
        log.events.push(event);
        drop(log);
        self.grown.send_modify(|count| *count += 1);
    }

    /// Every event, the ones so far and the ones to come.
    pub fn follow(self: Arc<Self>) -> Follower {
        let grown = self.grown.subscribe();
        Follower { of: self, grown, ready: VecDeque::new(), last: None, over: false }
    }

    /// What came after the last event that was sent.
    fn since(&self, last: Option<&Event>) -> (VecDeque<Event>, bool) {
        let log = lock(&self.log);
        let from = match last {
            None => 0,
            Some(last) => match log.events.iter().rposition(|event| event == last) {
                Some(at) => at + 1,
                // It was replaced by a newer sign of the same step.
                None => log.events.len().saturating_sub(1),
            },
        };
        (log.events[from..].iter().cloned().collect(), log.ended.is_some())
    }
}

/// Reads an operation's events.
pub struct Follower {
    of: Arc<Running>,
    grown: watch::Receiver<u64>,
    ready: VecDeque<Event>,
    last: Option<Event>,
    over: bool,
}

impl Follower {
    /// The next event; `None` after the end.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last = Some(event.clone());
                return Some(event);
            }
            if self.over {
                return None;
            }
            self.grown.mark_unchanged();
            (self.ready, self.over) = self.of.since(self.last.as_ref());
            if self.ready.is_empty() && !self.over {
                self.grown.changed().await.ok()?;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvm_api::wire::Progress;
    use mvm_api::{Failure, Kind};

    fn sign(what: &str, done: u64) -> Event {
        Event::Progress(Progress { what: what.into(), done, total: None })
    }

    fn start() -> Request {
        let body = br#"{"instance": "acme/workers/alice", "verb": "start"}"#;
        Request::decode("instance/change", body).unwrap()
    }

    async fn seen(one: Arc<Running>) -> Vec<Event> {
        let (mut seen, mut following) = (Vec::new(), one.follow());
        while let Some(event) = following.next().await {
            seen.push(event);
        }
        seen
    }

    #[tokio::test]
    async fn whoever_watches_late_sees_all_of_it() {
        let operations = Operations::default();
        let one = operations.begin(&start(), 0);
        (0..5).for_each(|n| one.add(sign("copy", n)));
        one.add(sign("pack", 0));
        one.add(Event::Reply(7.into()));
        let all = seen(one).await;
        let id = Event::Operation(operations.list()[0].id.clone());
        assert_eq!(all, [id, sign("copy", 4), sign("pack", 0), Event::Reply(7.into())]);
        let told = &operations.list()[0];
        assert!(matches!(told.ended, Some(Ended::Done { .. })));
        assert_eq!((&*told.verb, &*told.object), ("start", "acme/workers/alice"));
    }

    #[tokio::test]
    async fn a_watcher_gets_what_comes_and_may_leave() {
        let operations = Operations::default();
        let one = operations.begin(&start(), 0);
        let watching = tokio::spawn(seen(one.clone()));
        drop(one.clone().follow());
        for step in ["a", "b"] {
            one.add(sign(step, 0));
            tokio::task::yield_now().await;
        }
        let failure =
            Failure { kind: Kind::Busy, message: "no".into(), object: "".into(), hint: None };
        one.add(Event::Failed(failure.clone()));
        operations.all_ended().await;
        assert_eq!(watching.await.unwrap().last(), Some(&Event::Failed(failure)));
    }

    #[test]
    fn what_is_on_its_way_is_never_forgotten() {
        let operations = Operations::default();
        let first = operations.begin(&start(), 0);
        for _ in 0..2 * REMEMBERED {
            operations.begin(&start(), 0).add(Event::Reply(1.into()));
        }
        assert!(operations.list().len() <= REMEMBERED);
        assert!(operations.get(&first.about.id).is_some());
        assert!(first.ended().is_none());
    }
}
