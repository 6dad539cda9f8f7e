//! The VMM's part of a wake, from the request to vCPUs that execute: a real Firecracker in its
//! jail, beside a bare script that does the same with the same files.
//!
//! ```text
//!  ours, fresh        supervisor ─ jail ─ jailer ─ listens ─┐
//!  ours, it waited    ──────────────────────────────────────┴─ load ─ mark, synced ─ resume
//!  bare               links ─ jailer ─ listens ─ load and resume in one call
//! ```
//!
//! The guest is four bytes that wait, so that it can be measured wherever a VM can be made, also
//! where /dev/kvm runs no kernel. Nobody answers in it and nothing limits it: what is below the
//! guest is what is measured. The three take turns, so that a machine whose speed drifts slows all.
//!
//! Loading a VM waits for a grace period of the kernel, which ends with a tick, and so did the end of
//! the VM before: left alone, each would always begin at the same moment of a tick and its time fall
//! into steps of one. So each round begins at another moment of it, the same for all three.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mvm_agent::Dirs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::shim::{self, Order, Task};
use mvm_model::InstanceId;
use mvm_model::vm::{Accel, ProcessId, VmmKind};
use mvm_vmm::firecracker::{Binaries, Search};
use mvm_vmm::{
    Access, AnyVmm, Drive, Jailed, Launch, Placement, Program, Report, SnapshotFiles, StartMode,
    VmSpec, Vmm, process,
};
use serde::{Deserialize, Serialize};

use super::fleet::millis;
use super::series::Series;

/// Guest memory, MiB.
const MEM_MIB: u64 = 128;
/// Nobody's, and none an instance gets.
const UID: u32 = 1_999_000_001;
const LIMIT: Duration = Duration::from_secs(60);
/// A whole number of ticks, at whatever rate a kernel has them.
const TICKS: Duration = Duration::from_millis(20);
/// The golden ratio's part: multiples of it are spread evenly, however many there are.
const SPREAD: f64 = 0.618_034;

/// What was measured, or why it was not.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wake {
    /// It was.
    Measured(Figures),
    /// It cannot be measured here.
    NotMeasured(String),
}

/// The VMM's part of a wake.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// Version and conditions.
    pub conditions: String,
    /// Ours, everything started for it, milliseconds.
    pub fresh_ms: Series,
    /// Ours, in a VMM that waited.
    pub waited_ms: Series,
    /// The script.
    pub bare_ms: Series,
    /// Fresh to bare, medians.
    pub fresh_ratio: f64,
    /// Waited to bare, medians.
    pub waited_ratio: f64,
    /// What ours is made of, milliseconds by name.
    pub phases_ms: BTreeMap<String, Series>,
}

fn failed(doing: &str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::new(Kind::Failed, "bench", format!("cannot {doing}")).because(error)
}

