//! A host of its own: namespaces, directories, and `mvm` run in them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::patience::Patience;

/// How long one `mvm` command may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Which image store a world works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    /// The one all tests share; nothing may be collected from it.
    Shared,
    /// A copy, for tests that collect garbage.
    Own,
}

/// A host of its own.
pub struct World {
    root: PathBuf,
    cache: PathBuf,
    images: PathBuf,
}

impl World {
    /// Leaves the machine's namespaces for new ones. Call before any thread is started.
    ///
    /// # Errors
    /// Why guests cannot run here.
    pub fn enter(name: &str, images: Images) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".into());
        }
        let has = |program: &str| {
            ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(program).exists())
        };
        for program in ["qemu-system-x86_64", "nft", "mke2fs", "ip"] {
            if !has(program) {
                return Err(format!("{program} is not installed"));
            }
        }
        let cache = cache_dir();
        let root = cache.join("worlds").join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).map_err(|error| error.to_string())?;
        let shared = cache.join("artifacts");
        let mut world = Self { root, cache, images: shared.clone() };
        world.fetch_packages()?;
        if images == Images::Own {
            world.images = world.root.join("images");
            world.copy_images(&shared);
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .map_err(|error| format!("cannot unshare: {error}"))?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(|error| error.to_string())?;
        // /sys shows the network namespace it was mounted in.
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)
            .map_err(|error| error.to_string())?;
        world.tool("ip", &["link", "set", "lo", "up"]);
        Ok(world)
    }

    /// Downloads what images are made of while there is a network; the world has none.
    fn fetch_packages(&self) -> Result<(), String> {
        if self.cache.join("artifacts/revisions").exists() {
            return Ok(());
        }
        let output = self.run(&["bootstrap", "--yes"]);
        let _ = fs::remove_dir_all(self.root.join("run"));
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("no image can be built: {}", told(&output)))
        }
    }

    /// Revisions and packages never change, so their files are shared; what is written is not.
    /// Makes a collected store whole again: a world has no network to fetch packages from.
    pub fn restock(&self) {
        self.copy_images(&self.cache.join("artifacts"));
    }

    fn copy_images(&self, shared: &Path) {
        let (from, to) = (shared.display(), self.images.display());
        let script = format!(
            "rm -rf {to} && mkdir {to} && cd {from} && for entry in *; do case $entry in \
             revisions|packages) cp -al $entry {to}/ ;; *) cp -a $entry {to}/ ;; esac; done"
        );
        self.tool("sh", &["-ec", &script]);
    }

    /// Whether the tests' fixtures hold an image of this profile and role, whatever a
    /// world has collected from a store of its own.
    pub fn fixtures_have_image(&self, profile: &str, role: &str) -> bool {
        let mut list = self.command(&["image", "list", "--json"]);
        list.env("MVM_CACHE_DIR", self.cache.join("artifacts"));
        let output = wait(spawn(list), &["image", "list"]);
        assert!(output.status.success(), "{}", told(&output));
        let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        all.as_array()
            .into_iter()
            .flatten()
            .any(|one| one["profile"] == profile && one["role"] == role)
    }

    /// A directory of the world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// `mvm` with arguments, in this world.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mvm"));
        command.args(args).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        for (name, dir) in
            [("MVM_STATE_DIR", "state"), ("MVM_RUN_DIR", "run"), ("MVM_CONFIG_DIR", "etc")]
        {
            command.env(name, self.root.join(dir));
        }
        command.env("MVM_CACHE_DIR", &self.images);
        // The guest agent is built by cargo with the developer's own settings.
        for name in [
            "HOME",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_MANIFEST_DIR",
            "MVM_GUEST",
            "RUST_LOG",
        ] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(home) = std::env::var_os("CARGO_HOME")
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo").into()))
        {
            let path = format!(
                "{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                home.to_string_lossy()
            );
            command.env("PATH", path);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs `mvm` and returns everything about it.
    pub fn run(&self, args: &[&str]) -> Output {
        wait(spawn(self.command(args)), args)
    }

    /// Runs `mvm` with bytes on its stdin.
    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        let mut child = spawn_piped(command.stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = wait(child, args);
        writer.join().expect("the writer does not panic");
        output
    }

    /// Runs `mvm`, which must succeed; returns its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "mvm {} failed\n{}", args.join(" "), told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `mvm`, which must fail with this exit code; returns its stderr.
    pub fn refused(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "mvm {}\n{}", args.join(" "), told(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs `mvm … --json`, which must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }

    /// Runs a command in a guest, which must succeed; returns its trimmed stdout.
    pub fn guest(&self, instance: &str, script: &str) -> String {
        self.ok(&["instance", "exec", instance, "--", "sh", "-c", script]).trim().to_owned()
    }

    /// Whether a command in a guest succeeds.
    pub fn guest_can(&self, instance: &str, script: &str) -> bool {
        self.run(&["instance", "exec", instance, "--", "sh", "-c", script]).status.success()
    }

    /// The row `instance list` has for an instance.
    pub fn instance(&self, instance: &str) -> Value {
        self.json(&["instance", "stats", instance])
    }

    /// An instance's status word.
    pub fn status(&self, instance: &str) -> String {
        self.instance(instance)["status"].as_str().expect("a status").to_owned()
    }

    /// The paths of a pool's instances, by offset.
    pub fn members(&self, pool: &str) -> Vec<String> {
        let (tenant, name) = pool.split_once('/').expect("<tenant>/<pool>");
        let list = self.json(&["instance", "list", "--tenant", tenant, "--pool", name]);
        let ids = list.as_array().expect("an array").iter();
        ids.map(|row| format!("{pool}/{}", row["instance_id"].as_str().expect("an id"))).collect()
    }

    /// The directory of an instance's files.
    pub fn instance_dir(&self, instance: &str) -> PathBuf {
        let parts: Vec<_> = instance.split('/').collect();
        let id = self.instance(instance)["instance_id"].as_str().expect("an id").to_owned();
        self.root
            .join("state/tenants")
            .join(parts[0])
            .join("pools")
            .join(parts[1])
            .join("instances")
            .join(id)
    }

    /// Runs a program of the machine in this world, which must succeed; returns its stdout.
    pub fn tool(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program).args(args).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {}\n{}", args.join(" "), told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Polls until `holds`, or panics saying what did not come about.
    pub fn eventually(&self, what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
        let mut patience = Patience::new(limit);
        while !holds() {
            let goes_on = patience.pause(Duration::from_millis(50));
            assert!(goes_on, "did not come about within {limit:?}: {what}");
        }
    }

    /// Destroys every tenant and returns what is left that should not be.
    pub fn leave(self) -> Vec<String> {
        let mut left = Vec::new();
        for tenant in self.json(&["tenant", "list", "--all"]).as_array().into_iter().flatten() {
            let name = tenant["tenant_id"].as_str().unwrap_or_default();
            let output = self.run(&["tenant", "destroy", name, "--force"]);
            if !output.status.success() {
                left.push(told(&output));
            }
        }
        left.extend(self.leftovers());
        if left.is_empty() {
            let _ = fs::remove_dir_all(&self.root);
        } else {
            eprintln!("kept for a look: {}", self.root.display());
        }
        for (pid, _) in self.processes() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        left
    }

    /// Processes, interfaces, mounts and rules of this world that outlived their owners.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<_> = self
            .processes()
            .into_iter()
            .map(|(pid, line)| format!("process {pid}: {line}"))
            .collect();
        let links = self.tool("ip", &["-o", "link"]);
        left.extend(
            links
                .lines()
                .filter(|line| line.contains("br-tenant-") || line.contains(": tn"))
                .map(str::to_owned),
        );
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = self.root.to_string_lossy().into_owned();
        left.extend(
            mounts.lines().filter(|line| line.contains(&root)).map(|line| format!("mount {line}")),
        );
        let rules = self.tool("nft", &["list", "ruleset"]);
        left.extend(
            rules
                .lines()
                .filter(|line| line.contains("br-tenant-") || line.contains("tn"))
                .filter(|line| line.contains("iif"))
                .map(str::to_owned),
        );
        let tenants = fs::read_dir(self.root.join("state/tenants")).into_iter().flatten().flatten();
        left.extend(tenants.map(|entry| format!("state of {}", entry.path().display())));
        left
    }

    /// Processes that work on this world's directories.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let root = self.root.to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let ours =
                line.contains(&root) || String::from_utf8_lossy(&read("environ")).contains(&root);
            if ours && pid != std::process::id() as i32 {
                found.push((pid, line.chars().take(160).collect()));
            }
        }
        found
    }
}

/// Where fixtures are kept between runs.
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("MVM_TEST_CACHE") {
        return dir.into();
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    base.unwrap_or_else(home).join("mvm-test")
}

/// Starts a command with its output captured.
pub fn spawn(mut command: Command) -> Child {
    spawn_piped(&mut command)
}

fn spawn_piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mvm starts")
}

/// Waits for a command; one that does not end is killed and fails the test.
pub fn wait(child: Child, args: &[&str]) -> Output {
    wait_for(child, args, PATIENCE)
}

/// Waits so long for a command; one that does not end is killed and fails the test.
pub fn wait_for(child: Child, args: &[&str], patience: Duration) -> Output {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(patience).is_err() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            return false;
        }
        true
    });
    let output = child.wait_with_output().expect("the output is read");
    let _ = done.send(());
    assert!(
        watchdog.join().expect("no panic"),
        "mvm {} did not end\n{}",
        args.join(" "),
        told(&output)
    );
    output
}

/// What a command said, for a failed assertion.
pub fn told(output: &Output) -> String {
    format!(
        "exit: {}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
