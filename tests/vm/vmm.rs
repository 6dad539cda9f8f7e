//! One VM process for real: boot, confinement, pause, three generations of save and restore, and
//! what happens when supervisor, VMM or disk fail. Needs root, QEMU, `MVM_TEST_KERNEL` (a bzImage)
//! and `MVM_TEST_INITRD` (an uncompressed archive whose `/modules` the guest loads).
#![allow(clippy::unwrap_used)]

#[path = "../common/skip.rs"]
mod skip;
#[path = "vmm_support.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use mvm_model::vm::Accel;
use mvm_model::{Mac, NetId, Offset};
use mvm_vmm::probe::{DEADLINE, Outcome, Probe};
use mvm_vmm::qemu::{AGENT_SOCKET, QMP_SOCKET};
use mvm_vmm::supervisor::{self, CONSOLE_LOG, TakeOverError, ring};
use mvm_vmm::{
    ExitKind, Net, Program, RestoreError, RunState, SnapshotError, StartMode, Trampoline, VmSpec,
    Vmm, process, transfer_deadline,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use skip::skip;
use support::{Bench, HELPER, eventually};

/// The bench, or the end of a test that cannot run here.
macro_rules! bench {
    ($test:literal) => {
        match Bench::new().await {
            Ok(bench) => bench,
            Err(reason) => return skip($test, &reason),
        }
    };
}

fn deadline() -> Duration {
    transfer_deadline(128)
}

#[tokio::test]
async fn the_guest_sees_drives_agent_port_and_network_in_order() {
    let bench = bench!("the_guest_sees_drives_agent_port_and_network_in_order");
    let mut spec = bench.spec();
    spec.drives = bench.four_drives();
    let mac = Mac::new(NetId::new(7).unwrap(), Offset(3));
    spec.net = Some(Net { tap: "tn7i3".into(), mac, mtu: 1450 });
    let vm = bench.counting(&spec).await;
    vm.says("drive vda 2048 ro=1").await;
    vm.says("drive vdb 4096 ro=0").await;
    vm.says("drive vdc 6144 ro=1").await;
    vm.says("drive vdd 8192 ro=1").await;
    vm.says("port mvm.agent").await;
    vm.says("net 02:6d:00:07:00:03 mtu=1450").await;
    assert!(vm.saves_on().await, "nothing reaches the data drive");
}

#[tokio::test]
async fn every_thread_of_the_vmm_is_confined() {
    let bench = bench!("every_thread_of_the_vmm_is_confined");
    let mut spec = bench.spec();
    spec.drives = bench.four_drives();
    let vm = bench.counting(&spec).await;
    let proc = format!("/proc/{}", vm.process.pid);
    let mut threads = 0;
    for task in fs::read_dir(format!("{proc}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let uid = spec.uid.to_string();
        assert_eq!(field("Uid:"), [uid.as_str(); 4].join(" "));
        assert_eq!(field("Gid:"), [uid.as_str(); 4].join(" "));
        assert_eq!(field("Groups:"), "");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), "0".repeat(16), "{set}");
        }
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
        threads += 1;
    }
    assert!(threads >= 2, "{threads} threads");
    for namespace in ["net", "ipc", "uts", "mnt"] {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{namespace}")).unwrap();
        assert_ne!(of(&vm.process.pid.to_string()), of("self"), "{namespace}");
    }
    assert_eq!(fs::read(format!("{proc}/environ")).unwrap(), b"");
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    assert!(limits.lines().any(|l| l.starts_with("Max core file size") && l.contains(" 0 ")));
    assert_eq!(fs::read_to_string(format!("{proc}/coredump_filter")).unwrap(), "00000000\n");
}