/// Measures so often.
///
/// # Errors
/// When something that worked stops working.
pub async fn measure(exe: &Path, rounds: u32) -> Result<Wake> {
    let binaries = match find().await {
        Ok(binaries) => binaries,
        Err(reason) => return Ok(Wake::NotMeasured(reason)),
    };
    // Links between all of it must be possible.
    let dir = tempfile::tempdir_in("/var/tmp").map_err(failed("make a directory"))?;
    // Records and sockets are in memory, as a host's are.
    let run = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(dir.path()));
    let run = run.map_err(failed("make a directory"))?;
    let paths = (dir.path().to_owned(), run.path().to_owned());
    let bench = Bench { dir: paths.0, run: paths.1, exe: exe.to_owned(), binaries };
    bench.prepare().map_err(failed("prepare the guest's files"))?;
    let files = match bench.snapshot().await {
        Ok(files) => files,
        Err(error) => return Ok(Wake::NotMeasured(error.chain())),
    };
    let (mut fresh, mut waited, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let mut phases: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds {
        let pause = TICKS.mul_f64((f64::from(round) * SPREAD).fract());
        let (one, other) = (bench.fresh(&files, pause).await?, bench.waited(&files, pause).await?);
        let by_hand = bench.bare(&files, pause).map_err(failed("do it by hand"))?;
        // The first one fills caches.
        if round == 0 {
            continue;
        }
        for (of, timed) in [("fresh", &one), ("waited", &other)] {
            for (name, took) in &timed.phases {
                phases.entry(format!("{of}: {name}")).or_default().push(millis(*took));
            }
        }
        fresh.push(millis(one.took()));
        waited.push(millis(other.took()));
        bare.push(millis(by_hand));
    }
    let phases_ms = phases.into_iter().map(|(name, times)| (name, Series::of(times))).collect();
    let [fresh_ms, waited_ms, bare_ms] = [fresh, waited, bare].map(Series::of);
    Ok(Wake::Measured(Figures {
        conditions: format!(
            "Firecracker {}, {MEM_MIB} MiB, limits: none, guest: not answering",
            bench.binaries.version
        ),
        fresh_ratio: fresh_ms.median / bare_ms.median,
        waited_ratio: waited_ms.median / bare_ms.median,
        fresh_ms,
        waited_ms,
        bare_ms,
        phases_ms,
    }))
}

/// Installed as mvm's own, or where the tests keep it.
async fn find() -> std::result::Result<Binaries, String> {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Err(format!("/dev/kvm cannot be used: {error}"));
    }
    let var = |name: &str| std::env::var_os(name);
    let dirs = Dirs::from_env(var);
    let mut search = Search::from_env(&dirs.bin(), var);
    let cache = var("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&var("HOME")?).join(".cache")));
    search.dirs.extend(cache.map(|cache| cache.join("mvm-test/bin")));
    Binaries::find(&search).await.map_err(|error| error.to_string())
}

struct Bench {
    dir: PathBuf,
    run: PathBuf,
    exe: PathBuf,
    binaries: Binaries,
}

/// How long the parts of something took.
struct Timed {
    last: Instant,
    phases: Vec<(&'static str, Duration)>,
}

impl Timed {
    fn start(pause: Duration) -> Self {
        std::thread::sleep(pause);
        Self { last: Instant::now(), phases: Vec::new() }
    }

    fn phase(&mut self, name: &'static str) {
        let now = Instant::now();
        self.phases.push((name, now - self.last));
        self.last = now;
    }

    fn took(&self) -> Duration {
        self.phases.iter().map(|(_, took)| *took).sum()
    }
}

/// A VM and who watches it.
struct Vm {
    run_dir: PathBuf,
    process: ProcessId,
    shim: std::process::Child,
}

impl Vm {
    async fn connect(&self) -> Result<AnyVmm> {
        let vmm = AnyVmm::connect(VmmKind::Firecracker, &self.run_dir).await;
        vmm.map_err(|error| refused("reach the VM", error))
    }

    async fn end(mut self) -> Result<()> {
        process::kill(&self.process, LIMIT).await.map_err(failed("end the VM"))?;
        self.shim.wait().map(drop).map_err(failed("end the VM's supervisor"))
    }
}

fn refused(doing: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Failed, "bench", format!("cannot {doing}")).because(error)
}

impl Bench {
    fn prepare(&self) -> std::io::Result<()> {
        fs::write(self.dir.join("kernel"), waiting_kernel())?;
        fs::write(self.dir.join("initrd"), "nothing")?;
        for name in ["kernel", "initrd"] {
            fs::set_permissions(self.dir.join(name), fs::Permissions::from_mode(0o444))?;
        }
        fs::File::create(self.dir.join("data"))?.set_len(1 << 20)?;
        let run_dir = self.run_dir();
        fs::create_dir_all(&run_dir)?;
        fs::set_permissions(run_dir, fs::Permissions::from_mode(0o700))
    }

    fn run_dir(&self) -> PathBuf {
        self.run.join("i-00000001")
    }

