//! What is written down when nobody took the instance where it is: its VM ended by itself, or who
//! was at it was killed.

use std::time::Duration;

use mvm_model::observed::Failure;
use mvm_model::record::{InstanceRecord, Millis};
use mvm_model::state::{State, Status, Transition, VmRef};
use mvm_model::vm::{Accel, ProcessId, Vmm, VmmKind};
use mvm_vmm::process;

use super::*;
use crate::audit::{Event, Log};
use crate::testing;

/// Running, by its record, in a process of this boot that is gone.
fn running() -> State {
    let boot_id = process::boot_id().unwrap();
    let process = ProcessId { pid: 1, start_ticks: u64::MAX, boot_id };
    let vmm = Vmm { kind: VmmKind::Qemu, accel: Accel::Tcg, version: "7.2".into() };
    State::Running { vm: VmRef { process, vmm, resumed_from: None } }
}

fn exit(service: &Service, record: &InstanceRecord, code: i32) {
    let Some(vm) = record.state.vm() else { return };
    let dir = service.dirs.vm(record.instance_id);
    std::fs::create_dir_all(&dir).unwrap();
    let exit = serde_json::json!({
        "process": vm.process, "how": { "code": code }, "at": 1, "console_dropped": 0,
        "last_log": [], "last_console": [], "guest": "turned-off",
    });
    std::fs::write(dir.join("exit.json"), exit.to_string()).unwrap();
}

fn last_event(service: &Service, record: &InstanceRecord) -> Event {
    Log::of(&service.dirs.state, &record.tenant_id).events().pop().unwrap()
}

fn at(count: u32, ago: Millis) -> Option<Failure> {
    Some(Failure { count, at: now() - ago })
}

#[tokio::test]
async fn what_ended_by_itself_is_no_longer_as_a_person_put_it() {
    let (_root, service) = testing::service();
    let mut record = testing::instance(&service, running());
    std::fs::create_dir_all(service.dirs.tenant(&record.tenant_id)).unwrap();
    for (failure, code, status, count) in [
        (None, 0, Status::Stopped, 1),
        (at(1, 60_000), 1, Status::Failed, 2),
        (at(7, 3_600_000), 0, Status::Stopped, 1),
    ] {
        record = InstanceRecord { state: running(), manual: Some(now()), failure, ..record };
        service.records.put_instance(&record).unwrap();
        exit(&service, &record, code);
        service.note_exits().await;
        let after = service.instance(&record.path()).unwrap();
        assert_eq!((after.state.status(), after.manual), (status, None));
        assert_eq!(after.failure.map(|failure| failure.count), Some(count));
        let told = last_event(&service, &record);
        assert_eq!((&*told.event, told.object), ("instance.exit", record.path().to_string()));
        assert_eq!(Some(&*told.detail), after.note.as_deref());
    }
    // Nothing more is told of what is written down.
    let told = last_event(&service, &record).seq;
    service.note_exits().await;
    assert_eq!(last_event(&service, &record).seq, told);
}

#[tokio::test]
async fn a_start_whose_command_was_killed_is_told() {
    let (_root, service) = testing::service();
    let mut record = testing::instance(&service, State::Stopped);
    record.transition = Some(Transition::Starting);
    record.manual = Some(now());
    service.records.put_instance(&record).unwrap();
    let lock = lock::path_in(&service.instance_dir(&record));
    std::fs::write(&lock, "mvm instance start by bob (pid 7)").unwrap();
    service.note_exit(&record.path()).await;
    let after = service.instance(&record.path()).unwrap();
    assert_eq!((after.state, after.transition, after.manual), (State::Stopped, None, None));
    let told = last_event(&service, &record);
    assert_eq!(told.event, "instance.start");
    let what = "mvm instance start by bob (pid 7) was interrupted; the instance is stopped";
    assert_eq!(told.detail, what);
}

