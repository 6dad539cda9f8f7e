//! A real Firecracker in its jail on this machine's /dev/kvm, below the guest: made, paused,
//! saved, loaded, refused, taken over. The guest is eleven bytes that wait, because not every
//! machine whose KVM makes a VM runs a kernel in it; real guests are in the host VM's tests.
//!
//! Needs root, `/dev/kvm`, and Firecracker with its jailer: `MVM_FIRECRACKER` and `MVM_JAILER`,
//! `PATH`, or the tests' cache.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mvm_model::InstanceId;
use mvm_model::vm::{Accel, ProcessId, VmmKind};
use mvm_vmm::firecracker::{Binaries, Search};
use mvm_vmm::supervisor::Failure;
use mvm_vmm::{
    Access, AnyVmm, Drive, ExitKind, ExitRecord, Jailed, Launch, Placement, Program, Report,
    RestoreError, RunState, RunningRecord, SnapshotError, SnapshotFiles, StartMode, VmSpec, Vmm,
    process,
};

#[path = "firecracker/faults.rs"]
mod faults;
#[path = "../common/skip.rs"]
mod skip;

use skip::skip;

const HELPER: &str = env!("CARGO_BIN_EXE_mvm-vmm-test-helper");
const DEADLINE: Duration = Duration::from_secs(60);
const MEM_MIB: u64 = 64;

struct Bench {
    dir: tempfile::TempDir,
    binaries: Binaries,
}

macro_rules! bench {
    ($test:literal) => {
        match Bench::new().await {
            Ok(bench) => bench,
            Err(reason) => return skip($test, &reason),
        }
    };
}

/// A 64-bit ELF program that waits for an interrupt that never comes.
fn waiting_kernel() -> Vec<u8> {
    const CODE: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd]; // cli; hlt; jmp hlt
    const LOAD: u64 = 0x10_0000;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    for half in [2_u16, 62] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes());
    for word in [LOAD, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for half in [1_u32, 7] {
        elf.extend(half.to_le_bytes());
    }
    for word in [120, LOAD, LOAD, CODE.len() as u64, CODE.len() as u64, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(CODE);
    elf
}

impl Bench {
    async fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".into());
        }
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .map_err(|error| format!("/dev/kvm: {error}"))?;
        let var = |name: &str| std::env::var_os(name);
        let cache = var("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(Path::new(&var("HOME")?).join(".cache")));
        let mut search = Search::from_env(&cache.unwrap_or_default().join("mvm-test/bin"), var);
        // The tests' cache comes last.
        search.dirs.rotate_left(1);
        let binaries = Binaries::find(&search).await.map_err(|error| error.to_string())?;
        // Where links between files are possible, and 64 MiB are no matter.
        let dir = tempfile::tempdir_in("/var/tmp").map_err(|error| error.to_string())?;
        fs::write(dir.path().join("kernel"), waiting_kernel()).unwrap();
        fs::write(dir.path().join("initrd"), "nothing").unwrap();
        for name in ["kernel", "initrd"] {
            let path = dir.path().join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
        }
        Ok(Self { dir, binaries })
    }

    fn spec(&self) -> VmSpec {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = 1_912_400_000 + (std::process::id() % 10_000) * 10 + number;
        let data = self.dir.path().join(format!("data{number}"));
        fs::File::create(&data).unwrap().set_len(1 << 20).unwrap();
        VmSpec {
            instance: InstanceId::from_bits(id),
            vmm: VmmKind::Firecracker,
            accel: Accel::Kvm,
            vcpus: 1,
            mem_mib: MEM_MIB,
            kernel: self.dir.path().join("kernel"),
            initrd: self.dir.path().join("initrd"),
            cmdline: String::new(),
            drives: vec![
                Drive { path: self.dir.path().join("initrd"), access: Access::ReadOnly },
                Drive { path: data, access: Access::ReadWrite },
            ],
            net: None,
            uid: id,
            gid: id,
            run_dir: self.run_dir(&format!("vm{number}")),
        }
    }

    /// Longer than a socket address holds.
    fn run_dir(&self, name: &str) -> PathBuf {
        let run_dir = self.dir.path().join("long".repeat(30)).join(name);
        fs::create_dir_all(&run_dir).unwrap();
        fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o700)).unwrap();
        run_dir
    }

    fn snapshot(&self, name: &str) -> SnapshotFiles {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        SnapshotFiles::in_dir(&dir)
    }

    fn jails(&self) -> PathBuf {
        self.dir.path().join("jails")
    }

    fn jailed(&self) -> Vec<PathBuf> {
        let jails = fs::read_dir(self.jails().join("firecracker")).into_iter().flatten().flatten();
        jails.map(|entry| entry.path()).collect()
    }

    fn launch(&self, spec: &VmSpec, mode: StartMode) -> Result<Vm, Failure> {
        let program = Program::Firecracker(Jailed {
            binaries: self.binaries.clone(),
            jails: self.jails(),
            placement: Placement::Unlimited,
        });
        let launch = Launch { spec: spec.clone(), mode, program };
        let mut shim = Command::new(HELPER)
            .arg("shim")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        serde_json::to_writer(shim.stdin.take().unwrap(), &launch).unwrap();
        match Report::receive(shim.stdout.take().unwrap()).unwrap() {
            Report::Started(process) => Ok(Vm { run_dir: spec.run_dir.clone(), shim, process }),
            Report::Failed(failure) => {
                shim.wait().unwrap();
                Err(failure)
            }
        }
    }

    fn boot(&self, spec: &VmSpec) -> Vm {
        self.launch(spec, StartMode::Boot).unwrap_or_else(|failure| panic!("{failure:?}"))
    }
}

