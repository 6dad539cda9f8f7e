use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::door::SWEEP;
use super::*;

fn ticket(order: u64, tenant: &str) -> Ticket {
    Ticket { order, tenant: tenant.into(), owner: "1-1".into() }
}

#[test]
fn the_turn_goes_round() {
    let waiting = [ticket(1, "a"), ticket(2, "a"), ticket(3, "b"), ticket(4, "c")];
    let (mut left, mut turns, mut went) = (waiting.to_vec(), Vec::new(), String::new());
    while let Some(first) = next(&left, 0, 1, &turns).cloned() {
        left.retain(|other| *other != first);
        take_turn(&mut turns, &first.tenant);
        went.push_str(&first.tenant);
    }
    assert_eq!(went, "abca");
    assert_eq!(next(&waiting, 3, 3, &[]), None);
}

#[test]
fn a_ticket_survives_its_name() {
    let ticket = Ticket::new("acme-2");
    assert_eq!(Ticket::parse(&ticket.name('w')), Some(('w', ticket.clone())));
    for other in ["lock", "turns", "x.1.a.1", "w.x.a.1", "w.1.a"] {
        assert_eq!(Ticket::parse(other), None, "{other}");
    }
}

proptest! {
    /// Whatever comes when: never more than there are places, a tenant's own order holds, and
    /// whoever is first of its tenant sees every other tenant go before it once at most.
    #[test]
    fn nobody_starves(
        events in prop::collection::vec((0_u8..5, any::<bool>()), 1..200),
        places in 1_usize..5,
    ) {
        let mut waiting: Vec<Ticket> = Vec::new();
        let (mut running, mut turns) = (Vec::new(), Vec::new());
        // Per tenant that waits: whom its first ticket has seen go.
        let mut passed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let drain = events.len() * 2;
        for step in 0..events.len() + drain {
            match events.get(step) {
                Some((tenant, true)) => {
                    waiting.push(ticket(step as u64, &format!("t{tenant}")));
                }
                // Everybody who runs ends some day.
                _ => drop(running.pop()),
            }
            while let Some(first) = next(&waiting, running.len(), places, &turns).cloned() {
                waiting.retain(|other| *other != first);
                take_turn(&mut turns, &first.tenant);
                prop_assert!(last.insert(first.tenant.clone(), first.order) < Some(first.order));
                passed.remove(&first.tenant);
                for other in waiting.iter().map(|ticket| &ticket.tenant) {
                    let seen = passed.entry(other.clone()).or_default();
                    if *other != first.tenant && seen.last() != Some(&first.tenant) {
                        prop_assert!(!seen.contains(&first.tenant), "{other}: {seen:?}");
                        seen.push(first.tenant.clone());
                    }
                }
                passed.remove(&first.tenant);
                running.push(first);
                prop_assert!(running.len() <= places);
            }
        }
        prop_assert!(waiting.is_empty(), "{waiting:?}");
    }
}

async fn place(dir: &Path, tenant: &str, places: usize) -> Place {
    queue(dir, tenant, places, || false).await.unwrap().unwrap()
}

#[tokio::test]
async fn many_at_once_are_never_more_than_the_places() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks = (0..30).map(|number| {
        let (dir, now, most) = (dir.clone(), now.clone(), most.clone());
        tokio::spawn(async move {
            let _place = place(dir.path(), &format!("t{}", number % 3), 4).await;
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
            now.fetch_sub(1, Ordering::SeqCst);
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!((2..=4).contains(&most.load(Ordering::SeqCst)));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 2, "lock and turns: {left:?}");
}

#[tokio::test]
async fn who_died_waiting_or_running_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    // Older than any, and of nobody.
    for state in ['w', 'r'] {
        File::create(dir.path().join(ticket(1, "dead").name(state))).unwrap();
    }
    place(dir.path(), "a", 1).await;
    let held = place(dir.path(), "a", 1).await;
    let cancelled = queue(dir.path(), "b", 1, || true).await.unwrap();
    assert!(cancelled.is_none());
    drop(held);
    assert!(place(dir.path(), "b", 1).await.waited < SWEEP);
}
