//! Instances on a real Firecracker, through the product: started as units of systemd, confined,
//! limited, paused, put to sleep and woken, and kept when whoever started them dies.

use std::time::Duration;

use crate::common::Outcome;
use crate::hostvm::HostVm;

/// The tenant and pool of these scenarios.
const TENANT: &str = "prod";
const POOL: &str = "prod/web";
/// Guest memory, MiB.
const MEMORY: &str = "128";
/// Emulated twice, on a machine others use too.
const GUEST: Duration = Duration::from_secs(120);

/// A pool from the image that is in the store, and one instance of it that runs.
pub fn an_instance_runs_as_a_unit(host: &HostVm) -> Outcome {
    let revision = host.sh("basename $(readlink /opt/guest)");
    host.mvm(&["tenant", "create", TENANT]);
    let create = ["pool", "create", POOL, "--revision", &revision];
    host.mvm(&[&create[..], &["--mem", MEMORY, "--data-disk", "64"]].concat());
    host.mvm(&["pool", "build", POOL]);
    host.mvm(&["pool", "scale", POOL, "--running", "1"]);
    let path = path(host);
    host.mvm(&["instance", "start", &path]);
    assert_eq!(view(host)["vmm"], "firecracker/kvm");
    assert_eq!(exec(host, "echo answered"), "answered");
    let (unit, pid) = (unit(&path), pid(host));
    assert_eq!(host.sh(&format!("systemctl show {unit} -P MainPID")), pid);
    assert_eq!(host.text(&format!("/proc/{pid}/cgroup")), format!("0::{}", group(host)));
    for (file, limit) in [
        ("memory.max", ((128 + 128) << 20).to_string()),
        ("memory.swap.max", "0".into()),
        ("cpu.max", "125000 100000".into()),
        ("cpu.weight", "100".into()),
        ("pids.max", "33".into()),
    ] {
        assert_eq!(host.text(&format!("/sys/fs/cgroup{}/{file}", group(host))), limit, "{file}");
    }
    Outcome::Passed
}