struct Vm {
    run_dir: PathBuf,
    shim: Child,
    process: ProcessId,
}

impl Vm {
    async fn connect(&self) -> AnyVmm {
        AnyVmm::connect(VmmKind::Firecracker, &self.run_dir).await.unwrap()
    }

    /// Ends the VM and waits for its supervisor's last word.
    async fn end(mut self) -> ExitRecord {
        process::kill(&self.process, DEADLINE).await.unwrap();
        self.shim.wait().unwrap();
        ExitRecord::load(&self.run_dir).unwrap().unwrap()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let process = self.process.clone();
        std::thread::spawn(move || {
            let _ = runtime.block_on(process::kill(&process, DEADLINE));
        })
        .join()
        .unwrap();
        let _ = self.shim.kill();
        let _ = self.shim.wait();
    }
}

fn mode(path: &Path) -> (u32, u32) {
    let meta = fs::metadata(path).unwrap();
    (meta.uid(), meta.mode() & 0o777)
}

#[tokio::test]
async fn a_vm_is_paused_saved_and_loaded_through_two_generations() {
    let bench = bench!("a_vm_is_paused_saved_and_loaded_through_two_generations");
    let mut spec = bench.spec();
    let mut vm = bench.boot(&spec);
    assert_eq!(vm.connect().await.status().await.unwrap(), RunState::Running);
    for generation in 1..=2 {
        let mut vmm = vm.connect().await;
        vmm.pause().await.unwrap();
        vmm.pause().await.unwrap();
        assert_eq!(vmm.status().await.unwrap(), RunState::Paused);
        vmm.resume().await.unwrap();
        assert_eq!(vmm.status().await.unwrap(), RunState::Running);
        let files = bench.snapshot(&generation.to_string());
        let done = vmm.snapshot(&files, DEADLINE, std::future::pending()).await.unwrap();
        println!("{done:?}");
        assert_eq!(fs::metadata(&files.memory).unwrap().len(), MEM_MIB << 20);
        assert_eq!((mode(&files.memory), mode(&files.devices)), ((0, 0o440), (0, 0o440)));
        assert_eq!(fs::metadata(&files.memory).unwrap().nlink(), 1, "it is still in the jail");
        assert_eq!(vmm.status().await.unwrap(), RunState::Paused);
        let onto_itself = vmm.restore(&files, DEADLINE).await;
        assert!(matches!(onto_itself, Err(RestoreError::NotWaiting(RunState::Paused))));
        assert_eq!(fs::metadata(&files.memory).unwrap().nlink(), 1, "it is shown to the VM");
        let ended = vm.end().await;
        assert_eq!(ended.how, ExitKind::Signal(9));
        assert!(bench.jailed().is_empty(), "{:?}", bench.jailed());

        spec.run_dir = bench.run_dir(&format!("generation{generation}"));
        let began = Instant::now();
        vm = bench.launch(&spec, StartMode::Restore).unwrap();
        let mut vmm = vm.connect().await;
        assert_eq!(vmm.status().await.unwrap(), RunState::Waiting);
        vmm.restore(&files, DEADLINE).await.unwrap();
        assert_eq!(vmm.status().await.unwrap(), RunState::Paused);
        vmm.resume().await.unwrap();
        println!("started, loaded and resumed in {:?}", began.elapsed());
        assert_eq!(vmm.status().await.unwrap(), RunState::Running);
        let again = vmm.restore(&files, DEADLINE).await;
        assert!(matches!(again, Err(RestoreError::NotWaiting(RunState::Running))));
        assert_eq!(fs::metadata(&files.memory).unwrap().nlink(), 2, "the VM lost its memory");
    }
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused_and_the_process_ends() {
    let bench = bench!("what_cannot_be_loaded_is_refused_and_the_process_ends");
    let spec = bench.spec();
    let vm = bench.boot(&spec);
    let good = bench.snapshot("good");
    vm.connect().await.snapshot(&good, DEADLINE, std::future::pending()).await.unwrap();
    vm.end().await;
    let devices = fs::read(&good.devices).unwrap();
    let mut flipped = devices.clone();
    flipped[devices.len() / 2] ^= 1;
    for (name, devices, memory) in [
        ("cut", &devices[..devices.len() / 2], MEM_MIB << 20),
        ("flipped", &flipped, MEM_MIB << 20),
        ("empty", b"", MEM_MIB << 20),
        ("short", &devices, (MEM_MIB << 20) - 4096),
    ] {
        let bad = bench.snapshot(name);
        fs::write(&bad.devices, devices).unwrap();
        fs::File::create(&bad.memory).unwrap().set_len(memory).unwrap();
        for path in [&bad.devices, &bad.memory] {
            std::os::unix::fs::chown(path, Some(0), Some(spec.gid)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o440)).unwrap();
        }
        let other = VmSpec { run_dir: bench.run_dir(name), ..spec.clone() };
        let mut waiting = bench.launch(&other, StartMode::Restore).unwrap();
        let error = waiting.connect().await.restore(&bad, DEADLINE).await.unwrap_err();
        println!("{name}: {error}");
        assert!(matches!(error, RestoreError::Refused(_)), "{name}: {error:?}");
        waiting.shim.wait().unwrap();
        assert!(bench.jailed().is_empty());
    }
}

