//! A host of our own: a QEMU machine with Debian, systemd and an emulated processor that can run
//! virtual machines, in which a real Firecracker boots real guests. A test reads as sentences:
//!
//! ```text
//! let host = HostVm::boot("name")?;              // Err: why it cannot be had here
//! host.mvm(&["tenant", "create", "aa"]);         // must succeed; stdout
//! host.sh("systemctl start mvm-agent");          // must succeed; stdout
//! host.cut_power(PowerCut::LosesUnflushed);      // the machine is off, its disk as it would be
//! host.boot_again();
//! assert_eq!(host.read("/data/record"), b"…");
//! ```
//!
//! ```text
//!  root.sh ── Debian root, once per recipe ──┐
//!  this build, Firecracker, a guest image ───┴─ image.rs ─► one ext4 image, once per build
//!                                                               │ a copy per boot
//!  disk.rs    what the disk holds between boots ◄───────────────┤
//!  machine.rs the QEMU process                 ◄────────────────┘
//!  channel.rs mvm-guest as a service in it: programs and files, no network, no ssh
//! ```
//!
//! The machine has no network. Times in it are an emulated processor's: only ratios mean anything.

mod channel;
mod disk;
mod image;
mod machine;
mod parts;
mod recovery;

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::harness::Place;
use crate::common::world::{cache_dir, told};

use channel::Channel;
use disk::Disk;
pub use disk::PowerCut;
use machine::Machine;
pub use machine::Shape;

/// How long a boot may take, on a machine with ten times more to do than it can.
const BOOT: Duration = Duration::from_secs(120);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long an orderly end may take.
const SHUTDOWN: Duration = Duration::from_secs(60);
/// How long one look at a machine in which something failed may take.
const GLANCE: Duration = Duration::from_secs(15);

/// A host of our own.
pub struct HostVm {
    name: String,
    dir: PathBuf,
    shape: Shape,
    disk: RefCell<Disk>,
    running: RefCell<Option<Running>>,
    /// How often its kernel panicked.
    panics: Cell<usize>,
}

struct Running {
    machine: Machine,
    channel: Channel,
}

impl HostVm {
    /// Boots a machine with this build of mvm installed.
    ///
    /// # Errors
    /// Why it cannot be had here.
    pub fn boot(name: &str) -> Result<Self, String> {
        Self::boot_shaped(name, Shape::default())
    }

    /// Boots a machine of another shape.
    ///
    /// # Errors
    /// Why it cannot be had here.
    pub fn boot_shaped(name: &str, shape: Shape) -> Result<Self, String> {
        let cache = cache_dir();
        let parts = parts::find(&cache)?;
        let image = image::of(&parts, &cache.join("hostvm/images"))?;
        let worlds = cache.join("worlds");
        forget_the_dead(&worlds);
        let dir = worlds.join(format!("hostvm-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let disk = RefCell::new(Disk::new(&dir, &image, &parts.root));
        let host = Self {
            name: name.into(),
            dir,
            shape,
            disk,
            running: RefCell::new(None),
            panics: Cell::new(0),
        };
        host.boot_again();
        Ok(host)
    }

    /// Boots the machine, which is off, with the disk as it was left.
    pub fn boot_again(&self) {
        let mut running = self.running.borrow_mut();
        assert!(running.is_none(), "the host VM is running");
        let started = Instant::now();
        let mut disk = self.disk.borrow_mut();
        let machine = Machine::start(&self.name, &self.dir, &mut disk, &self.shape);
        let connected = Channel::connect(&machine.channel, started + BOOT);
        let channel = connected.unwrap_or_else(|why| {
            panic!("the host VM does not answer: {why}\n{}", tail(&machine.console, 60))
        });
        *running = Some(Running { machine, channel });
        drop((running, disk));
        // Degraded is an answer too: what failed is the business of who looks for it.
        self.run(&["systemctl", "is-system-running", "--wait"]);
        eprintln!("{}: up after {:.1} s", self.name, started.elapsed().as_secs_f64());
    }

    /// Runs a program to its end and returns everything about it.
    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with_input(args, &[])
    }

    /// Runs a program with bytes on its stdin.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        self.channel(|channel| channel.run(args, input, PATIENCE))
            .unwrap_or_else(|why| panic!("{}: {why}", args.join(" ")))
    }

