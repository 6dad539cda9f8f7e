//! What must hold after whatever went wrong: one function that looks at the host itself, not at
//! what `mvm` says about it.
//!
//! One VMM at most per instance, and none without a record; supervisors, jails, taps, rules,
//! drives, secrets and snapshots belong to records that need them; no address and no uid twice; no
//! lock held, nothing half-written, nothing mounted without need; what a guest wrote is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::patience::Patience;
use crate::host::Host;

/// How long a process may take to be gone, or a supervisor to clean up.
const SOON: Duration = Duration::from_secs(3);

/// What a guest wrote on its data drive before anything went wrong.
pub const WORD: &str = "written-before-anything-went-wrong";

/// What is not as it must be, once everything that is ending has ended; what is known is not
/// waited for.
pub fn wrong(host: &Host, known: &BTreeSet<String>) -> Vec<String> {
    let mut patience = Patience::new(SOON);
    loop {
        let mut wrong = look(host);
        wrong.retain(|it| !known.contains(it));
        if wrong.is_empty() || !patience.pause(Duration::from_millis(20)) {
            return wrong;
        }
    }
}

fn look(host: &Host) -> Vec<String> {
    let seen = Seen::on(host);
    let mut wrong = Vec::new();
    seen.processes(&mut wrong);
    seen.network(host, &mut wrong);
    seen.leases(&mut wrong);
    for one in &seen.instances {
        one.snapshots(&mut wrong);
        one.data(&mut wrong);
    }
    seen.files(host, &mut wrong);
    wrong
}

/// What may stay until the next command on its object, when the last one said that it failed.
pub fn may_stay(wrong: &str) -> bool {
    let is_going = wrong.contains("/snapshots/") && wrong.ends_with(".tmp");
    wrong.starts_with(USED) || wrong.contains("/.gone-") || is_going
}

const USED: &str = "used snapshot";

/// A record with the directory it is in.
struct Instance {
    dir: PathBuf,
    record: Value,
    /// What its supervisor wrote down of its VMM.
    running: Value,
}

impl Instance {
    fn id(&self) -> &str {
        self.record["instance_id"].as_str().unwrap_or_default()
    }

    fn status(&self) -> &str {
        self.record["state"]["status"].as_str().unwrap_or_default()
    }

    fn has_vm(&self) -> bool {
        matches!(self.status(), "running" | "warm")
    }

    /// The VMM it should have: its own, or one that waits for its wake.
    fn vmm(&self) -> Option<i64> {
        match self.status() {
            "running" | "warm" => self.record["state"]["vm"]["process"]["pid"].as_i64(),
            "sleeping" if self.running["mode"] == "restore" => {
                self.running["process"]["pid"].as_i64()
            }
            _ => None,
        }
    }

    fn tap(&self) -> String {
        format!("tn{}i{}", self.record["net_id"], self.record["offset"])
    }

    fn snapshots(&self, wrong: &mut Vec<String>) {
        let dir = self.dir.join("snapshots");
        let there: Vec<_> = names(&dir);
        let wanted: Vec<_> = match self.status() {
            "sleeping" => vec![self.record["state"]["generation"].to_string()],
            _ => Vec::new(),
        };
        let is_used = |name: &String| dir.join(name).join("consumed").exists();
        let (used, there): (Vec<_>, Vec<_>) =
            there.into_iter().partition(|name| is_used(name) && !wanted.contains(name));
        if there != wanted {
            wrong.push(format!("{} {}: snapshots {there:?}", self.id(), self.status()));
        }
        wrong.extend(used.iter().map(|name| format!("{USED} {name} of {}", self.id())));
        if wanted.iter().any(|generation| dir.join(generation).join("consumed").exists()) {
            wrong.push(format!("{} sleeps on a snapshot that was used", self.id()));
        }
    }

    /// Only where a guest wrote something: see [`WORD`].
    fn data(&self, wrong: &mut Vec<String>) {
        if !self.dir.join("..").join(format!(".wrote-{}", self.id())).exists() {
            return;
        }
        let mut line = vec![0; WORD.len()];
        let drive = File::open(self.dir.join("data.img"));
        let read = drive.and_then(|drive| drive.read_exact_at(&mut line, 0));
        if read.is_err() || line != WORD.as_bytes() {
            wrong.push(format!("{}: what its guest wrote is gone ({read:?})", self.id()));
        }
    }
}

/// Lets a running instance's guest write [`WORD`], which has to be there from then on.
pub fn write_word(host: &Host, pool: &str) {
    let instance = host.only(pool);
    host.ok(&["instance", "exec", &instance, "--", "write", WORD]);
    let id = instance.rsplit('/').next().expect("an id");
    fs::write(host.pool_dir(pool).join("instances").join(format!(".wrote-{id}")), "")
        .expect("a note");
}

struct Seen {
    instances: Vec<Instance>,
    tenants: Vec<Value>,
    vmms: BTreeSet<i64>,
    supervisors: BTreeSet<i64>,
    others: Vec<String>,
    jails: Vec<String>,
}

