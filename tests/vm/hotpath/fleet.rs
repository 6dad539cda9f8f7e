//! Instances on the fake Firecracker, and a hand on what goes wrong with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::{Child, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::world::{cache_dir, spawn, told, wait};
use crate::common::{Outcome, World};

/// The pool most scenarios share.
pub const POOL: &str = "fa/workers";
/// Another tenant's.
pub const OTHER: &str = "fb/workers";
/// How long anything may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

static MISSING: OnceLock<Option<String>> = OnceLock::new();
/// What goes wrong, by request.
static FAULTS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
/// How often something went wrong, so far.
static STRUCK: AtomicUsize = AtomicUsize::new(0);

/// Skips a scenario where there is no fake.
#[macro_export]
macro_rules! fakes {
    () => {
        if let Some(reason) = $crate::fleet::missing() {
            return $crate::common::Outcome::Skipped(reason);
        }
    };
}

/// Why there is no fleet.
pub fn missing() -> Option<String> {
    MISSING.get().cloned().flatten()
}

/// The fake and the real jailer.
fn programs() -> Result<(PathBuf, PathBuf), String> {
    let target = PathBuf::from(env!("CARGO_BIN_EXE_mvm"));
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let beside = target.parent().and_then(|dir| dir.parent()).expect("a target directory");
    let named = |name: &str, other: PathBuf| std::env::var_os(name).map_or(other, PathBuf::from);
    let fake =
        named("MVM_FAKE_FIRECRACKER", beside.join(triple).join("debug/mvm-fake-firecracker"));
    let jailer = named("MVM_JAILER", cache_dir().join("bin/jailer"));
    for (path, hint) in [
        (&fake, "cargo build -p mvm-fake --target <arch>-unknown-linux-musl"),
        (&jailer, "Firecracker's jailer"),
        (&PathBuf::from("/dev/kvm"), "KVM"),
    ] {
        if !path.exists() {
            return Err(format!("{} is missing ({hint})", path.display()));
        }
    }
    Ok((fake, jailer))
}

/// What this host's administrator decides.
pub fn settings(world: &World, text: &str) {
    fs::create_dir_all(world.path("etc")).expect("a directory");
    fs::write(world.path("etc/host.json"), text).expect("settings");
}

/// The settings of most scenarios.
pub fn usual(world: &World) {
    settings(world, r#"{"vmm": "firecracker", "limits": "none"}"#);
}

pub fn boot_a_fleet_of_fakes(world: &World) -> Outcome {
    let (fake, jailer) = match programs() {
        Ok(programs) => programs,
        Err(reason) => {
            MISSING.set(Some(reason.clone())).expect("set once");
            return Outcome::Skipped(reason);
        }
    };
    MISSING.set(None).expect("set once");
    let bin = world.path("state/bin");
    fs::create_dir_all(&bin).expect("a directory");
    fs::copy(fake, bin.join("firecracker")).expect("the fake");
    fs::copy(jailer, bin.join("jailer")).expect("the jailer");
    usual(world);
    listen();
    for (pool, count) in [(POOL, "4"), (OTHER, "1")] {
        let tenant = pool.split('/').next().expect("a tenant");
        world.ok(&["tenant", "create", tenant]);
        let size = ["--cpus", "1", "--mem", "128", "--data-disk", "16"];
        world.ok(&[&["pool", "create", pool, "--profile", "minimal"], &size[..]].concat());
        world.ok(&["pool", "build", pool]);
        world.ok(&["pool", "scale", pool, "--running", count]);
        for instance in world.members(pool) {
            world.ok(&["instance", "start", &instance]);
        }
    }
    Outcome::Passed
}

/// Tells fakes what goes wrong, in this namespace.
fn listen() {
    let name = SocketAddr::from_abstract_name("mvm-fake").expect("a name");
    let listener = UnixListener::bind_addr(&name).expect("nobody else listens here");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            let mut stream = BufReader::new(stream);
            if stream.read_line(&mut line).is_err() {
                continue;
            }
            let request = line.trim().split_once(' ').map_or("", |(_, request)| request);
            let fault = FAULTS.lock().expect("no panic").get(request).cloned().unwrap_or_default();
            STRUCK.fetch_add(usize::from(!fault.is_empty()), Ordering::SeqCst);
            let _ = writeln!(stream.get_mut(), "{fault}");
        }
    });
}

/// Something goes wrong with this request while `work` runs.
pub fn with_fault<T>(request: &str, fault: &str, work: impl FnOnce() -> T) -> T {
    FAULTS.lock().expect("no panic").insert(request.into(), fault.into());
    let result = work();
    FAULTS.lock().expect("no panic").remove(request);
    result
}

/// How often something went wrong, so far.
pub fn struck() -> usize {
    STRUCK.load(Ordering::SeqCst)
}

/// Starts `mvm` in the background.
pub fn begin(world: &World, args: &[&str]) -> Child {
    spawn(world.command(args))
}

/// Waits for one that was begun.
pub fn end(child: Child) -> Output {
    wait(child, &["in the background"])
}

/// Waits for one that was begun and must succeed; returns its stdout.
pub fn ended_well(child: Child) -> String {
    let output = end(child);
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a wake with its timings says.
pub fn wake(world: &World, instance: &str) -> Value {
    world.json(&["instance", "wake", instance, "--timings"])
}

/// The names of a transition's phases.
pub fn phases(timed: &Value) -> Vec<&str> {
    let phases = timed["phases"].as_array().into_iter().flatten();
    phases.filter_map(|phase| phase["name"].as_str()).collect()
}

/// Why a transition was slow.
pub fn slow(timed: &Value) -> String {
    let slow = timed["slow"].as_array().into_iter().flatten();
    slow.filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

/// The processes that wait for an instance's wake: VMM and supervisor.
pub fn waiting(world: &World, instance: &str) -> Option<(i64, i64)> {
    let stats = world.instance(instance);
    if stats["vmm_waits"] != true {
        return None;
    }
    let id = stats["instance_id"].as_str().expect("an id");
    let record = fs::read(world.path("run/vm").join(id).join("vmm.json")).expect("a record");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    let pid = |of: &str| record[of]["pid"].as_i64().expect("a pid");
    Some((pid("process"), pid("supervisor")))
}

/// Waits until an instance is on its way to sleep. Its guest, which may be paused, is not asked.
pub fn falls_asleep(world: &World, instance: &str) {
    let id = instance.rsplit('/').next().expect("an id");
    world.eventually("it is on its way", SOON, || {
        let all = world.json(&["instance", "list"]);
        let all = all.as_array().into_iter().flatten();
        all.into_iter().any(|row| row["instance_id"] == id && row["transition"] == "falling asleep")
    });
}

/// Whether a process is stopped by a signal.
pub fn is_held(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Sends a signal to a process.
pub fn signal(pid: i64, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("it is there");
}

/// Whether a process runs.
pub fn lives(pid: i64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

/// How many VMMs and supervisors work for an instance.
pub fn processes_of(world: &World, instance: &str) -> usize {
    let id = instance.rsplit('/').next().expect("an id").to_owned();
    let vmms = fs::read_dir(world.path("state/jails/firecracker")).into_iter().flatten().flatten();
    vmms.filter(|jail| jail.file_name().to_string_lossy().starts_with(&id)).count()
}