    fn spec(&self) -> VmSpec {
        let drive = |name: &str, access| Drive { path: self.dir.join(name), access };
        VmSpec {
            instance: InstanceId::from_bits(1),
            vmm: VmmKind::Firecracker,
            accel: Accel::Kvm,
            vcpus: 1,
            mem_mib: MEM_MIB,
            kernel: self.dir.join("kernel"),
            initrd: self.dir.join("initrd"),
            cmdline: String::new(),
            drives: vec![drive("initrd", Access::ReadOnly), drive("data", Access::ReadWrite)],
            net: None,
            uid: UID,
            gid: UID,
            run_dir: self.run_dir(),
        }
    }

    fn launch(&self, mode: StartMode) -> Result<Vm> {
        let program = Program::Firecracker(Jailed {
            binaries: self.binaries.clone(),
            jails: self.dir.join("jails"),
            placement: Placement::Unlimited,
        });
        let launch = Launch { spec: self.spec(), mode, program };
        let dir = self.dir.clone();
        let order = Order {
            task: Task::Launch { launch: Box::new(launch), tap: None },
            instance: "bench/bench/i-00000001".into(),
            dirs: Dirs::from_env(move |name| Some(dir.join("mvm").join(name).into())),
            unit: false,
        };
        let start = || {
            let mut shim = Command::new(&self.exe)
                .arg(shim::SUBCOMMAND)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?;
            let closed = || std::io::Error::other("no pipe to the supervisor");
            let mut stdin = shim.stdin.take().ok_or_else(closed)?;
            stdin.write_all(&serde_json::to_vec(&order)?)?;
            drop(stdin);
            let report = Report::receive(shim.stdout.take().ok_or_else(closed)?)?;
            Ok((shim, report))
        };
        match start().map_err(failed("start a supervisor"))? {
            (shim, Report::Started(process)) => Ok(Vm { run_dir: self.run_dir(), process, shim }),
            (mut shim, Report::Failed(failure)) => {
                let _ = shim.wait();
                Err(Error::new(Kind::Failed, "bench", "cannot start a VM").because(failure))
            }
        }
    }

    /// What everybody loads.
    async fn snapshot(&self) -> Result<SnapshotFiles> {
        let dir = self.dir.join("snapshot");
        fs::create_dir_all(&dir).map_err(failed("make a directory"))?;
        let files = SnapshotFiles::in_dir(&dir);
        let vm = self.launch(StartMode::Boot)?;
        let saved = vm.connect().await?.snapshot(&files, LIMIT, std::future::pending()).await;
        vm.end().await?;
        saved.map_err(|error| refused("save the VM", error))?;
        Ok(files)
    }

    async fn fresh(&self, files: &SnapshotFiles, pause: Duration) -> Result<Timed> {
        let mut timed = Timed::start(pause);
        let vm = self.launch(StartMode::Restore)?;
        timed.phase("start");
        self.wake(&vm, files, &mut timed).await?;
        vm.end().await.map(|()| timed)
    }

    async fn waited(&self, files: &SnapshotFiles, pause: Duration) -> Result<Timed> {
        let vm = self.launch(StartMode::Restore)?;
        // It is up, and not only about to be.
        vm.connect().await?.status().await.map_err(|error| refused("ask the VM", error))?;
        let mut timed = Timed::start(pause);
        self.wake(&vm, files, &mut timed).await?;
        vm.end().await.map(|()| timed)
    }

    /// Load, mark, resume: what the driver does.
    async fn wake(&self, vm: &Vm, files: &SnapshotFiles, timed: &mut Timed) -> Result<()> {
        let mut vmm = vm.connect().await?;
        vmm.restore(files, LIMIT).await.map_err(|error| refused("load the VM", error))?;
        timed.phase("load");
        let mark = || {
            fs::File::create(self.dir.join("snapshot/consumed"))?.sync_all()?;
            fs::File::open(self.dir.join("snapshot"))?.sync_all()
        };
        mark().map_err(failed("mark the snapshot"))?;
        timed.phase("mark");
        vmm.resume().await.map_err(|error| refused("resume the VM", error))?;
        timed.phase("resume");
        fs::remove_file(self.dir.join("snapshot/consumed")).map_err(failed("unmark the snapshot"))
    }