    /// Runs a program, which must succeed; returns its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}\n{}", args.join(" "), told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell script, which must succeed; returns its trimmed stdout.
    pub fn sh(&self, script: &str) -> String {
        self.ok(&["sh", "-ec", script]).trim().to_owned()
    }

    /// Whether a shell script succeeds.
    pub fn can(&self, script: &str) -> bool {
        self.run(&["sh", "-ec", script]).status.success()
    }

    /// Runs `mvm`, which must succeed; returns its stdout.
    pub fn mvm(&self, args: &[&str]) -> String {
        self.ok(&[&["mvm"], args].concat())
    }

    /// Runs `mvm … --json`, which must succeed.
    pub fn mvm_json(&self, args: &[&str]) -> Value {
        let text = self.mvm(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }

    /// Runs `mvm`, which must fail with this exit code; returns its stderr.
    pub fn mvm_refuses(&self, args: &[&str], code: i32) -> String {
        let output = self.run(&[&["mvm"], args].concat());
        assert_eq!(output.status.code(), Some(code), "mvm {}\n{}", args.join(" "), told(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A file's content; `None` when there is no such file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.channel(|channel| channel.read(path, PATIENCE))
            .unwrap_or_else(|why| panic!("reading {path}: {why}"))
    }

    /// A file's content as trimmed text; it must exist.
    pub fn text(&self, path: &str) -> String {
        let bytes = self.read(path).unwrap_or_else(|| panic!("there is no {path}"));
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Makes or replaces a file. It is not on disk before somebody syncs.
    pub fn write(&self, path: &str, mode: u32, content: &[u8]) {
        self.channel(|channel| channel.write(path, mode, content, PATIENCE))
            .unwrap_or_else(|why| panic!("writing {path}: {why}"));
    }

    /// Polls until a shell script succeeds, or panics saying what did not come about.
    pub fn eventually(&self, what: &str, limit: Duration, script: &str) {
        let deadline = Instant::now() + limit;
        loop {
            let output = self.run(&["sh", "-ec", script]);
            if output.status.success() {
                return;
            }
            let late = Instant::now() > deadline;
            assert!(!late, "did not come about within {limit:?}: {what}\n{}", told(&output));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The kernel's id of this boot.
    pub fn boot_id(&self) -> String {
        self.text("/proc/sys/kernel/random/boot_id")
    }

    /// Takes the machine's power away. It is off afterwards.
    pub fn cut_power(&self, cut: PowerCut) {
        let running = self.running.borrow_mut().take().expect("the host VM is off already");
        running.machine.kill(&mut self.disk.borrow_mut(), cut);
    }

    /// Takes the power away and boots again.
    pub fn cut_power_and_boot(&self, cut: PowerCut) {
        self.cut_power(cut);
        self.boot_again();
    }

    /// Turns the machine off as a person would. It is off afterwards.
    pub fn shut_down(&self) {
        self.end("poweroff");
    }

    /// Reboots the machine as a person would.
    pub fn reboot(&self) {
        self.end("reboot");
        self.boot_again();
    }

    fn end(&self, verb: &str) {
        if let Err(why) = self.try_end(verb) {
            panic!("the host VM did not {verb}: {why}");
        }
    }

    fn try_end(&self, verb: &str) -> Result<(), String> {
        let running = self.running.borrow_mut().take().expect("the host VM is off already");
        running.channel.run(&["systemctl", "--no-block", verb], &[], SHUTDOWN)?;
        drop(running.channel);
        running.machine.wait(&mut self.disk.borrow_mut(), SHUTDOWN)
    }

    /// Whether the file system of the machine, which is off, is sound once its journal is
    /// replayed, as a boot does it.
    ///
    /// # Errors
    /// What `e2fsck` says.
    pub fn disk_is_sound(&self) -> Result<(), String> {
        assert!(self.running.borrow().is_none(), "the host VM is running");
        self.disk.borrow().check()
    }

    /// Everything the console said since the machine was first booted: kernel, systemd and what
    /// services logged.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.dir.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Keeps what tells how the machine is in a directory, which is returned.
    pub fn collect(&self, name: &str) -> PathBuf {
        const LOOK: [(&str, &str); 7] = [
            ("alive", ALIVE),
            ("instances", INSTANCES),
            ("journal", "journalctl -b --no-pager -o short-monotonic"),
            ("processes", "ps axo pid,ppid,uid,cgroup:60,stat,etime,args"),
            ("units", "systemctl --no-pager list-units --all 'mvm*'; systemctl --failed"),
            ("state", "find /var/lib/mvm /run/mvm /srv -xdev -printf '%M %U %s %p\\n'"),
            ("network", "ip -d addr; nft list ruleset"),
        ];
        let dir = self.dir.join(format!("collected-{name}"));
        let _ = fs::create_dir_all(&dir);
        let _ = fs::copy(self.dir.join("console"), dir.join("console"));
        for (file, script) in LOOK {
            let look = |channel: &Channel| channel.run(&["sh", "-c", script], &[], GLANCE);
            let seen = self.running.borrow().as_ref().map(|it| look(&it.channel));
            match seen {
                Some(Ok(output)) => drop(fs::write(dir.join(file), told(&output))),
                // It does not get better by asking again.
                Some(Err(why)) => return note(&dir, &why),
                None => return note(&dir, "the machine is off"),
            }
        }
        dir
    }

    fn channel<T>(&self, ask: impl FnOnce(&Channel) -> T) -> T {
        let running = self.running.borrow();
        ask(&running.as_ref().expect("the host VM is off").channel)
    }
}

/// What mvm says of its instances, the VMMs and consoles of those that are gone among it.
const INSTANCES: &str = "mvm instance list --json; mvm events; \
    for path in $(mvm instance list --json | \
        perl -MJSON::PP -0777 -ne 'print \"$_->{tenant_id}/$_->{pool_id}/$_->{instance_id} \" for @{decode_json $_}'); \
    do for of in vmm console; do echo \"== $of of $path\"; mvm instance logs $path --$of; done; done";

/// Whether guests do anything: what their processors use, and what they print, twice.
const ALIVE: &str = "for look in 1 2; do cat /proc/uptime; \
    ps -L -o pid,comm,stat,wchan:24,cputimes -C firecracker; \
    for task in /proc/[0-9]*/task/*; do grep -q fc_vcpu $task/comm 2>/dev/null && \
        cut -d' ' -f1,14,15,43 $task/stat; done; \
    ls -l --time-style=full-iso /run/mvm/vm/*/; sleep 2; done";

fn note(dir: &Path, why: &str) -> PathBuf {
    let _ = fs::write(dir.join("not-looked-at"), why);
    dir.to_owned()
}

impl Place for HostVm {
    fn enter(name: &str) -> Result<Self, String> {
        Self::boot(name)
    }

    fn failed(&self, scenario: &str) {
        let dir = self.collect(scenario);
        eprintln!("collected in {}; the console ended with\n{}", dir.display(), {
            tail(&dir.join("console"), 30)
        });
    }

    fn recovered(&self) -> Option<String> {
        self.recover()
    }

    fn leave(self) -> Vec<String> {
        let on = self.running.borrow().is_some();
        let ended = if on { self.try_end("poweroff") } else { Ok(()) };
        drop(self.running.take());
        forget(&self.dir);
        ended.err().into_iter().collect()
    }
}

/// Removes a machine's files, but for what was collected to be looked at.
fn forget(dir: &Path) {
    let names = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let starts =
        |entry: &fs::DirEntry, with: &str| entry.file_name().to_string_lossy().starts_with(with);
    for disk in names(dir).filter(|entry| starts(entry, "disk")) {
        let _ = fs::remove_file(disk.path());
    }
    if !names(dir).any(|entry| starts(&entry, "collected-")) {
        let _ = fs::remove_dir_all(dir);
    }
}

/// Machines whose test was killed: QEMU ended with it, the files are large.
fn forget_the_dead(worlds: &Path) {
    for entry in fs::read_dir(worlds).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("hostvm-").and_then(|rest| rest.rsplit('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            forget(&entry.path());
        }
    }
}

/// The last lines of a file.
fn tail(file: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
