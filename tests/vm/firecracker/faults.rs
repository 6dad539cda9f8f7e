//! A Firecracker that fails where it is told to: the fake, in the real jail of the real jailer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Arc, Mutex};

use mvm_vmm::VmmError;
use nix::sched::{CloneFlags, unshare};

use super::*;

/// What goes wrong, by request: `PUT /drives/data` → `die`.
type Faults = Arc<Mutex<BTreeMap<String, String>>>;

/// Where the fake is built: a program without libraries, beside the tests' own target.
fn fake() -> Result<PathBuf, String> {
    let built = || {
        let target = Path::new(HELPER).parent()?.parent()?;
        let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        Some(target.join(triple).join("debug/mvm-fake-firecracker"))
    };
    let named = std::env::var_os("MVM_FAKE_FIRECRACKER").map(PathBuf::from);
    named.or_else(built).filter(|path| path.is_file()).ok_or_else(|| {
        "the fake is not built (cargo build -p mvm-fake --target <arch>-unknown-linux-musl)".into()
    })
}

/// A bench whose Firecracker is the fake, in a network namespace of its own.
async fn bench() -> Result<(Bench, Faults), String> {
    let fake = fake()?;
    let mut bench = Bench::new().await?;
    let bin = bench.dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::copy(fake, bin.join("firecracker")).unwrap();
    let search = Search {
        jailer: Some(bench.binaries.jailer.clone()),
        dirs: vec![bin],
        ..Search::default()
    };
    bench.binaries = Binaries::find(&search).await.map_err(|error| error.to_string())?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| error.to_string())?;
    Ok((bench, listen()))
}

/// Says what goes wrong; nothing until somebody wants it to.
fn listen() -> Faults {
    let faults = Faults::default();
    let told = Arc::clone(&faults);
    let name = SocketAddr::from_abstract_name("mvm-fake").unwrap();
    let listener = UnixListener::bind_addr(&name).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            let mut stream = BufReader::new(stream);
            if stream.read_line(&mut line).is_err() {
                continue;
            }
            let request = line.trim().split_once(' ').map_or("", |(_, request)| request);
            let fault = told.lock().unwrap().get(request).cloned().unwrap_or_default();
            let _ = writeln!(stream.get_mut(), "{fault}");
        }
    });
    faults
}

fn set(faults: &Faults, request: &str, fault: &str) {
    faults.lock().unwrap().insert(request.into(), fault.into());
}

fn clear(faults: &Faults) {
    faults.lock().unwrap().clear();
}

macro_rules! bench {
    ($test:literal) => {
        match bench().await {
            Ok(bench) => bench,
            Err(reason) => return skip($test, &reason),
        }
    };
}

/// Whatever happens at whichever step of a start: an error that names it, and nothing left.
#[tokio::test]
async fn a_start_that_fails_at_any_step_leaves_nothing() {
    let (bench, faults) = bench!("a_start_that_fails_at_any_step_leaves_nothing");
    let spec = bench.spec();
    // Every setting is the same to it.
    for request in ["PUT /machine-config", "PUT /drives/data", "PUT /actions"] {
        for fault in ["refuse it may not be", "die", "die-after", "answer-and-die", "close"] {
            clear(&faults);
            set(&faults, request, fault);
            match bench.launch(&spec, StartMode::Boot) {
                Err(failure) => {
                    let known = ["api", "ended", "uncontained"].contains(&failure.kind.as_str());
                    assert!(known, "{request} {fault}: {failure:?}");
                }
                // It ran, for as long as it takes to say so.
                Ok(mut vm) => {
                    assert_eq!((request, fault), ("PUT /actions", "answer-and-die"));
                    vm.shim.wait().unwrap();
                }
            }
            assert!(bench.jailed().is_empty(), "{request} {fault}: {:?}", bench.jailed());
            let left = RunningRecord::load(&spec.run_dir).unwrap();
            assert!(left.is_none_or(|left| !process::is_alive(&left.process)), "{request} {fault}");
        }
    }
    clear(&faults);
    bench.boot(&spec);
}

