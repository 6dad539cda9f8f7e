//! The machine: one QEMU process, which does not outlive the thread that boots it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::disk::{Disk, PowerCut};

/// How long QEMU's monitor may take to stop the machine.
const MONITOR: Duration = Duration::from_secs(20);

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Processors.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// More arguments for QEMU, such as a network between machines.
    pub arguments: Vec<String>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { cpus: 2, memory_mib: 1536, arguments: Vec::new() }
    }
}

/// A machine that has power.
pub struct Machine {
    qemu: Child,
    /// The socket of the channel's port.
    pub channel: PathBuf,
    /// Where the console goes.
    pub console: PathBuf,
    monitor: PathBuf,
    /// Sockets are here: their paths must be short.
    _sockets: tempfile::TempDir,
}

impl Machine {
    /// Switches a machine on. It has an identity of its own that outlives boots.
    pub fn start(name: &str, dir: &Path, disk: &mut Disk, shape: &Shape) -> Self {
        let sockets = tempfile::tempdir().expect("a directory for sockets");
        let (channel, monitor) = (sockets.path().join("channel"), sockets.path().join("monitor"));
        let console = dir.join("console");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-name", name]);
        // Four-level paging, as nearly all hosts have: a level more is paid for on every miss.
        command.args(["-M", "q35,accel=tcg", "-cpu", "max,-la57", "-nodefaults"]);
        command.args(["-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-smp", &shape.cpus.to_string(), "-m", &shape.memory_mib.to_string()]);
        command.arg("-kernel").arg(&disk.kernel).arg("-initrd").arg(&disk.initrd);
        command.args(["-append", &command_line(dir)]);
        let log = format!("file,id=console,append=on,path={}", console.display());
        command.args(["-chardev", &log, "-serial", "chardev:console"]);
        command.args(["-blockdev", &disk.prepare()]);
        // QEMU merges requests up to the 1,024 parts the host's kernel takes at once, and its log
        // adds two: such a write would fail (seen with 7.2).
        let disk_device = "virtio-blk-pci,drive=disk,write-cache=on,request-merging=off";
        command.args(["-device", disk_device]);
        command.args(["-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"]);
        let socket =
            |id, path: &Path| format!("socket,id={id},server=on,wait=off,path={}", path.display());
        command.args(["-chardev", &socket("channel", &channel), "-device", "virtio-serial-pci"]);
        command.args(["-device", "virtserialport,chardev=channel,name=mvm.agent"]);
        command.args([
            "-chardev",
            &socket("monitor", &monitor),
            "-mon",
            "chardev=monitor,mode=control",
        ]);
        command.args(&shape.arguments);
        let said = File::create(dir.join("qemu")).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        // SAFETY: between fork and exec only this one system call is made.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let qemu = command.spawn().expect("QEMU starts");
        Self { qemu, channel, console, monitor, _sockets: sockets }
    }

    /// Waits until the machine turned itself off.
    ///
    /// # Errors
    /// What happened instead; the machine is off all the same.
    pub fn wait(mut self, disk: &mut Disk, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.qemu.try_wait().expect("QEMU is a child") {
                disk.ended();
                return if status.success() { Ok(()) } else { Err(format!("QEMU: {status}")) };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill(disk, PowerCut::KeepsUnflushed);
        Err(format!("it was still on after {limit:?}"))
    }

    /// Takes the power away.
    pub fn kill(mut self, disk: &mut Disk, cut: PowerCut) {
        let acknowledged = disk.acknowledged();
        // Completes what QEMU has in hand, so that its log ends with whole entries. The flush
        // that belongs to it comes after the count above.
        if let Err(why) = stop(&self.monitor) {
            eprintln!("the monitor does not stop the machine: {why}");
        }
        self.qemu.kill().expect("QEMU is a child");
        self.qemu.wait().expect("QEMU is a child");
        disk.lost_power(acknowledged, cut);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The kernel's command line. The rate of the time stamp counter is told: on a busy machine the
/// kernel measures nonsense.
fn command_line(dir: &Path) -> String {
    format!(
        "console=ttyS0 loglevel=4 panic=-1 tsc=reliable tsc_early_khz={} systemd.machine_id={:032x}",
        counter_khz(),
        identity(dir)
    )
}

/// A machine id: the same for every boot of one machine.
fn identity(dir: &Path) -> u128 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    // The version and variant bits of a random UUID, as systemd makes them.
    u128::from(hasher.finish()) << 64 & !(0xf << 76) | 4 << 76 | 2 << 62 | 1
}

/// The rate of the time stamp counter, which the emulated processor shows as it is.
fn counter_khz() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
    let read = || (unsafe { core::arch::x86_64::_rdtsc() }, Instant::now());
    let (first, began) = read();
    std::thread::sleep(Duration::from_millis(50));
    let (last, ended) = read();
    last.wrapping_sub(first).saturating_mul(1_000_000) / (ended - began).as_nanos() as u64
}

/// Stops the processors through QEMU's monitor.
fn stop(socket: &Path) -> std::io::Result<()> {
    let mut monitor = UnixStream::connect(socket)?;
    monitor.set_read_timeout(Some(MONITOR))?;
    monitor.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"stop\",\"id\":1}\n")?;
    for line in BufReader::new(monitor).lines() {
        if line?.contains("\"id\": 1") {
            return Ok(());
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}
