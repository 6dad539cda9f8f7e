//! A host for these tests: a world, and what its state looks like without asking `mvm`.

use std::cell::Cell;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::common::World;
use crate::common::harness::Place as Entered;
use crate::common::world::{Images, cache_dir, spawn, told, wait};
use crate::places::Trace;
use crate::witness::Witness;

/// The tenant and pool most tests work with.
pub const POOL: &str = "aa/ww";

/// A host whose VMM is the fake.
pub struct Fake {
    pub host: Host,
    pub witness: Witness,
}

/// A host whose guests are real, under QEMU.
pub struct Guests {
    pub host: Host,
}

/// What both are.
pub struct Host {
    world: World,
    logs: Cell<u32>,
}

impl Deref for Fake {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Deref for Guests {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Deref for Host {
    type Target = World;
    fn deref(&self) -> &World {
        &self.world
    }
}

impl Entered for Fake {
    fn enter(_: &str) -> Result<Self, String> {
        let fake = fake_firecracker()?;
        let jailer = jailer().ok_or("the jailer is not installed")?;
        let part = std::env::var(crate::PART).unwrap_or_default();
        let host = Host::enter(&part)?;
        let bin = host.path("state/bin");
        fs::create_dir_all(&bin).map_err(|error| error.to_string())?;
        fs::copy(fake, bin.join("firecracker")).map_err(|error| error.to_string())?;
        fs::copy(jailer, bin.join("jailer")).map_err(|error| error.to_string())?;
        let witness = Witness::listen();
        let fake = Self { host, witness };
        fake.settings(r#"{"vmm": "firecracker", "limits": "none"}"#);
        Ok(fake)
    }

    fn leave(self) -> Vec<String> {
        self.host.world.leave()
    }
}

impl Entered for Guests {
    fn enter(_: &str) -> Result<Self, String> {
        let host = Host::enter("guests")?;
        host.settings(r#"{"vmm": "qemu", "accel": "tcg"}"#);
        Ok(Self { host })
    }

    fn leave(self) -> Vec<String> {
        self.host.world.leave()
    }
}

/// A program without libraries, built beside the tests' own target.
fn fake_firecracker() -> Result<PathBuf, String> {
    let built = || {
        let target = Path::new(env!("CARGO_BIN_EXE_mvm")).parent()?.parent()?;
        let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        Some(target.join(triple).join("debug/mvm-fake-firecracker"))
    };
    let named = std::env::var_os("MVM_FAKE_FIRECRACKER").map(PathBuf::from);
    named.or_else(built).filter(|path| path.is_file()).ok_or_else(|| {
        "the fake is not built (cargo build -p mvm-fake --target <arch>-unknown-linux-musl)".into()
    })
}

fn jailer() -> Option<PathBuf> {
    let named = std::env::var_os("MVM_JAILER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([cache_dir().join("bin")]);
    named.or_else(|| dirs.map(|dir| dir.join("jailer")).find(|file| file.is_file()))
}

impl Host {
    fn enter(part: &str) -> Result<Self, String> {
        let world = World::enter(&format!("fault-{part}"), Images::Shared)?;
        Ok(Self { world, logs: Cell::new(0) })
    }

    /// Writes the host's settings.
    pub fn settings(&self, json: &str) {
        fs::create_dir_all(self.path("etc")).expect("a directory");
        fs::write(self.path("etc/host.json"), json).expect("settings");
    }

    /// A tenant with a pool of one instance that was never started.
    pub fn set_up(&self) {
        if self.path("state/tenants/aa").exists() {
            return;
        }
        self.ok(&["tenant", "create", "aa"]);
        self.make_pool(POOL, "16");
        self.ok(&["pool", "scale", POOL, "--running", "1"]);
    }

    /// A pool with an image.
    pub fn make_pool(&self, pool: &str, data_mib: &str) {
        let size = ["--cpus", "1", "--mem", "128", "--data-disk", data_mib];
        self.ok(&[&["pool", "create", pool, "--profile", "minimal"], &size[..]].concat());
        self.ok(&["pool", "build", pool]);
    }

    /// Runs `mvm` with a failpoint armed; also what it came to.
    pub fn run_armed(&self, args: &[&str], armed: Option<&str>) -> (Output, Trace) {
        self.logs.set(self.logs.get() + 1);
        // One for each: a supervisor goes on writing to its own.
        let log = self.path(&format!("passed-{}", self.logs.get()));
        let mut command = self.command(args);
        command.env("MVM_FAILPOINT_LOG", &log);
        if let Some(armed) = armed {
            command.env("MVM_FAILPOINT", armed);
        }
        let output = wait(spawn(command), args);
        (output, Trace::load(&log))
    }

    /// The directory of a pool.
    pub fn pool_dir(&self, pool: &str) -> PathBuf {
        let (tenant, pool) = pool.split_once('/').expect("<tenant>/<pool>");
        self.path("state/tenants").join(tenant).join("pools").join(pool)
    }

    /// The records of a pool's instances.
    pub fn records(&self, pool: &str) -> Vec<Value> {
        let dirs = fs::read_dir(self.pool_dir(pool).join("instances")).into_iter().flatten();
        // One that is on its way out begins with a dot.
        let there = dirs.flatten().filter(|dir| dir.file_name().as_encoded_bytes()[0] == b'i');
        let files = there.map(|dir| dir.path().join("instance.json"));
        files.filter_map(|file| serde_json::from_slice(&fs::read(file).ok()?).ok()).collect()
    }

    /// The path of a pool's only instance.
    pub fn only(&self, pool: &str) -> String {
        let records = self.records(pool);
        assert_eq!(records.len(), 1, "{pool} has {} instances", records.len());
        format!("{pool}/{}", records[0]["instance_id"].as_str().expect("an id"))
    }

    /// The status of a pool's only instance; empty without one, or while it changes.
    pub fn only_status(&self, pool: &str) -> String {
        match &self.records(pool)[..] {
            [one] if one["transition"].is_null() => {
                one["state"]["status"].as_str().unwrap_or_default().to_owned()
            }
            _ => String::new(),
        }
    }

    /// Brings a pool's only instance to a status, by commands that are not made to fail.
    pub fn bring(&self, pool: &str, status: &str) {
        for _ in 0..4 {
            let now = self.only_status(pool);
            let verb = match (now.as_str(), status) {
                (now, status) if now == status => return,
                ("running", "warm") => "warm",
                ("running", "sleeping") => "sleep",
                ("running" | "warm" | "sleeping", "stopped") => "stop",
                ("warm", "sleeping") => "sleep",
                ("warm" | "sleeping", _) => "wake",
                _ => "start",
            };
            self.ok(&["instance", verb, &self.only(pool)]);
        }
        panic!("{pool} does not become {status}: {:?}", self.records(pool));
    }
}

/// Whether a command did what it should, with what it said.
pub fn succeeded(args: &[&str], output: &Output) -> Result<(), String> {
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("mvm {}\n{}", args.join(" "), told(output))),
    }
}