/// A snapshot that fails leaves a VM that goes on, unless there is none any more.
#[tokio::test]
async fn a_snapshot_that_fails_leaves_a_vm_or_a_clean_end() {
    let (bench, faults) = bench!("a_snapshot_that_fails_leaves_a_vm_or_a_clean_end");
    for (number, (fault, survives)) in [
        ("refuse No space left on device (os error 28)", true),
        ("refuse it may not be", true),
        ("close", true),
        ("short 4096", false),
        ("die", false),
        ("die-after", false),
        ("answer-and-die", false),
    ]
    .into_iter()
    .enumerate()
    {
        clear(&faults);
        let spec = bench.spec();
        let mut vm = bench.boot(&spec);
        set(&faults, "PUT /snapshot/create", fault);
        let files = bench.snapshot(&format!("failed{number}"));
        let mut vmm = vm.connect().await;
        let failed = vmm.snapshot(&files, DEADLINE, std::future::pending()).await;
        if fault != "answer-and-die" {
            let error = failed.unwrap_err();
            let full = matches!(error, SnapshotError::NoSpace);
            assert_eq!(full, fault.contains("28"), "{fault}: {error:?}");
        }
        match survives {
            true => {
                assert_eq!(vmm.status().await.unwrap(), RunState::Paused, "{fault}");
                vmm.resume().await.unwrap();
                assert_eq!(vmm.status().await.unwrap(), RunState::Running, "{fault}");
                vm.end().await;
            }
            false => {
                vm.shim.wait().unwrap();
                assert!(bench.jailed().is_empty(), "{fault}");
                assert!(matches!(vmm.resume().await, Err(VmmError::Firecracker { .. })));
            }
        }
        assert_eq!(fs::metadata(&files.memory).unwrap().nlink(), 1, "{fault}: still shown");
    }
}

/// A snapshot that is late may still be written: whoever lets the VM go on knows that it is.
#[tokio::test]
async fn a_late_snapshot_is_waited_for_by_who_resumes() {
    let (bench, faults) = bench!("a_late_snapshot_is_waited_for_by_who_resumes");
    let spec = bench.spec();
    let vm = bench.boot(&spec);
    set(&faults, "PUT /snapshot/create", "slow 700");
    let files = bench.snapshot("late");
    let mut vmm = vm.connect().await;
    let late = vmm.snapshot(&files, Duration::from_millis(100), std::future::pending()).await;
    assert!(matches!(late, Err(SnapshotError::Deadline(_))), "{late:?}");
    let links = || fs::metadata(&files.memory).unwrap().nlink();
    assert_eq!(links(), 2, "nobody knows that it is written");
    vmm.resume().await.unwrap();
    assert_eq!((vmm.status().await.unwrap(), links()), (RunState::Running, 1));
}

/// A load that fails spends its process and not the snapshot.
#[tokio::test]
async fn a_load_that_fails_spends_its_process_and_not_the_snapshot() {
    let (bench, faults) = bench!("a_load_that_fails_spends_its_process_and_not_the_snapshot");
    let spec = bench.spec();
    let vm = bench.boot(&spec);
    let files = bench.snapshot("good");
    vm.connect().await.snapshot(&files, DEADLINE, std::future::pending()).await.unwrap();
    vm.end().await;
    for fault in ["refuse it may not be", "close", "die", "die-after"] {
        clear(&faults);
        set(&faults, "PUT /snapshot/load", fault);
        let spec = VmSpec { run_dir: bench.run_dir(fault), ..spec.clone() };
        let vm = bench.launch(&spec, StartMode::Restore).unwrap();
        let error = vm.connect().await.restore(&files, DEADLINE).await.unwrap_err();
        let refused = matches!(error, RestoreError::Refused(_));
        let left = matches!(error, RestoreError::Left(_));
        assert!(if fault.starts_with("refuse") { refused } else { left }, "{fault}: {error:?}");
        vm.end().await;
        assert!(bench.jailed().is_empty(), "{fault}");
    }
    clear(&faults);
    let spec = VmSpec { run_dir: bench.run_dir("last"), ..spec };
    let vm = bench.launch(&spec, StartMode::Restore).unwrap();
    vm.connect().await.restore(&files, DEADLINE).await.unwrap();
    vm.connect().await.resume().await.unwrap();
    assert_eq!(vm.connect().await.status().await.unwrap(), RunState::Running);
}
