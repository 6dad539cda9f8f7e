//! Instances on a real Firecracker, through the product: started as units of systemd, confined,
//! limited, paused, put to sleep and woken, and kept when whoever started them dies.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use crate::common::Outcome;
use crate::common::world::told;
use crate::confined;
use crate::hostvm::HostVm;
use crate::network;

/// The tenant and pool of these scenarios.
pub const TENANT: &str = "prod";
pub const POOL: &str = "prod/web";
/// Guest memory, MiB.
pub const MEMORY: u64 = 128;
/// What its VM may take in all, bytes: the guest's memory and the VMM's own.
pub const MEMORY_MAX: u64 = (MEMORY + 128) << 20;
/// Emulated twice, on a machine others use too.
pub const GUEST: Duration = Duration::from_secs(120);

/// Says something to a Firecracker's API, time after time: socket, method, path and body of each.
const API: &str = r#"
use IO::Socket::UNIX; my $socket = shift;
while (my ($method, $path, $body) = splice @ARGV, 0, 3) {
  my $api = IO::Socket::UNIX->new(Peer => $socket) or die "$socket: $!";
  printf $api "%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", $method, $path, length $body, $body;
  my $length = 0; my $status = <$api>;
  while (my $line = <$api>) { last if $line eq "\r\n"; $length = $1 if $line =~ /^Content-Length: (\d+)/i }
  read $api, my $answer, $length; print $answer;
  die "$method $path: $status$answer\n" unless $status =~ m{^HTTP/1.1 2};
}
"#;

/// A pool from the image that is in the store, and one instance of it that runs.
pub fn an_instance_runs_as_a_unit(host: &HostVm) -> Outcome {
    create(host, TENANT, POOL);
    let path = path(host);
    host.mvm(&["instance", "start", &path]);
    assert_eq!(view(host)["vmm"], "firecracker/kvm");
    assert_eq!(exec(host, "echo answered"), "answered");
    let (unit, pid) = (unit_of(host, TENANT), pid(host));
    assert_eq!(host.sh(&format!("systemctl show {unit} -P MainPID")), pid);
    assert_eq!(host.text(&format!("/proc/{pid}/cgroup")), format!("0::{}", group(host)));
    let limits = host.sh(&format!(
        "cd /sys/fs/cgroup{}; cat memory.max memory.swap.max cpu.max cpu.weight pids.max",
        group(host)
    ));
    let limits: Vec<_> = limits.lines().collect();
    assert_eq!(limits, [&MEMORY_MAX.to_string(), "0", "125000 100000", "100", "33"]);
    Outcome::Passed
}