impl Seen {
    fn on(host: &Host) -> Self {
        let (mut instances, mut tenants) = (Vec::new(), Vec::new());
        let all = host.path("state/tenants");
        for tenant in names(&all) {
            let tenant = all.join(tenant);
            tenants.push(json(&tenant.join("tenant.json")));
            for pool in names(&tenant.join("pools")) {
                let dir = tenant.join("pools").join(pool).join("instances");
                let dirs = names(&dir).into_iter().filter(|name| name.starts_with("i-"));
                instances.extend(dirs.map(|id| Instance {
                    record: json(&dir.join(&id).join("instance.json")),
                    running: json(&host.path("run/vm").join(&id).join("vmm.json")),
                    dir: dir.join(id),
                }));
            }
        }
        let jails = names(&host.path("state/jails/firecracker"));
        let mut seen = Self {
            instances,
            tenants,
            vmms: BTreeSet::new(),
            supervisors: BTreeSet::new(),
            others: Vec::new(),
            jails,
        };
        for (pid, what) in processes(&host.path("")) {
            match what {
                What::Vmm => drop(seen.vmms.insert(pid)),
                What::Supervisor => drop(seen.supervisors.insert(pid)),
                What::Resolver => {}
                What::Other(line) => seen.others.push(line),
            }
        }
        seen
    }

    fn processes(&self, wrong: &mut Vec<String>) {
        let mut vmms = self.vmms.clone();
        let mut supervisors = self.supervisors.clone();
        for one in &self.instances {
            match one.vmm() {
                Some(pid) if vmms.remove(&pid) => {
                    let supervisor = one.running["supervisor"]["pid"].as_i64();
                    if !supervisor.is_some_and(|pid| supervisors.remove(&pid)) {
                        wrong.push(format!("{} has a VM and no supervisor", one.id()));
                    }
                }
                Some(pid) if one.has_vm() => wrong.push(format!(
                    "{} is {} and its VMM {pid} is not there",
                    one.id(),
                    one.status()
                )),
                _ => {}
            }
        }
        wrong.extend(vmms.iter().map(|pid| format!("VMM {pid} belongs to no record")));
        wrong.extend(supervisors.iter().map(|pid| format!("supervisor {pid} of nothing")));
        wrong.extend(self.others.iter().map(|line| format!("process {line}")));
        let needed = |jail: &&String| {
            let of = |one: &&Instance| !one.id().is_empty() && jail.starts_with(one.id());
            let owner = self.instances.iter().find(of).and_then(Instance::vmm);
            !owner.is_some_and(|pid| self.vmms.contains(&pid))
        };
        wrong.extend(self.jails.iter().filter(needed).map(|jail| format!("jail {jail}")));
        if self.jails.len() > self.vmms.len() {
            wrong.push(format!("jails {:?} of {} VMMs", self.jails, self.vmms.len()));
        }
    }

    fn network(&self, host: &Host, wrong: &mut Vec<String>) {
        let links = names(Path::new("/sys/class/net"));
        let taps: BTreeSet<_> = self.instances.iter().map(Instance::tap).collect();
        let bridge = |tenant: &Value| format!("br-tenant-{}", tenant["network"]["tenant_net_id"]);
        let bridges: BTreeSet<_> = self.tenants.iter().map(bridge).collect();
        for link in links.iter().filter(|link| link.starts_with("tn")) {
            if !taps.contains(link) {
                wrong.push(format!("tap {link} of nobody"));
            }
        }
        for link in links.iter().filter(|link| link.starts_with("br-tenant-")) {
            if !bridges.contains(link) {
                wrong.push(format!("bridge {link} of nobody"));
            }
        }
        for one in self.instances.iter().filter(|one| one.has_vm()) {
            if !links.contains(&one.tap()) {
                wrong.push(format!("{} has no tap", one.id()));
            }
        }
        let chains = host.tool("nft", &["list", "chains"]);
        let chains = chains.lines().filter_map(|line| line.trim().strip_prefix("chain "));
        let guards: BTreeSet<_> =
            chains.filter_map(|line| line.split(' ').next()).filter(|it| is_tap(it)).collect();
        let there: BTreeSet<_> = links.iter().map(String::as_str).filter(|it| is_tap(it)).collect();
        // One that is in no bridge reaches nobody.
        let is_port = |tap: &&&str| Path::new("/sys/class/net").join(tap).join("master").exists();
        let unguarded = there.difference(&guards).filter(is_port).count();
        if unguarded > 0 || !guards.is_subset(&there) {
            wrong.push(format!("taps {there:?}, guards {guards:?}"));
        }
    }