/// Read back from /proc, on every thread: who it is, what it may do, where its root is.
pub fn every_thread_of_the_vmm_is_confined(host: &HostVm) -> Outcome {
    let pid = pid(host);
    let uid = host.sh(&format!("stat -c %u /proc/{pid}"));
    assert!(uid.parse::<u32>().expect("a uid") > 1_000_000, "{uid}");
    let threads = host.sh(&format!("cat /proc/{pid}/task/*/status"));
    let four = [uid.as_str(); 4].join("\t");
    let none = "0000000000000000";
    for (name, wanted) in [
        ("Uid", four.as_str()),
        ("Gid", &four),
        ("CapEff", none),
        ("CapPrm", none),
        ("CapInh", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let named =
            |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        let values: Vec<_> = threads.lines().filter_map(named).collect();
        assert!(values.len() >= 3 && values.iter().all(|it| it == wanted), "{name}: {values:?}");
    }
    // Its root is its jail, and there is no process and no mount of others in it.
    let jail = host.sh("echo /var/lib/mvm/jails/firecracker/*/root");
    assert_eq!(host.sh(&format!("cd /proc/{pid}/root && ls")), host.sh(&format!("ls {jail}")));
    assert!(!host.can(&format!("test -e /proc/{pid}/root/proc/self")));
    let mounts = host.text(&format!("/proc/{pid}/mountinfo"));
    let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(points, ["/", "/drives/secrets"], "{mounts}");
    assert!(host.sh(&format!("grep NSpid /proc/{pid}/status")).ends_with("\t1"));
    assert!(host.sh(&format!("grep core /proc/{pid}/limits")).contains(" 0 "));
    // No other user gets to its sockets.
    for socket in ["api", "v"] {
        assert!(!host.can(&format!(
            "setpriv --reuid 65534 --clear-groups test -e {jail}/run/{socket}.sock"
        )));
    }
    Outcome::Passed
}

/// The way into the guest outlives a pause, time and again.
pub fn a_paused_guest_answers_after_its_resume(host: &HostVm) -> Outcome {
    let (path, before) = (path(host), pid(host));
    for round in 0..3 {
        host.mvm(&["instance", "warm", &path]);
        assert_eq!(view(host)["status"], "warm");
        host.mvm(&["instance", "wake", &path]);
        assert_eq!(exec(host, &format!("echo {round}")), round.to_string());
    }
    assert_eq!(pid(host), before);
    Outcome::Passed
}

/// Memory and disk are what they were, each generation in another VMM and another jail.
pub fn three_sleeps_lose_nothing(host: &HostVm) -> Outcome {
    let path = path(host);
    let boot = exec(host, "cat /proc/sys/kernel/random/boot_id");
    exec(host, "echo memory >/run/kept; echo disk >/data/kept; sync");
    let mut seen = vec![pid(host)];
    for generation in 1..=3 {
        host.mvm(&["instance", "sleep", &path]);
        assert_eq!(view(host)["status"], "sleeping");
        assert_eq!(left(host), "", "generation {generation}");
        host.mvm(&["instance", "wake", &path]);
        assert_eq!(exec(host, "cat /proc/sys/kernel/random/boot_id"), boot, "it was booted anew");
        assert_eq!(exec(host, "cat /run/kept /data/kept"), "memory\ndisk");
        let clock = |text: String| text.parse::<i64>().expect("seconds");
        let behind = clock(host.sh("date +%s")) - clock(exec(host, "date +%s"));
        assert!(behind.abs() < 10, "the guest's clock is {behind} s behind");
        assert!(!seen.contains(&pid(host)));
        seen.push(pid(host));
    }
    every_thread_of_the_vmm_is_confined(host)
}

/// A snapshot of another VMM, processor or kernel is not resumed: the instance boots from its
/// drives and says why.
pub fn a_snapshot_from_elsewhere_is_not_resumed(host: &HostVm) -> Outcome {
    let path = path(host);
    exec(host, "echo disk >/data/kept; sync");
    for (field, from, to) in [
        ("VMM", r#""version": "1.15.1"#, r#""version": "1.14.9"#),
        ("CPU", r#""cpu_class": ""#, r#""cpu_class": "other "#),
        ("kernel", r#""host_kernel": "6.1"#, r#""host_kernel": "5.10"#),
    ] {
        let boot = exec(host, "cat /proc/sys/kernel/random/boot_id");
        host.mvm(&["instance", "sleep", &path]);
        let manifest =
            host.sh("echo /var/lib/mvm/tenants/prod/pools/*/instances/*/snapshots/*/manifest.json");
        let text = host.text(&manifest);
        assert!(text.contains(from), "{field}: {text}");
        host.write(&manifest, 0o600, text.replace(from, to).as_bytes());
        host.mvm(&["instance", "wake", &path]);
        assert_ne!(exec(host, "cat /proc/sys/kernel/random/boot_id"), boot, "{field}");
        assert_eq!(exec(host, "cat /data/kept"), "disk");
        let note = view(host)["reason"].as_str().unwrap_or_default().to_owned();
        println!("{field}: {note}");
    }
    Outcome::Passed
}

/// What goes beyond a limit is stopped at it, and what is in another tenant's slice does not
/// notice.
pub fn limits_hold(host: &HostVm) -> Outcome {
    let group = format!("/sys/fs/cgroup{}", group(host));
    let inside = |script: &str| {
        format!("sh -c 'echo $$ >{group}/cgroup.procs; {}'", script.replace('\'', "'\\''"))
    };
    // Two that never stop share what one and a quarter processors give.
    let spin = inside("timeout 5 sh -c 'while :; do :; done & while :; do :; done'");
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
    assert_eq!(left(host), "");
    host.mvm(&["instance", "start", &path(host)]);
    assert_eq!(exec(host, "echo back"), "back");
    Outcome::Passed
}

/// Where systemd is not, the jailer makes the control group, with the same limits.
pub fn without_systemd_the_jailer_sets_the_limits(host: &HostVm) -> Outcome {
    let path = path(host);
    host.mvm(&["instance", "stop", &path]);
    host.sh(&format!(
        "unshare -m sh -c 'mount -t tmpfs none /run/systemd; exec mvm instance start {path}'"
    ));
    let group = host.text(&format!("/proc/{}/cgroup", pid(host)));
    let group = group.strip_prefix("0::").unwrap_or_default();
    assert!(group.starts_with("/mvm/t"), "{group}");
    for (file, limit) in
        [("memory.max", "268435456"), ("memory.oom.group", "1"), ("cpu.max", "125000 100000")]
    {
        assert_eq!(host.text(&format!("/sys/fs/cgroup{group}/{file}")), limit, "{file}");
    }
    assert_eq!(exec(host, "echo limited"), "limited");
    host.mvm(&["instance", "stop", &path]);
    assert!(!host.can(&format!("test -e /sys/fs/cgroup{group}")));
    host.mvm(&["instance", "start", &path]);
    Outcome::Passed
}

/// Nothing a VM needs is in who started it: agent and supervisor die, the guest goes on and is
/// found again.
pub fn a_killed_agent_and_a_killed_supervisor_are_survived(host: &HostVm) -> Outcome {
    let (path, before) = (path(host), pid(host));
    let agent = "systemd-run --unit=test-agent -p KillMode=process mvm agent serve";
    host.sh(agent);
    host.eventually("the agent serves", GUEST, "test -S /run/mvm/agent.sock");
    host.mvm(&["instance", "stop", &path]);
    host.mvm(&["instance", "start", &path]);
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

/// A stop leaves nothing but the records, a tenant's end not even those.
pub fn an_ended_instance_leaves_nothing(host: &HostVm) -> Outcome {
    let path = path(host);
    host.mvm(&["instance", "stop", &path]);
    assert_eq!(view(host)["status"], "stopped");
    assert_eq!(left(host), "");
    host.mvm(&["tenant", "destroy", TENANT, "--force"]);
    assert!(!host.can("ls /sys/class/net | grep -q br-tenant"));
    Outcome::Passed
}

/// Jails, units and VMMs that are there.
fn left(host: &HostVm) -> String {
    host.sh("ls /var/lib/mvm/jails/firecracker; pgrep -x firecracker || true; \
         systemctl list-units --all --no-legend 'mvm-vm-*'")
}

fn view(host: &HostVm) -> serde_json::Value {
    let all = host.mvm_json(&["instance", "list"]);
    let all = all.as_array().expect("a list");
    all.iter().find(|it| it["tenant_id"] == TENANT).expect("an instance").clone()
}

fn path(host: &HostVm) -> String {
    let id = view(host)["instance_id"].as_str().expect("an id").to_owned();
    format!("{POOL}/{id}")
}

fn pid(host: &HostVm) -> String {
    view(host)["pid"].to_string()
}

fn unit(path: &str) -> String {
    let id = path.rsplit('/').next().unwrap_or_default();
    format!("mvm-vm-{id}.service")
}

fn group(host: &HostVm) -> String {
    let net = host.mvm_json(&["tenant", "info", TENANT])["network"]["tenant_net_id"].clone();
    format!("/mvm.slice/mvm-t{net}.slice/{}", unit(&path(host)))
}

fn exec(host: &HostVm, script: &str) -> String {
    host.mvm(&["instance", "exec", &path(host), "--", "sh", "-c", script]).trim().to_owned()
}