/// The way into the guest outlives a pause, time and again.
pub fn a_paused_guest_answers_after_its_resume(host: &HostVm) -> Outcome {
    let (path, before) = (path(host), pid(host));
    host.mvm(&["instance", "warm", &path]);
    assert_eq!(view(host)["status"], "warm");
    host.mvm(&["instance", "wake", &path]);
    assert_eq!(exec(host, "echo resumed"), "resumed");
    // Bare, with nothing said to the guest: what some versions of Firecracker do not survive.
    let vm = |state| ["PATCH", "/vm", state];
    let round = [vm(r#"{"state": "Paused"}"#), vm(r#"{"state": "Resumed"}"#)].concat();
    api(host, &round.repeat(20));
    assert_eq!(exec(host, "echo still"), "still");
    assert_eq!(pid(host), before);
    Outcome::Passed
}

/// A guest that restarts by a triple fault and says nothing has failed, and may be started.
pub fn a_guest_whose_processor_shuts_down_has_failed(host: &HostVm) -> Outcome {
    let path = path(host);
    let shut_down = "echo triple >/sys/kernel/reboot/type; echo b >/proc/sysrq-trigger";
    host.run(&["mvm", "instance", "exec", &path, "--", "sh", "-c", shut_down]);
    host.eventually("its end is known", GUEST, "mvm instance list | grep -q Failed");
    let reason = text_of(&view(host)["reason"]);
    assert_eq!(reason, "its guest's processor shut down (a triple fault)");
    host.mvm(&["instance", "start", &path]);
    Outcome::Passed
}

/// Memory and disk are what they were, each generation in another VMM and another jail.
pub fn three_sleeps_lose_nothing(host: &HostVm) -> Outcome {
    let path = path(host);
    let boot = exec(
        host,
        "echo memory >/run/kept; echo disk >/data/kept; sync; cat /proc/sys/kernel/random/boot_id",
    );
    let mut seen = vec![pid(host)];
    let limits = limiters(host);
    for generation in 1..=3 {
        if generation == 2 {
            // It is in the middle of its lines when it is put to sleep.
            exec(
                host,
                "while sleep 0.02; do seq 9 >/dev/console; done >/dev/null 2>&1 & echo $! >/run/noise",
            );
        }
        sleep(host, &path);
        let waits = waiting(host);
        host.mvm(&["instance", "wake", &path]);
        assert_eq!(
            pid(host),
            waits,
            "generation {generation} was not woken in the VMM that waited"
        );
        let told = exec(host, "cat /proc/sys/kernel/random/boot_id /run/kept /data/kept; date +%s");
        let now: i64 = host.sh("date +%s").parse().expect("seconds");
        let (kept, clock) = told.rsplit_once('\n').expect("two lines");
        assert_eq!(kept, format!("{boot}\nmemory\ndisk"), "generation {generation}");
        let behind = now - clock.parse::<i64>().expect("seconds");
        assert!(behind.abs() < 10, "the guest's clock is {behind} s behind");
        let pid = pid(host);
        assert!(!seen.contains(&pid));
        seen.push(pid);
    }
    assert_eq!(limiters(host), limits);
    exec(host, "kill $(cat /run/noise); echo said >/dev/console");
    host.eventually(
        "the console goes on",
        GUEST,
        &format!("mvm instance logs {path} --console | grep -q said"),
    );
    confined::every_thread_of_the_vmm_is_confined(host)
}

/// The VMM that waits for the instance's wake, in a unit with its limits like any other.
fn waiting(host: &HostVm) -> String {
    let record = format!("/run/mvm/vm/{}/vmm.json", id(host));
    let record: serde_json::Value = serde_json::from_str(&host.text(&record)).expect("a record");
    assert_eq!(record["mode"], "restore", "{record}");
    let pid = record["process"]["pid"].to_string();
    assert_eq!(host.text(&format!("/proc/{pid}/cgroup")), format!("0::{}", group(host)));
    pid
}

/// The limit of each device a guest could flood, as Firecracker has it now: how much it may take
/// in a second. What is left of its first burst changes.
fn limiters(host: &HostVm) -> BTreeMap<String, [u64; 2]> {
    let config: serde_json::Value =
        serde_json::from_str(&api(host, &["GET", "/vm/config", ""])).expect("a configuration");
    let devices = |kind: &str| config[kind].as_array().cloned().unwrap_or_default();
    let limit = |device: &serde_json::Value| {
        ["bandwidth", "ops"].map(|kind| match device[kind]["refill_time"].as_u64() {
            Some(1000) => device[kind]["size"].as_u64().unwrap_or(0),
            _ => 0,
        })
    };
    let mut limits = BTreeMap::new();
    for drive in devices("drives") {
        limits.insert(
            format!("drive {}", text_of(&drive["drive_id"])),
            limit(&drive["rate_limiter"]),
        );
    }
    for net in devices("network-interfaces") {
        limits.insert("received".into(), limit(&net["rx_rate_limiter"]));
        limits.insert("sent".into(), limit(&net["tx_rate_limiter"]));
    }
    assert_eq!(limits.len(), 6, "{config}");
    assert!(limits.values().flatten().all(|limit| *limit > 0), "{limits:?}");
    limits
}

/// Puts an instance to sleep. A disk that others keep busy may be too slow for that: then it is
/// called off, the instance goes on, and may be asked again.
pub fn sleep(host: &HostVm, path: &str) {
    for _ in 0..3 {
        let slept = host.run(&["mvm", "instance", "sleep", path]);
        if slept.status.success() {
            return;
        }
        let said = told(&slept);
        assert!(said.contains("the snapshot was not complete within"), "{said}");
        println!("called off: {said}");
    }
    panic!("{path} does not get to sleep");
}

/// Puts an instance to sleep and makes its snapshot one from elsewhere, by a field of its
/// manifest.
pub fn sleep_elsewhere(host: &HostVm, path: &str, field: &str, value: &str) {
    sleep(host, path);
    let (tenant, id) = (path.split('/').next(), path.rsplit('/').next());
    let (tenant, id) = (tenant.unwrap_or_default(), id.unwrap_or_default());
    let file = host.sh(&format!(
        "echo /var/lib/mvm/tenants/{tenant}/pools/*/instances/{id}/snapshots/*/manifest.json"
    ));
    let mut manifest: serde_json::Value =
        serde_json::from_str(&host.text(&file)).expect("a manifest");
    let platform = &mut manifest["platform"];
    let changed = match field {
        "version" => &mut platform["vmm"]["version"],
        _ => &mut platform[field],
    };
    assert!(changed.is_string(), "{field}");
    *changed = value.into();
    host.write(&file, 0o600, manifest.to_string().as_bytes());
}

/// A snapshot from elsewhere is not resumed: the instance booted from its drives and says why.
pub fn booted_instead(host: &HostVm, tenant: &str) {
    let view = view_of(host, tenant);
    let note = text_of(&view["reason"]);
    assert!(note.contains("changed from") && note.contains("data drive was kept"), "{note}");
    let path = path_of(host, tenant);
    let left = exec_in(host, &path, "cat /data/kept; ls /run/kept 2>/dev/null || true");
    assert_eq!(left, "disk", "{note}");
}

/// A guest that takes what it has stays below its VM's limit; a VMM that takes more than it may is
/// stopped at it, and so are one that computes more and one that starts more.
pub fn limits_hold(host: &HostVm) -> Outcome {
    let group = format!("/sys/fs/cgroup{}", group(host));
    // Most of what the guest has, without the last of it: a kernel that looks for its last page
    // may look for minutes.
    let hog = "head -c 45000000 /dev/zero | tail -c 45000000 | wc -c";
    assert_eq!(exec(host, hog), "45000000");
    let used: u64 = host.text(&format!("{group}/memory.current")).parse().expect("bytes");
    assert!(used <= MEMORY_MAX, "{used}");
    assert!(host.text(&format!("{group}/memory.events")).contains("oom_kill 0"));
    let inside = |script: &str| {
        format!("sh -c 'echo $$ >{group}/cgroup.procs; {}'", script.replace('\'', "'\\''"))
    };
    // Two that never stop share what one and a quarter processors give.
    let spin = inside("timeout 2 sh -c 'while :; do :; done & while :; do :; done'");
    host.sh(&format!("{spin} || true"));
    let stat = host.text(&format!("{group}/cpu.stat"));
    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    assert_ne!(throttled, Some("0"), "{stat}");
    // More processes than there may be cannot be made.
    host.sh(&format!("{} || true", inside("for i in $(seq 60); do sleep 3 & done; wait")));
    let events = host.text(&format!("{group}/pids.events"));
    assert_ne!(events, "max 0");
    let few = format!("test $(cat {group}/pids.current) -lt 15");
    host.eventually("they end", GUEST, &few);
    assert_eq!(exec(host, "echo alive"), "alive");
    // Memory: whoever takes most ends, and with it the unit; the host goes on.
    let hog = inside("head -c 1000000000 /dev/zero | tail -c 900000000 >/dev/null");
    host.sh(&format!("{hog} || true"));
    let ended = "journalctl -b --no-pager | grep -q \"Failed with result 'oom-kill'\"";
    host.eventually("the hog is stopped", GUEST, ended);
    host.eventually("the unit ends", GUEST, &format!("! test -e {group}"));
    host.eventually("its end is known", GUEST, "mvm instance list | grep -q Failed");
    Outcome::Passed
}

/// Where systemd is not, the jailer makes the control group, with the same limits.
pub fn without_systemd_the_jailer_sets_the_limits(host: &HostVm) -> Outcome {
    let path = path(host);
    host.sh(&format!(
        "unshare -m sh -c 'mount -t tmpfs none /run/systemd; exec mvm instance start {path}'"
    ));
    let group = host.text(&format!("/proc/{}/cgroup", pid(host)));
    let group = group.strip_prefix("0::").unwrap_or_default();
    assert!(group.starts_with("/mvm/t"), "{group}");
    let limits =
        host.sh(&format!("cd /sys/fs/cgroup{group}; cat memory.max memory.oom.group cpu.max"));
    assert_eq!(limits, format!("{MEMORY_MAX}\n1\n125000 100000"));
    assert_eq!(exec(host, "echo limited"), "limited");
    Outcome::Passed
}

/// Nothing a VM needs is in who started it: agent and supervisor die, the guest goes on and is
/// found again. The agent woke it from a snapshot of another version of Firecracker.
pub fn a_killed_agent_and_a_killed_supervisor_are_survived(host: &HostVm) -> Outcome {
    let (path, before) = (path(host), pid(host));
    let agent = "systemd-run --unit=test-agent -p KillMode=process mvm agent serve";
    host.sh(agent);
    host.eventually("the agent serves", GUEST, "test -S /run/mvm/agent.sock");
    exec(host, "echo disk >/data/kept; sync; echo memory >/run/kept");
    sleep_elsewhere(host, &path, "version", "1.14.9 (0123456789ab)");
    assert!(!host.can("ls -d /sys/fs/cgroup/mvm/t*/*/"), "the group of its last VM stays");
    host.mvm(&["instance", "wake", &path]);
    booted_instead(host, TENANT);
    let started = pid(host);
    assert_ne!(started, before);
    host.sh("kill -9 $(systemctl show test-agent -P MainPID)");
    let supervisor = format!("cat /sys/fs/cgroup{}/cgroup.procs", group(host));
    host.sh(&format!(
        "for pid in $({supervisor}); do test $pid = {started} || ! test -e /proc/$pid/exe || kill -9 $pid; done"
    ));
    assert_eq!(exec(host, "echo still"), "still");
    host.sh("systemctl reset-failed test-agent; rm -f /run/mvm/agent.sock");
    host.sh(agent);
    host.eventually("the agent serves again", GUEST, "test -S /run/mvm/agent.sock");
    assert_eq!(pid(host), started);
    assert_eq!(exec(host, "echo adopted"), "adopted");
    host.sh("systemctl stop test-agent; rm -f /run/mvm/agent.sock");
    // Its place and its unit are still right, also without its supervisor.
    assert_eq!(host.text(&format!("/proc/{started}/cgroup")), format!("0::{}", group(host)));
    Outcome::Passed
}

/// A stop leaves nothing but the records and a clean drive, a tenant's end not even those.
pub fn an_ended_instance_leaves_nothing(host: &HostVm) -> Outcome {
    host.mvm(&["instance", "stop", &path(host)]);
    assert_eq!(view(host)["status"], "stopped");
    host.sh(&format!("e2fsck -fn /var/lib/mvm/tenants/{TENANT}/pools/web/instances/*/data.img"));
    assert_eq!(left(host, &id(host)), "");
    // The other's may have a jail still: its VM was lost with its host, and nobody started it since.
    for tenant in [TENANT, network::OTHER] {
        host.mvm(&["tenant", "destroy", tenant, "--force"]);
    }
    assert_eq!(left(host, "i-"), "");
    assert!(!host.can("ls /sys/class/net | grep -q -e br-tenant -e tn"));
    assert!(!host.can("ls /var/lib/mvm/tenants | grep -q ."));
    Outcome::Passed
}

/// A tenant with a pool from the image that is in the store, and one instance in it.
pub fn create(host: &HostVm, tenant: &str, pool: &str) {
    let revision = host.sh("basename $(readlink /opt/guest)");
    host.mvm(&["tenant", "create", tenant]);
    let create = ["pool", "create", pool, "--revision", &revision];
    host.mvm(&[&create[..], &["--mem", &MEMORY.to_string(), "--data-disk", "64"]].concat());
    host.mvm(&["pool", "build", pool]);
    host.mvm(&["pool", "scale", pool, "--running", "1"]);
}

/// Jails and units that are there of instances whose ids begin so, and every VMM.
fn left(host: &HostVm, of: &str) -> String {
    host.sh(&format!(
        "ls /var/lib/mvm/jails/firecracker | grep ^{of} || true; pgrep -x firecracker || true; \
         systemctl list-units --all --no-legend 'mvm-vm-{of}*'"
    ))
}

/// What an instance's Firecracker answers to calls: method, path and body of each.
fn api(host: &HostVm, calls: &[&str]) -> String {
    let socket =
        host.sh(&format!("echo /var/lib/mvm/jails/firecracker/{}-*/root/run/api.sock", id(host)));
    host.ok(&[&["perl", "-e", API, socket.as_str()], calls].concat())
}

/// The instance of a tenant, as a list shows it. A scenario that runs without those before it gets
/// one that runs.
pub fn view_of(host: &HostVm, tenant: &str) -> serde_json::Value {
    seen(host, tenant).unwrap_or_else(|| {
        let pool = format!("{tenant}/web");
        create(host, tenant, &pool);
        let view = seen(host, tenant).expect("an instance");
        let path = format!("{pool}/{}", text_of(&view["instance_id"]));
        host.mvm(&["instance", "start", &path]);
        seen(host, tenant).expect("an instance")
    })
}

fn seen(host: &HostVm, tenant: &str) -> Option<serde_json::Value> {
    let all = host.mvm_json(&["instance", "list"]);
    all.as_array().expect("a list").iter().find(|it| it["tenant_id"] == tenant).cloned()
}

pub fn view(host: &HostVm) -> serde_json::Value {
    view_of(host, TENANT)
}

fn text_of(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Its id.
pub fn id(host: &HostVm) -> String {
    path(host).rsplit('/').next().unwrap_or_default().to_owned()
}

pub fn path_of(host: &HostVm, tenant: &str) -> String {
    let view = view_of(host, tenant);
    format!("{tenant}/{}/{}", text_of(&view["pool_id"]), text_of(&view["instance_id"]))
}

/// The first tenant's instance: asked for once, it is the same for all of these scenarios.
pub fn path(host: &HostVm) -> String {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| path_of(host, TENANT)).clone()
}

pub fn pid(host: &HostVm) -> String {
    view(host)["pid"].to_string()
}

pub fn unit_of(host: &HostVm, tenant: &str) -> String {
    format!("mvm-vm-{}.service", text_of(&view_of(host, tenant)["instance_id"]))
}

/// The control group an instance's VM belongs into.
pub fn group_of(host: &HostVm, tenant: &str) -> String {
    let net = host.mvm_json(&["tenant", "info", tenant])["network"]["tenant_net_id"].clone();
    format!("/mvm.slice/mvm-t{net}.slice/{}", unit_of(host, tenant))
}

fn group(host: &HostVm) -> String {
    group_of(host, TENANT)
}

pub fn exec_in(host: &HostVm, path: &str, script: &str) -> String {
    host.mvm(&["instance", "exec", path, "--", "sh", "-c", script]).trim().to_owned()
}

pub fn exec(host: &HostVm, script: &str) -> String {
    exec_in(host, &path(host), script)
}