#[tokio::test]
async fn a_sleep_given_up_leaves_a_vm_that_goes_on() {
    let bench = bench!("a_sleep_given_up_leaves_a_vm_that_goes_on");
    let vm = bench.boot(&bench.spec());
    let mut vmm = vm.connect().await;
    let files = bench.snapshot("cancelled");
    let cancelled = vmm.snapshot(&files, DEADLINE, std::future::ready(())).await;
    assert!(matches!(cancelled, Err(SnapshotError::Cancelled)), "{cancelled:?}");
    vmm.resume().await.unwrap();
    let files = bench.snapshot("late");
    let late = vmm.snapshot(&files, Duration::from_millis(1), std::future::pending()).await;
    assert!(matches!(late, Err(SnapshotError::Deadline(_))), "{late:?}");
    // The API answers again when it is done with what nobody waits for.
    vmm.resume().await.unwrap();
    assert_eq!(vmm.status().await.unwrap(), RunState::Running);
    let files = bench.snapshot("whole");
    vmm.snapshot(&files, DEADLINE, std::future::pending()).await.unwrap();
    let twice = vmm.snapshot(&files, DEADLINE, std::future::pending()).await;
    assert!(matches!(twice, Err(SnapshotError::File(_))), "{twice:?}");
}

#[tokio::test]
async fn a_vm_outlives_its_supervisor_and_is_taken_over() {
    let bench = bench!("a_vm_outlives_its_supervisor_and_is_taken_over");
    let spec = bench.spec();
    let mut vm = bench.boot(&spec);
    vm.shim.kill().unwrap();
    vm.shim.wait().unwrap();
    assert_eq!(vm.connect().await.status().await.unwrap(), RunState::Running);
    let mut next = Command::new(HELPER)
        .arg("take-over")
        .arg(&spec.run_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let report = Report::receive(next.stdout.take().unwrap()).unwrap();
    assert_eq!(report, Report::Started(vm.process.clone()));
    let running = RunningRecord::load(&spec.run_dir).unwrap().unwrap();
    assert_eq!(running.supervisor.pid, next.id());
    let thief = VmSpec { drives: spec.drives.clone(), ..bench.spec() };
    assert_eq!(bench.launch(&thief, StartMode::Boot).err().unwrap().kind, "drive-in-use");
    process::kill(&vm.process, DEADLINE).await.unwrap();
    next.wait().unwrap();
    assert!(ExitRecord::load(&spec.run_dir).unwrap().is_some());
    assert!(bench.jailed().is_empty(), "its jail is left");
}

#[tokio::test]
async fn a_second_vm_of_an_instance_and_one_on_a_drive_in_use_are_refused() {
    let bench = bench!("a_second_vm_of_an_instance_and_one_on_a_drive_in_use_are_refused");
    let spec = bench.spec();
    let vm = bench.boot(&spec);
    assert_eq!(bench.launch(&spec, StartMode::Boot).err().unwrap().kind, "running");
    let thief = VmSpec { drives: spec.drives.clone(), ..bench.spec() };
    assert_eq!(bench.launch(&thief, StartMode::Boot).err().unwrap().kind, "drive-in-use");
    assert_eq!(bench.jailed().len(), 1);
    assert_eq!(vm.connect().await.status().await.unwrap(), RunState::Running);
}

#[tokio::test]
async fn what_does_not_start_says_why_and_leaves_nothing() {
    let bench = bench!("what_does_not_start_says_why_and_leaves_nothing");
    let mut spec = bench.spec();
    spec.kernel = bench.dir.path().join("initrd");
    let failure = bench.launch(&spec, StartMode::Boot).err().unwrap();
    println!("{failure}");
    assert_eq!(failure.kind, "api");
    assert!(failure.message.contains("Firecracker refused PUT /"), "{failure}");
    assert!(bench.jailed().is_empty());
    let running = RunningRecord::load(&spec.run_dir).unwrap();
    assert!(running.is_none_or(|running| !process::is_alive(&running.process)));
}