    /// What a script does: a directory with links, the jailer, one call.
    fn bare(&self, files: &SnapshotFiles, pause: Duration) -> std::io::Result<Duration> {
        let base = self.dir.join("bare");
        let root = base.join("firecracker/bare/root");
        let _ = fs::remove_dir_all(&base);
        std::thread::sleep(pause);
        let began = Instant::now();
        for dir in ["drives", "snapshot"] {
            fs::create_dir_all(root.join(dir))?;
        }
        for (from, to) in [
            (self.dir.join("initrd"), "drives/root"),
            (self.dir.join("data"), "drives/data"),
            (files.devices.clone(), "snapshot/devices"),
            (files.memory.clone(), "snapshot/memory"),
        ] {
            fs::hard_link(from, root.join(to))?;
        }
        chown(root.join("drives/data"), Some(UID), Some(UID))?;
        let mut jailer = Command::new(&self.binaries.jailer);
        jailer.args(["--id", "bare", "--exec-file"]).arg(&self.binaries.firecracker);
        jailer.args(["--uid", &UID.to_string(), "--gid", &UID.to_string()]);
        jailer.arg("--chroot-base-dir").arg(&base).arg("--new-pid-ns");
        jailer.args(["--", "--api-sock", "/run/api.sock", "--level", "Error"]);
        jailer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if !jailer.status()?.success() {
            return Err(std::io::Error::other("the jailer failed"));
        }
        let mut stream = connect(&root.join("run/api.sock"))?;
        put(&mut stream, "/snapshot/load", LOAD)?;
        let took = began.elapsed();
        let pid = fs::read_to_string(root.join("firecracker.pid"))?;
        let pid: u32 = pid.trim().parse().map_err(std::io::Error::other)?;
        let firecracker = process::identify(pid)?;
        if let Some(handle) = process::Handle::open(&firecracker)? {
            handle.signal(nix::sys::signal::Signal::SIGKILL)?;
            handle.wait(LIMIT)?;
        }
        fs::remove_dir_all(&base)?;
        Ok(took)
    }
}

const LOAD: &str = r#"{"snapshot_path": "/snapshot/devices", "mem_backend": {"backend_type": "File",
    "backend_path": "/snapshot/memory"}, "resume_vm": true}"#;

fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Err(_) if began.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(1)),
            connected => return connected,
        }
    }
}

fn put(stream: &mut UnixStream, path: &str, body: &str) -> std::io::Result<()> {
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer)?;
    match answer[..length].starts_with(b"HTTP/1.1 204") {
        true => Ok(()),
        false => {
            Err(std::io::Error::other(String::from_utf8_lossy(&answer[..length]).into_owned()))
        }
    }
}

/// A 64-bit ELF program that waits for an interrupt that never comes.
fn waiting_kernel() -> Vec<u8> {
    // cli; hlt; jmp hlt
    const CODE: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];
    const LOAD: u64 = 0x10_0000;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    // A program for x86_64 that begins where it is loaded, with one program header behind this.
    [2_u16, 62].iter().for_each(|half| elf.extend(half.to_le_bytes()));
    elf.extend(1_u32.to_le_bytes());
    [LOAD, 64, 0].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend(0_u32.to_le_bytes());
    [64_u16, 56, 1, 64, 0, 0].iter().for_each(|half| elf.extend(half.to_le_bytes()));
    [1_u32, 7].iter().for_each(|half| elf.extend(half.to_le_bytes()));
    let size = CODE.len() as u64;
    [120, LOAD, LOAD, size, size, 0x1000].iter().for_each(|word| elf.extend(word.to_le_bytes()));
    elf.extend(CODE);
    elf
}
