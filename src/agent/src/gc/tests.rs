use std::fs;

use mvm_model::Digest;
use mvm_model::state::State;

use super::*;
use crate::testing::{instance, service};

fn snapshot(service: &Service, record: &InstanceRecord, name: &str) -> PathBuf {
    let dir = service.instance_dir(record).join("snapshots").join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("memory"), vec![7; 8192]).unwrap();
    dir
}

async fn collect(service: &Service, mode: Mode) -> Collection {
    service.node_gc(mode, Arc::new(|_| ()), Arc::default()).await.unwrap()
}

#[tokio::test]
async fn what_an_instance_sleeps_in_stays_and_older_snapshots_go() {
    let (_dir, service) = service();
    let record = instance(&service, State::Sleeping { generation: 7 });
    let needed = snapshot(&service, &record, "7");
    let gone = [snapshot(&service, &record, "6"), snapshot(&service, &record, "8.tmp")];
    let told = collect(&service, Mode::DryRun).await;
    assert_eq!(told.garbage.len(), 2);
    assert!(told.freed_bytes > 0 && gone.iter().all(|dir| dir.exists()));
    let done = collect(&service, Mode::Remove).await;
    assert_eq!((done.garbage, done.freed_bytes), (told.garbage, told.freed_bytes));
    assert!(needed.join("memory").exists() && !gone.iter().any(|dir| dir.exists()));
    assert!(collect(&service, Mode::Remove).await.garbage.is_empty());
}

#[tokio::test]
async fn an_instance_in_transition_or_in_somebodys_hands_is_left_alone() {
    let (_dir, service) = service();
    let mut record = instance(&service, State::Stopped);
    let stray = snapshot(&service, &record, "3");
    let lock = lock::path_in(&service.instance_dir(&record));
    let held = Lock::try_take(&lock, "mvm instance wake").unwrap();
    assert!(collect(&service, Mode::Remove).await.garbage.is_empty());
    drop(held);
    record.transition = Some(mvm_model::state::Transition::Sleeping { generation: 3 });
    service.records.put_instance(&record).unwrap();
    assert!(collect(&service, Mode::Remove).await.garbage.is_empty());
    assert!(stray.exists());
}

#[tokio::test]
async fn what_belongs_to_nobody_goes_and_what_belongs_to_somebody_stays() {
    let (_dir, service) = service();
    let record = instance(&service, State::Stopped);
    let run = service.dirs.run.clone();
    let (ours, stray) = (service.dirs.vm(record.instance_id), run.join("vm/i-0badf00d"));
    let half = service.dirs.tenants().join(".gone-acme");
    for dir in [&ours, &stray, &half, &run.join("secrets")] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(run.join("vm/i-0badf00d.log"), "x").unwrap();
    fs::write(run.join("secrets/i-0badf00d.img"), "x").unwrap();
    fs::write(run.join("verdicts.json"), r#"{"boot_id":"another","verdicts":[]}"#).unwrap();
    let unfinished = service.instance_dir(&record).join("data.img.tmp");
    fs::write(&unfinished, "x").unwrap();
    let done = collect(&service, Mode::Remove).await;
    assert_eq!(done.garbage.len(), 6, "{:?}", done.garbage);
    assert!(ours.exists() && !stray.exists() && !half.exists() && !unfinished.exists());
    assert!(service.last_gc().is_some());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_keeps_everything_it_may_need() {
    let (_dir, service) = service();
    let record = instance(&service, State::Stopped);
    let vm = service.dirs.vm(record.instance_id);
    let stray = snapshot(&service, &record, "3");
    fs::create_dir_all(&vm).unwrap();
    fs::write(service.instance_dir(&record).join("instance.json"), "{").unwrap();
    let done = collect(&service, Mode::Remove).await;
    assert!(done.garbage.is_empty() && vm.exists() && stray.exists());
    assert!(done.kept.iter().any(|kept| kept.why.contains("instance.json")), "{:?}", done.kept);
}

#[tokio::test]
async fn a_revision_a_pool_keeps_for_nobody_goes() {
    let (_dir, service) = service();
    let mut record = instance(&service, State::Stopped);
    let shelf = service.dirs.pool(&record.pool_path()).join("artifacts/revisions");
    let (needed, spare) = (Digest::of(b"needed"), Digest::of(b"spare"));
    record.revision = Some(needed.clone());
    service.records.put_instance(&record).unwrap();
    for digest in [&needed, &spare] {
        fs::create_dir_all(shelf.join(digest.as_str())).unwrap();
        fs::write(shelf.join(digest.as_str()).join("rootfs"), vec![1; 8192]).unwrap();
    }
    let told = collect(&service, Mode::DryRun).await;
    assert_eq!(told.garbage.len(), 1);
    assert_eq!((told.garbage[0].waste, told.freed_bytes), (Waste::PoolRevision, 8192));
    assert_eq!(collect(&service, Mode::Remove).await.garbage, told.garbage);
    assert!(shelf.join(needed.as_str()).exists() && !shelf.join(spare.as_str()).exists());
}

#[tokio::test]
async fn two_collectors_do_not_meet() {
    let (_dir, service) = service();
    let lock = service.dirs.state.join(".gc.lock");
    let _held = Lock::try_take(&lock, "mvm node gc").unwrap();
    let second = service.node_gc(Mode::Remove, Arc::new(|_| ()), Arc::default()).await;
    assert_eq!(second.unwrap_err().kind, Kind::Busy);
}