#[tokio::test]
async fn what_is_called_off_is_no_longer_asked_for() {
    let (_root, service) = testing::service();
    let before = testing::instance(&service, State::Stopped);
    let never = AtomicBool::new(false);
    let mut driver = Driver::open(&service, &before.path(), &never, Duration::ZERO).await.unwrap();
    driver.asker = Asker::Person;
    driver.remember(Verb::Start);
    assert!(driver.record.manual.is_some());
    driver.unsay(before.clone());
    drop(driver);
    assert_eq!(service.instance(&before.path()).unwrap(), before);
}

/// What there may be of a snapshot, and whether an instance may sleep on in it.
const LEFT: [(&[&str], bool); 5] = [
    (&["manifest.json", "memory"], true),
    (&["manifest.json", "memory", "consumed"], false),
    (&["manifest.json"], false),
    (&["memory"], false),
    (&[], false),
];

#[tokio::test]
async fn one_sleeps_on_only_in_a_snapshot_that_is_there_and_was_not_used() {
    let (_root, service) = testing::service();
    for (files, sleeps_on) in LEFT {
        let mut record = testing::instance(&service, State::Sleeping { generation: 4 });
        record.transition = Some(Transition::Waking { generation: 4 });
        service.records.put_instance(&record).unwrap();
        let dir = service.instance_dir(&record).join("snapshots/4");
        std::fs::create_dir_all(&dir).unwrap();
        for file in files {
            std::fs::write(dir.join(file), "").unwrap();
        }
        service.note_exit(&record.path()).await;
        let after = service.instance(&record.path()).unwrap();
        let status = if sleeps_on { Status::Sleeping } else { Status::Failed };
        assert_eq!((after.state.status(), after.transition), (status, None), "{files:?}");
        assert_eq!(dir.exists(), sleeps_on, "{files:?}");
    }
}

#[tokio::test]
async fn what_nobody_can_look_at_is_not_settled_and_can_be_stopped() {
    let (_root, service) = testing::service();
    let mut record = testing::instance(&service, State::Sleeping { generation: 4 });
    record.transition = Some(Transition::Waking { generation: 4 });
    service.records.put_instance(&record).unwrap();
    let dir = service.instance_dir(&record).join("snapshots/4");
    std::fs::create_dir_all(&dir).unwrap();
    let manifest = dir.join("manifest.json");
    std::os::unix::fs::symlink(&manifest, &manifest).unwrap();
    let never = AtomicBool::new(false);
    for verb in [Verb::Wake, Verb::Sleep] {
        service.change(&record.path(), verb, &never).await.unwrap_err();
        let after = service.instance(&record.path()).unwrap();
        assert_eq!((after.state, after.transition), (record.state.clone(), record.transition));
        record.transition = Some(Transition::Waking { generation: 4 });
    }
    service.change(&record.path(), Verb::Stop, &never).await.unwrap();
    let after = service.instance(&record.path()).unwrap();
    assert_eq!((after.state, after.transition), (State::Stopped, None));
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_beginning_that_was_refused_is_never_written() {
    let (_root, service) = testing::service();
    let before = testing::instance(&service, State::Stopped);
    let never = AtomicBool::new(false);
    let mut driver = Driver::open(&service, &before.path(), &never, Duration::ZERO).await.unwrap();
    driver.record.note = Some("why it stopped".into());
    // A directory where the record is written before it gets its name.
    let beside = service.instance_dir(&before).join("instance.json.tmp");
    std::fs::create_dir_all(beside.join("full")).unwrap();
    let error = driver.begin(Transition::Stopping).await.unwrap_err();
    std::fs::remove_dir_all(&beside).unwrap();
    driver.note_failure(Verb::Start, &error);
    drop(driver);
    let after = service.instance(&before.path()).unwrap();
    assert_eq!((after.state, after.transition), (State::Stopped, None));
    assert_eq!(after.failure.map(|failure| failure.count), Some(1));
    assert_eq!(after.note.as_deref(), Some("why it stopped"));
}