/// Neither nobody nor another VM, and not even when their directory is left open.
#[tokio::test]
async fn another_user_gets_to_none_of_its_sockets() {
    let bench = bench!("another_user_gets_to_none_of_its_sockets");
    let spec = bench.spec();
    let vm = bench.counting(&spec).await;
    let open = |dir: &Path| fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
    open(bench.path());
    for uid in [65_534, spec.uid, spec.uid + 1] {
        let may = |how: &str, path: &Path| {
            let mut test = std::process::Command::new("setpriv");
            test.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--clear-groups"]);
            test.args(["test", how]).arg(path).status().unwrap().success()
        };
        fs::set_permissions(&spec.run_dir, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(may("-e", &spec.run_dir), "{uid} sees nothing at all");
        for socket in [QMP_SOCKET, AGENT_SOCKET].map(|name| spec.run_dir.join(name)) {
            assert!(socket.exists() && !may("-e", &socket), "{uid} {}", socket.display());
        }
        open(&spec.run_dir);
        for socket in [QMP_SOCKET, AGENT_SOCKET].map(|name| spec.run_dir.join(name)) {
            assert!(may("-e", &socket) && !may("-w", &socket), "{uid} {}", socket.display());
        }
    }
    drop(vm);
}

#[tokio::test]
async fn the_vmm_sees_nothing_of_the_host_but_programs_kernel_and_initrd() {
    let bench = bench!("the_vmm_sees_nothing_of_the_host_but_programs_kernel_and_initrd");
    let vm = bench.counting(&bench.spec()).await;
    let root = format!("/proc/{}/root", vm.process.pid);
    let mut seen: Vec<String> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    seen.sort();
    for hidden in ["proc", "sys", "dev", "var", "run", "home", "root", "tmp"] {
        assert!(!seen.iter().any(|name| name == hidden), "{hidden} is in {seen:?}");
    }
    // At most the loader's cache.
    assert!(fs::read_dir(format!("{root}/etc")).map_or(0, Iterator::count) <= 1);
    let probe = format!("{root}/usr/mvm-test-{}", std::process::id());
    assert_eq!(fs::write(probe, "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let outside = |fd: &str| !["socket:", "pipe:", "anon_inode:"].iter().any(|k| fd.starts_with(k));
    let open: Vec<String> = fs::read_dir(format!("/proc/{}/fd", vm.process.pid))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| outside(target))
        .collect();
    // What it says goes into pipes with names, which it can write and nothing else.
    let run_dir = vm.spec.run_dir.to_string_lossy().into_owned();
    let is_pipe = |file: &str| file.starts_with(&run_dir) && file.ends_with(".fifo");
    assert!(open.iter().all(|file| file == "/dev/null" || is_pipe(file)), "{open:?}");
}

#[tokio::test]
async fn a_paused_guest_stands_still_and_goes_on() {
    let bench = bench!("a_paused_guest_stands_still_and_goes_on");
    let mut spec = bench.spec();
    spec.drives = bench.four_drives();
    let vm = bench.counting(&spec).await;
    let mut qemu = vm.connect().await;
    let began = Instant::now();
    qemu.pause().await.unwrap();
    let paused = began.elapsed();
    qemu.pause().await.unwrap();
    assert_eq!(qemu.status().await.unwrap(), RunState::Paused);
    // Pausing waits for the drives; the console may still be on its way to the log.
    let before = vm.saved();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(vm.saved(), before);
    let began = Instant::now();
    qemu.resume().await.unwrap();
    println!("pause {paused:?}, resume {:?}", began.elapsed());
    qemu.resume().await.unwrap();
    assert_eq!(qemu.status().await.unwrap(), RunState::Running);
    assert!(vm.saves_on().await);
}

#[tokio::test]
async fn memory_survives_three_generations_of_save_and_restore() {
    let bench = bench!("memory_survives_three_generations_of_save_and_restore");
    let mut spec = bench.spec();
    spec.drives = bench.four_drives();
    let mut vm = bench.counting(&spec).await;
    let (_, id) = vm.count();
    for generation in 1..=3 {
        let name = format!("memory-{generation}");
        let mut qemu = vm.connect().await;
        let done = qemu.snapshot(&bench.memory(&name), deadline(), std::future::pending()).await;
        println!("generation {generation}: {:?}", done.unwrap());
        assert_eq!(qemu.status().await.unwrap(), RunState::Paused);
        let saved = vm.saved();
        drop(vm);

        let began = Instant::now();
        spec.run_dir = bench.spec().run_dir;
        vm = bench.launch(&spec, StartMode::Restore).unwrap();
        let started = began.elapsed();
        let mut qemu = vm.connect().await;
        assert_eq!(qemu.status().await.unwrap(), RunState::Waiting);
        qemu.restore(&bench.memory(&name), deadline()).await.unwrap();
        assert_eq!(qemu.status().await.unwrap(), RunState::Paused);
        let restored = began.elapsed();
        qemu.resume().await.unwrap();
        println!("start {started:?}, restored {restored:?}, resumed {:?}", began.elapsed());
        vm.says(&format!("count {} id {id}\r\n", saved + 2)).await;
        assert_eq!(vm.count().1, id, "the guest is another one");
        assert!(vm.saves_on().await, "the data drive is lost");
    }
}

#[tokio::test]
async fn a_sleep_given_up_at_any_point_leaves_a_running_guest() {
    let bench = bench!("a_sleep_given_up_at_any_point_leaves_a_running_guest");
    let vm = bench.counting(&bench.spec()).await;
    let mut qemu = vm.connect().await;
    let files = bench.memory("cancelled");
    let cancelled = qemu.snapshot(&files, deadline(), std::future::ready(()));
    assert!(matches!(cancelled.await, Err(SnapshotError::Cancelled)));
    assert_eq!(qemu.status().await.unwrap(), RunState::Paused);
    qemu.resume().await.unwrap();
    assert!(vm.counts_on().await, "after a cancelled snapshot");

    let files = bench.memory("late");
    let late = qemu.snapshot(&files, Duration::ZERO, std::future::pending());
    assert!(matches!(late.await, Err(SnapshotError::Deadline(_))));
    qemu.resume().await.unwrap();
    assert!(vm.counts_on().await, "after a snapshot that took too long");

    // The one who saves dies in the middle; the next one only knows to resume.
    let files = bench.memory("dropped");
    let dropped = qemu.snapshot(&files, deadline(), std::future::pending());
    let _ = tokio::time::timeout(Duration::from_millis(20), dropped).await;
    drop(qemu);
    let mut qemu = vm.connect().await;
    qemu.resume().await.unwrap();
    assert!(vm.counts_on().await, "after a saver that vanished");

    let whole = qemu.snapshot(&bench.memory("whole"), deadline(), std::future::pending()).await;
    assert!(whole.unwrap().bytes > 8 << 20);
    qemu.resume().await.unwrap();
    assert!(vm.counts_on().await, "after a complete snapshot nobody wanted");
}

#[tokio::test]
async fn a_full_disk_fails_the_snapshot_and_not_the_guest() {
    let bench = bench!("a_full_disk_fails_the_snapshot_and_not_the_guest");
    let vm = bench.counting(&bench.spec()).await;
    let small = bench.path().join("small");
    fs::create_dir(&small).unwrap();
    // Seen by this thread alone.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(none, &small, Some("tmpfs"), MsFlags::empty(), Some("size=8m")).unwrap();
    let mut qemu = vm.connect().await;
    let files = bench.memory("small/memory");
    let full = qemu.snapshot(&files, deadline(), std::future::pending());
    let error = full.await.unwrap_err();
    assert!(matches!(error, SnapshotError::NoSpace), "{error:?}");
    qemu.resume().await.unwrap();
    assert!(vm.counts_on().await);
    qemu.snapshot(&bench.memory("memory"), deadline(), std::future::pending()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_memory_file_is_refused_and_the_process_ends() {
    let bench = bench!("a_damaged_memory_file_is_refused_and_the_process_ends");
    let vm = bench.counting(&bench.spec()).await;
    let mut qemu = vm.connect().await;
    let refused = qemu.restore(&bench.memory("empty"), deadline()).await;
    assert!(matches!(refused, Err(RestoreError::NotWaiting(RunState::Running))));
    qemu.snapshot(&bench.memory("good"), deadline(), std::future::pending()).await.unwrap();
    let good = fs::read(bench.path().join("good")).unwrap();
    let mut flipped = good.clone();
    flipped[..64].fill(0xff);
    for (name, bytes) in [("cut", &good[..good.len() / 2]), ("flipped", &flipped), ("none", b"")] {
        fs::write(bench.path().join(name), bytes).unwrap();
        let waiting = bench.launch(&bench.spec(), StartMode::Restore).unwrap();
        let mut other = waiting.connect().await;
        let error = other.restore(&bench.memory(name), deadline()).await.unwrap_err();
        println!("{name}: {error}");
        let (refused, left) =
            (matches!(error, RestoreError::Refused(_)), matches!(error, RestoreError::Left(_)));
        assert!(
            refused || (left && waiting.exit().await.how == ExitKind::Code(1)),
            "{name}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_vm_outlives_its_supervisor_also_while_it_floods_the_console() {
    let bench = bench!("a_vm_outlives_its_supervisor_also_while_it_floods_the_console");
    let mut spec = bench.spec();
    spec.drives = bench.four_drives();
    spec.cmdline = "mvm.test=flood".into();
    let mut vm = bench.launch(&spec, StartMode::Boot).unwrap();
    vm.says("flood flood").await;
    assert!(vm.saves_on().await);
    vm.shim.kill().unwrap();
    vm.shim.wait().unwrap();
    assert!(vm.saves_on().await, "the guest hangs without a reader of its console");
    assert!(process::is_alive(&vm.process));
    let mut qemu = vm.connect().await;
    assert_eq!(qemu.status().await.unwrap(), RunState::Running);
    qemu.quit().await.unwrap();
    assert!(eventually(|| !process::is_alive(&vm.process)).await);
}

#[tokio::test]
async fn the_next_supervisor_takes_over_console_monitor_and_end() {
    let bench = bench!("the_next_supervisor_takes_over_console_monitor_and_end");
    let mut vm = bench.counting(&bench.spec()).await;
    let (first, id) = vm.count();
    vm.change_supervisor();
    assert!(vm.counts_on().await, "the console is not read: {}", vm.log(CONSOLE_LOG));
    vm.change_supervisor();
    assert!(vm.counts_on().await);
    let (last, same) = vm.count();
    assert!(last > first && same == id);
    assert!(vm.log(CONSOLE_LOG).contains("count 3 "), "what was said before is gone");
    let error = supervisor::take_over(&vm.spec.run_dir).unwrap_err();
    assert!(matches!(error, TakeOverError::Supervised(_)), "{error:?}");
    vm.connect().await.quit().await.unwrap();
    let exit = vm.exit().await;
    // Older kernels keep the status of a collected process for its parent only.
    assert!(matches!(exit.how, ExitKind::Code(0) | ExitKind::Unseen), "{exit:?}");
    assert_eq!(exit.process, vm.process);
    assert!(matches!(supervisor::take_over(&vm.spec.run_dir), Err(TakeOverError::Gone)));
}

#[tokio::test]
async fn a_flooded_console_stays_bounded_and_never_blocks_the_guest() {
    let bench = bench!("a_flooded_console_stays_bounded_and_never_blocks_the_guest");
    let mut spec = bench.spec();
    spec.drives = bench.four_drives();
    spec.cmdline = "mvm.test=flood".into();
    let vm = bench.launch(&spec, StartMode::Boot).unwrap();
    // 100 lines of 84 bytes each time: more than the log may keep.
    let enough = 2 * ring::SEGMENT / 8400 + 1;
    assert!(eventually(|| vm.saved() > enough).await, "the guest is blocked at {}", vm.saved());
    let kept = ring::read(&spec.run_dir.join(CONSOLE_LOG), 1 << 30).unwrap().len() as u64;
    assert!(kept <= 2 * ring::SEGMENT, "{kept}");
    let status = fs::read_to_string(format!("/proc/{}/status", vm.shim.id())).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned();
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 32 << 10, "the supervisor took {kib} KiB");
    vm.connect().await.quit().await.unwrap();
    let exit = vm.exit().await;
    println!("kept {kept}, dropped {}, supervisor {kib} KiB", exit.console_dropped);
    assert_eq!(exit.how, ExitKind::Code(0));
}

#[tokio::test]
async fn a_vmm_killed_by_hand_is_noticed_and_recorded() {
    let bench = bench!("a_vmm_killed_by_hand_is_noticed_and_recorded");
    let vm = bench.counting(&bench.spec()).await;
    process::Handle::open(&vm.process).unwrap().unwrap().signal(Signal::SIGKILL).unwrap();
    let exit = vm.exit().await;
    assert_eq!((&exit.how, &exit.process), (&ExitKind::Signal(9), &vm.process));
    assert!(exit.last_console.last().unwrap().starts_with("count "), "{exit:?}");
    // The same run directory serves the next start.
    let again = bench.launch(&vm.spec, StartMode::Boot).unwrap();
    assert!(process::is_alive(&again.process));
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let bench = bench!("what_cannot_start_says_why_and_leaves_nothing");
    let mut spec = bench.spec();
    spec.drives = bench.four_drives();
    let vm = bench.launch(&spec, StartMode::Boot).unwrap();
    let kind = |spec: &VmSpec| bench.launch(spec, StartMode::Boot).map(drop).unwrap_err().kind;
    assert_eq!(kind(&spec), "running");
    let mut other = bench.spec();
    other.drives = spec.drives.clone();
    assert_eq!(kind(&other), "drive-in-use");
    drop(vm);
    other.drives[0].path = bench.path().join("missing");
    assert_eq!(kind(&other), "open");
    other.drives[0].path = bench.path().to_owned();
    assert_eq!(kind(&other), "open");
    other.drives.clear();
    other.uid = 0;
    assert_eq!(kind(&other), "spec");
    other.uid = spec.uid;
    fs::set_permissions(&other.run_dir, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(kind(&other), "run-dir");
    fs::set_permissions(&other.run_dir, fs::Permissions::from_mode(0o700)).unwrap();
    other.kernel = bench.drive("secret", 1, mvm_vmm::Access::ReadOnly).path;
    assert_eq!(kind(&other), "unreadable");
    other.kernel = "/etc/hostname".into();
    let failure = bench.launch(&other, StartMode::Boot).map(drop).unwrap_err();
    println!("{failure}");
    assert_eq!(failure.kind, "ended");
    assert!(!failure.last_log.is_empty());
}

#[tokio::test]
async fn translation_is_proven_by_booting_and_a_guest_that_hangs_is_no_proof() {
    let bench = bench!("translation_is_proven_by_booting_and_a_guest_that_hangs_is_no_proof");
    let trampoline = Trampoline { program: HELPER.into(), args: vec!["confine".into()] };
    let probe = |initrd| Probe {
        kernel: bench.kernel(),
        initrd,
        uid: bench.spec().uid,
        scratch: bench.path(),
        trampoline: &trampoline,
        deadline: mvm_vmm::probe::DEADLINE,
    };
    let qemu = Program::Qemu(bench.qemu.clone());
    let before = fs::read_dir(bench.path()).unwrap().count();
    let proven = probe(bench.given_initrd()).run(&qemu, Accel::Tcg).await;
    println!("{proven:?}");
    assert!(matches!(&proven, Outcome::Proven { version, .. } if *version == bench.qemu.version));

    let began = Instant::now();
    let hanging = probe(bench.initrd()).run(&qemu, Accel::Tcg).await;
    println!("{hanging:?} after {:?}", began.elapsed());
    assert!(matches!(&hanging, Outcome::Refused { reason } if reason.contains("did not come up")));
    assert!(began.elapsed() < DEADLINE + Duration::from_secs(35));

    // Whatever this host's KVM is, the answer comes in time; where it is refused, with a reason.
    let began = Instant::now();
    let kvm = probe(bench.given_initrd()).run(&qemu, Accel::Kvm).await;
    println!("{kvm:?} after {:?}", began.elapsed());
    assert!(!matches!(&kvm, Outcome::Refused { reason } if reason.is_empty()));
    assert!(began.elapsed() < DEADLINE + Duration::from_secs(35));

    assert_eq!(fs::read_dir(bench.path()).unwrap().count(), before + 1, "a run dir and no more");
}