    fn leases(&self, wrong: &mut Vec<String>) {
        for field in ["uid", "instance_id"] {
            let of = |one: &Instance| one.record[field].to_string();
            twice(self.instances.iter().map(of), field, wrong);
        }
        twice(self.instances.iter().map(Instance::tap), "address", wrong);
        let net = |tenant: &Value| tenant["network"]["tenant_net_id"].to_string();
        twice(self.tenants.iter().map(net), "net id", wrong);
        let open = |one: &&Instance| !one.record["transition"].is_null();
        let unborn = |one: &&Instance| one.id().is_empty();
        wrong.extend(
            self.instances
                .iter()
                .filter(unborn)
                .map(|one| format!("{} has no record", one.dir.display())),
        );
        wrong.extend(
            self.instances.iter().filter(open).map(|one| format!("{} is on its way", one.id())),
        );
    }

    /// Nothing half-written, no secrets of nobody, nothing mounted for nothing, no lock held.
    fn files(&self, host: &Host, wrong: &mut Vec<String>) {
        let mut all = Vec::new();
        for top in ["state/tenants", "run"] {
            walk(&host.path(top), &mut all);
        }
        wrong.extend(
            all.iter().filter(|it| is_half(it)).map(|it| format!("half-written {}", it.display())),
        );
        let is_held = |path: &&PathBuf| {
            let is_lock = path.file_name().is_some_and(|it| it.to_string_lossy().contains("lock"));
            is_lock && path.is_file() && File::open(path).is_ok_and(|it| it.try_lock().is_err())
        };
        wrong.extend(all.iter().filter(is_held).map(|it| format!("lock {} is held", it.display())));
        let secrets = names(&host.path("run/secrets"));
        let may_have = |name: &String| {
            let id = name.strip_suffix(".img");
            self.instances
                .iter()
                .any(|one| id == Some(one.id()) && (one.has_vm() || one.status() == "sleeping"))
        };
        wrong.extend(
            secrets.iter().filter(|it| !may_have(it)).map(|it| format!("secrets image {it}")),
        );
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = host.path("");
        for mount in mounts.lines().filter(|line| line.contains(&*ours.to_string_lossy())) {
            if secrets.is_empty() || !mount.contains("/run/secrets ") {
                wrong.push(format!("mount {mount}"));
            }
        }
        let vms = names(&host.path("run/vm"));
        let of_nobody = |name: &&String| {
            let id = name.strip_suffix(".log").unwrap_or(name);
            self.instances.iter().all(|one| one.id() != id)
        };
        wrong.extend(vms.iter().filter(of_nobody).map(|it| format!("run/vm/{it} of nobody")));
    }
}

/// Kills the resolver, and waits until it is gone.
pub fn kill_resolver(host: &Host) {
    let resolver = || {
        let all = processes(&host.path(""));
        all.into_iter().find_map(|(pid, what)| matches!(what, What::Resolver).then_some(pid))
    };
    if let Some(pid) = resolver() {
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("the resolver takes a signal");
    }
    host.eventually("the resolver is gone", SOON, || resolver().is_none());
}

enum What {
    Vmm,
    Supervisor,
    Resolver,
    Other(String),
}

/// Processes that have to do with a directory: by program, command line or open files.
fn processes(root: &Path) -> BTreeMap<i64, What> {
    let root = root.to_string_lossy().into_owned();
    let mut found = BTreeMap::new();
    for pid in names(Path::new("/proc")).iter().filter_map(|name| name.parse::<i64>().ok()) {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let exe = fs::read_link(proc.join("exe")).unwrap_or_default();
        let line = fs::read(proc.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.is_empty() || pid == i64::from(std::process::id()) {
            continue;
        }
        let name = exe.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let opens = || {
            let fds = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
            fds.filter_map(|fd| fs::read_link(fd.path()).ok())
                .any(|to| to.to_string_lossy().starts_with(&root))
        };
        let is_ours = exe.starts_with(&root) || line.contains(&root) || opens();
        if !is_ours {
            continue;
        }
        let what = match name.as_str() {
            "firecracker" => What::Vmm,
            _ if name.starts_with("qemu-system") => What::Vmm,
            _ if line.contains("__shim") => What::Supervisor,
            _ if line.contains(" __dns") => What::Resolver,
            _ => What::Other(format!("{pid}: {line}")),
        };
        found.insert(pid, what);
    }
    found
}

fn is_tap(name: &str) -> bool {
    let numbers = name.strip_prefix("tn").and_then(|rest| rest.split_once('i'));
    numbers.is_some_and(|(net, offset)| {
        [net, offset].iter().all(|it| it.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn is_half(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ends = [".tmp", ".tree", ".new", ".next.img"].iter().any(|end| name.ends_with(end));
    let begins = [".gone-", ".link-", ".current-new", ".vmm.json", ".exit.json"]
        .iter()
        .any(|b| name.starts_with(b));
    ends || begins
}

fn twice(all: impl Iterator<Item = String>, what: &str, wrong: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    let again: Vec<_> = all.filter(|one| !seen.insert(one.clone())).collect();
    wrong.extend(again.iter().map(|one| format!("{what} {one} twice")));
}

/// What is in a directory, sorted; nothing where there is none.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Everything below a directory.
pub fn walk(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        all.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), all);
        }
    }
}

fn json(path: &Path) -> Value {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
