//! A small vocabulary for tests of one VM process: a guest made of the test kernel, the test
//! initrd's modules and a busybox script that counts on its console, supervised by the helper.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mvm_model::InstanceId;
use mvm_model::vm::{Accel, ProcessId, VmmKind};
use mvm_vmm::qemu::QemuBinary;
use mvm_vmm::supervisor::{CONSOLE_LOG, Failure, VMM_LOG, ring};
use mvm_vmm::{
    Access, AnyVmm, Drive, ExitRecord, Launch, Program, Report, SnapshotFiles, StartMode, VmSpec,
    process,
};
use nix::sys::signal::Signal;

/// The stand-in for `mvm`.
pub(crate) const HELPER: &str = env!("CARGO_BIN_EXE_mvm-vmm-test-helper");

/// For a host with ten times more to do than it can.
const PATIENCE: Duration = Duration::from_secs(120);

/// The guest's script: counts on its console and, when there is one, in the data drive.
/// `mvm.test=flood` makes it talk without end instead.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
exec >/dev/console 2>&1 </dev/console
for m in /modules/*; do $b insmod $m; done
cd /sys/block
for d in vd*; do [ -e $d ] && echo "drive $d $($b cat $d/size) ro=$($b cat $d/ro)"; done
for p in /sys/class/virtio-ports/*; do [ -e $p ] && echo "port $($b cat $p/name)"; done
cd /sys/class/net
[ -e eth0 ] && echo "net $($b cat eth0/address) mtu=$($b cat eth0/mtu)"
save() { [ -e /dev/vdb ] && echo "saved $1" | $b dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null; }
id=$($b head -c 16 /dev/urandom | $b md5sum | $b cut -c1-8)
n=0
if $b grep -q mvm.test=flood /proc/cmdline; then
  line="flood flood flood flood flood flood flood flood flood flood flood flood flood flood"
  while :; do
    n=$((n+1)); save $n
    i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo "$line"; done
  done
fi
while :; do n=$((n+1)); echo "count $n id $id"; save $n; $b sleep 0.1; done
"#;

/// What every test needs; made once per test.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    kernel: PathBuf,
    initrd: PathBuf,
    given: PathBuf,
    pub(crate) qemu: QemuBinary,
}

impl Bench {
    /// The bench, or why there is none.
    pub(crate) async fn new() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".into());
        }
        let var = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set"))
        };
        let (kernel, given) = (var("MVM_TEST_KERNEL")?, var("MVM_TEST_INITRD")?);
        let busybox = fs::read("/bin/busybox").map_err(|_| "busybox-static is missing")?;
        let qemu = QemuBinary::find().await.map_err(|error| error.to_string())?;
        // Where everybody may look for it.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let initrd = dir.path().join("initrd");
        let mut archive = fs::read(&given).map_err(|e| format!("MVM_TEST_INITRD: {e}"))?;
        archive.resize(archive.len().next_multiple_of(512), 0);
        // A later archive's files replace those of an earlier one.
        archive.extend(cpio(&[
            ("bin", 0o040_755, b""),
            ("bin/busybox", 0o100_755, &busybox),
            ("init", 0o100_755, INIT.as_bytes()),
        ]));
        fs::write(&initrd, archive).unwrap();
        Ok(Self { dir, kernel, initrd, given, qemu })
    }

    /// A spec without drives and network, with a run directory and a uid of its own.
    pub(crate) fn spec(&self) -> VmSpec {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Longer than a socket address holds.
        let run_dir = self.dir.path().join("long".repeat(30)).join(format!("vm{number}"));
        fs::create_dir_all(&run_dir).unwrap();
        fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o700)).unwrap();
        VmSpec {
            instance: InstanceId::from_bits(number),
            vmm: VmmKind::Qemu,
            accel: Accel::Tcg,
            vcpus: 1,
            mem_mib: 128,
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            cmdline: String::new(),
            drives: vec![],
            net: None,
            uid: 1_912_300_000 + (std::process::id() % 10_000) * 10 + number,
            gid: 1_912_300_000 + (std::process::id() % 10_000) * 10 + number,
            run_dir,
        }
    }

    /// A raw image of this many MiB.
    pub(crate) fn drive(&self, name: &str, mib: u64, access: Access) -> Drive {
        let path = self.dir.path().join(name);
        fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Drive { path, access }
    }

    /// Where a snapshot is or will be.
    pub(crate) fn memory(&self, name: &str) -> SnapshotFiles {
        let memory = self.dir.path().join(name);
        SnapshotFiles { devices: memory.with_extension("devices"), memory }
    }

    /// The initrd as it was given, which knows `mvm.probe`.
    pub(crate) fn given_initrd(&self) -> &Path {
        &self.given
    }

    /// The counting initrd.
    pub(crate) fn initrd(&self) -> &Path {
        &self.initrd
    }

    pub(crate) fn kernel(&self) -> &Path {
        &self.kernel
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The usual four drives, of 1, 2, 3 and 4 MiB.
    pub(crate) fn four_drives(&self) -> Vec<Drive> {
        vec![
            self.drive("root", 1, Access::ReadOnly),
            self.drive("data", 2, Access::ReadWrite),
            self.drive("secrets", 3, Access::ReadOnly),
            self.drive("config", 4, Access::ReadOnly),
        ]
    }

    /// Starts a VM under a supervisor of its own.
    pub(crate) fn launch(&self, spec: &VmSpec, mode: StartMode) -> Result<Vm, Failure> {
        let launch = Launch { spec: spec.clone(), mode, program: Program::Qemu(self.qemu.clone()) };
        let mut shim = Command::new(HELPER)
            .arg("shim")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        serde_json::to_writer(shim.stdin.take().unwrap(), &launch).unwrap();
        match Report::receive(shim.stdout.take().unwrap()).unwrap() {
            Report::Started(process) => Ok(Vm { spec: spec.clone(), shim, process }),
            Report::Failed(failure) => {
                shim.wait().unwrap();
                Err(failure)
            }
        }
    }

    /// Boots a VM and waits until its script counts.
    pub(crate) async fn counting(&self, spec: &VmSpec) -> Vm {
        let vm = self.launch(spec, StartMode::Boot).unwrap();
        vm.says("count 3 ").await;
        vm
    }
}

/// A running VM; killed with its supervisor when dropped.
pub(crate) struct Vm {
    pub(crate) spec: VmSpec,
    pub(crate) shim: Child,
    pub(crate) process: ProcessId,
}

impl Vm {
    pub(crate) fn log(&self, name: &str) -> String {
        let bytes = ring::read(&self.spec.run_dir.join(name), 1 << 20).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) async fn connect(&self) -> AnyVmm {
        AnyVmm::connect(VmmKind::Qemu, &self.spec.run_dir).await.unwrap()
    }

    /// Waits until the console holds a text.
    pub(crate) async fn says(&self, text: &str) {
        let said = eventually(|| self.log(CONSOLE_LOG).contains(text)).await;
        assert!(
            said,
            "no {text:?} on the console:\n{}\nlog:\n{}",
            self.log(CONSOLE_LOG),
            self.log(VMM_LOG)
        );
    }

    /// The last complete count on the console, and the guest's random id.
    pub(crate) fn count(&self) -> (u64, String) {
        let console = self.log(CONSOLE_LOG);
        let line = console
            .split_inclusive('\n')
            .rfind(|line| line.starts_with("count ") && line.ends_with('\n'))
            .unwrap_or_else(|| panic!("no count in {console}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[1].parse().unwrap(), words[3].to_owned())
    }

    /// Whether the script counts on within the patience of a test.
    pub(crate) async fn counts_on(&self) -> bool {
        let before = self.count().0;
        eventually(|| self.count().0 > before + 1).await
    }

    /// What the guest last wrote to its data drive (the second).
    pub(crate) fn saved(&self) -> u64 {
        let drive = fs::read(&self.spec.drives[1].path).unwrap();
        let text = String::from_utf8_lossy(&drive[..64]).into_owned();
        let number = text.strip_prefix("saved ").and_then(|rest| rest.split('\n').next());
        number.map_or(0, |digits| digits.parse().unwrap())
    }

    /// Kills the supervisor and starts another.
    pub(crate) fn change_supervisor(&mut self) {
        self.shim.kill().unwrap();
        self.shim.wait().unwrap();
        let mut next = Command::new(HELPER);
        next.arg("take-over").arg(&self.spec.run_dir).stdout(Stdio::piped());
        self.shim = next.spawn().unwrap();
        let report = Report::receive(self.shim.stdout.take().unwrap()).unwrap();
        assert_eq!(report, Report::Started(self.process.clone()));
    }

    /// Whether the guest writes on to its data drive.
    pub(crate) async fn saves_on(&self) -> bool {
        let before = self.saved();
        eventually(|| self.saved() > before + 1).await
    }

    /// The exit record, once it is there.
    pub(crate) async fn exit(&self) -> ExitRecord {
        let load = || ExitRecord::load(&self.spec.run_dir).unwrap();
        assert!(eventually(|| load().is_some()).await, "no exit record");
        load().unwrap()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Ok(Some(handle)) = process::Handle::open(&self.process) {
            handle.signal(Signal::SIGKILL).unwrap();
            handle.wait(PATIENCE).unwrap();
        }
        let ended = Instant::now() + PATIENCE;
        while matches!(self.shim.try_wait(), Ok(None)) && Instant::now() < ended {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.shim.kill();
        let _ = self.shim.wait();
    }
}

/// Polls a condition until it holds.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// A newc archive of (name, mode, content).
fn cpio(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let trailer: (&str, u32, &[u8]) = ("TRAILER!!!", 0, b"");
    for (number, (name, mode, content)) in entries.iter().chain([&trailer]).enumerate() {
        let fields =
            [number + 1, *mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        out.extend(b"070701");
        for field in fields {
            out.extend(format!("{field:08x}").bytes());
        }
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(*content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}
