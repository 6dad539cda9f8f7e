//! Nothing is lost and nothing is guessed: mvm killed with VMs running, a host that was restarted,
//! VMs that went meanwhile, pids of others, records that cannot be read, and things that nobody
//! knows. Shown by `doctor`, made right by `doctor --repair`. The VMM is the fake: these are about
//! records, processes and files, never about a guest.

#[path = "../common/mod.rs"]
mod common;
#[path = "adopt/host.rs"]
mod host;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use common::Outcome;
use common::world::{spawn, told, wait};
use host::{Bystander, Host, edit, handled, is_alive};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const POOL: &str = "acme/workers";
const SECONDS: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    common::main::<Host>(
        "adopt",
        &[
            ("boot_a_fleet", boot_a_fleet),
            ("a_killed_agent_finds_every_vm_again", a_killed_agent_finds_every_vm_again),
            ("a_vm_that_went_is_written_down_and_comes_back", a_vm_that_went_is_written_down),
            ("a_pid_of_somebody_else_is_never_signalled", a_pid_of_somebody_else),
            ("a_corrupt_record_stops_one_instance", a_corrupt_record_stops_one_instance),
            ("a_restored_record_never_brings_a_used_snapshot_back", a_used_snapshot_stays_used),
            ("a_record_that_nothing_restores_keeps_its_drives", a_lost_record_keeps_its_drives),
            ("what_only_a_person_can_decide_is_asked", what_only_a_person_can_decide),
            ("an_older_record_gets_its_vm_back", an_older_record_gets_its_vm_back),
            ("the_vm_of_an_instance_that_is_gone_goes", the_vm_of_an_instance_that_is_gone),
            ("strays_of_the_network_go_and_others_stay", strays_of_the_network),
            ("snapshots_nobody_sleeps_in_are_kept_aside", snapshots_nobody_sleeps_in),
            ("what_somebody_is_at_or_just_makes_is_left", what_somebody_is_at_is_left),
            ("a_restarted_host_comes_back_by_itself", a_restarted_host_comes_back),
        ],
    )
}

fn boot_a_fleet(host: &Host) -> Outcome {
    host.ok(&["tenant", "create", "acme"]);
    let given = ["--profile", "minimal", "--cpus", "1", "--mem", "128", "--data-disk", "16"];
    host.ok(&[&["pool", "create", POOL][..], &given].concat());
    host.ok(&["pool", "build", POOL]);
    host.ok(&["pool", "scale", POOL, "--running", "5"]);
    // All at once: the VMM is proven once, by the first.
    host.ok(&["agent", "reconcile"]);
    assert_eq!(host.vms().len(), 5);
    let (answer, clean) = host.repair();
    assert!(clean && answer["handled"] == json!([]) && answer["left"] == json!([]), "{answer:#}");
    assert!(host.doctor().contains("nothing is here without a reason"));
    Outcome::Passed
}

fn a_killed_agent_finds_every_vm_again(host: &Host) -> Outcome {
    let before = host.vms();
    for _ in 0..2 {
        let mut agent = spawn(host.command(&["agent", "serve", "--interval-secs", "1"]));
        host.eventually("the agent answers", SECONDS, || {
            host.run(&["agent", "status"]).status.success()
        });
        host.eventually("it did a round", SECONDS, || {
            host.json(&["agent", "status"])["last_round"].is_u64()
        });
        assert_eq!(host.vms(), before, "the agent took them over as they were");
        agent.kill().expect("it can be killed");
        let _ = agent.wait();
        assert_eq!(host.vms(), before, "its death harmed nobody");
    }
    fs::remove_file(host.path("run/agent.sock")).expect("it left its socket");
    let (answer, clean) = host.repair();
    assert!(clean && answer["handled"] == json!([]), "{answer:#}");
    Outcome::Passed
}

fn a_vm_that_went_is_written_down(host: &Host) -> Outcome {
    let instance = host.first();
    let others = host.vms().len() - 1;
    // Its supervisor first, so that nobody is there to write it down.
    let running: Value =
        serde_json::from_slice(&fs::read(host.run_dir(&instance).join("vmm.json")).expect("there"))
            .expect("JSON");
    for who in ["supervisor", "process"] {
        let pid = running[who]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        kill(Pid::from_raw(pid.expect("a pid")), Signal::SIGKILL).expect("it can be killed");
    }
    host.eventually("it is gone", SECONDS, || host.status(&instance) == "failed");
    assert!(host.strays().contains("is gone"), "{}", host.doctor());
    let answer = host.repaired();
    let settled = handled(&answer, &instance);
    assert_eq!(settled["verdict"], "settle");
    let record: Value =
        serde_json::from_slice(&fs::read(host.record(&instance)).expect("a record")).expect("JSON");
    assert_eq!(record["state"]["status"], "failed");
    assert_eq!(host.vms().len(), others);
    host.ok(&["instance", "start", &instance]);
    assert_eq!(host.vms().len(), others + 1);
    Outcome::Passed
}

fn a_pid_of_somebody_else(host: &Host) -> Outcome {
    let instance = host.first();
    let before = host.pid(&instance);
    let mut bystander = Bystander::start();
    // What pid reuse leaves: the number is alive and means another process.
    let reuse = |path: &Path, place: &[&str]| {
        edit(path, |document| {
            let mut at = document;
            for name in place {
                at = &mut at[*name];
            }
            at["pid"] = json!(bystander.pid());
        });
    };
    reuse(&host.record(&instance), &["state", "vm", "process"]);
    reuse(&host.run_dir(&instance).join("vmm.json"), &["process"]);
    // Nothing says any more that the old VM is its: it is found by what it has open.
    let answer = host.repaired();
    handled(&answer, &format!("process {before}"));
    assert!(!is_alive(before), "the VM that no record names");
    assert!(bystander.is_unharmed());
    assert_ne!(host.status(&instance), "running");
    host.ok(&["instance", "start", &instance]);
    host.ok(&["instance", "stop", &instance]);
    assert!(bystander.is_unharmed());
    host.ok(&["instance", "start", &instance]);
    Outcome::Passed
}

fn a_corrupt_record_stops_one_instance(host: &Host) -> Outcome {
    let instance = host.first();
    let (pid, others) = (host.pid(&instance), host.vms().len() - 1);
    let path = host.record(&instance);
    let other = fs::read(host.record(&host.members(POOL)[1])).expect("another's record");
    let damages: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("truncated", b"{\"schema_version\": 1, \"inst"),
        ("noise", b"\0\xff~"),
        ("another's", &other),
    ];
    for (name, damage) in damages {
        fs::write(&path, damage).expect("damaged");
        // One instance, not the node.
        assert_eq!(host.vms().len(), others, "{name}");
        let said = host.refused(&["instance", "stop", &instance], 1);
        assert!(said.contains("doctor --repair"), "{name}: {said}");
        host.ok(&["instance", "exec", &host.members(POOL)[0], "--", "echo", "on"]);
        let output = host.run(&["doctor"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", told(&output));
        assert!(told(&output).contains("--repair' restores it"), "{name}: {}", told(&output));
        let answer = host.repaired();
        let restored = handled(&answer, "record ");
        assert_eq!(restored["verdict"], "restore", "{name}");
        let kept = PathBuf::from(restored["moved_to"].as_str().expect("it is kept"));
        assert_eq!(fs::read(kept).expect("kept"), damage, "{name}");
        assert_eq!(host.pid(&instance), pid, "{name}: its VM ran on");
        assert_eq!(host.status(&instance), "running", "{name}");
        // The version before it needs is written by the next change.
        host.ok(&["instance", "warm", &instance]);
        host.ok(&["instance", "wake", &instance]);
    }
    // A record that is gone is restored like one that is damaged.
    fs::remove_file(&path).expect("removed");
    assert!(host.refused(&["instance", "stop", &instance], 1).contains("data.img"));
    host.repaired();
    assert_eq!(host.pid(&instance), pid);
    // So is a pool's and a tenant's.
    for file in ["tenants/acme/pools/workers/pool.json", "tenants/acme/tenant.json"] {
        let file = host.path("state").join(file);
        let spare = file.with_file_name(format!(
            "{}.bak",
            file.file_name().and_then(|name| name.to_str()).expect("a name")
        ));
        if !spare.exists() {
            continue;
        }
        fs::write(&file, "{").expect("damaged");
        host.repaired();
    }
    assert_eq!(host.vms().len(), others + 1);
    Outcome::Passed
}

fn a_used_snapshot_stays_used(host: &Host) -> Outcome {
    let instance = host.first();
    host.ok(&["instance", "exec", &instance, "--", "remember", "first"]);
    host.ok(&["instance", "sleep", &instance]);
    // Asleep: its record goes, its snapshot holds.
    fs::write(host.record(&instance), "").expect("damaged");
    host.repaired();
    assert_eq!(host.status(&instance), "sleeping");
    host.ok(&["instance", "wake", &instance]);
    assert_eq!(host.ok(&["instance", "exec", &instance, "--", "recall"]).trim(), "first");
    host.ok(&["instance", "exec", &instance, "--", "remember", "second"]);
    // Awake: the version before says that it wakes; the VM that lives is what is true.
    let pid = host.pid(&instance);
    fs::write(host.record(&instance), "").expect("damaged");
    host.repaired();
    assert_eq!((host.status(&instance).as_str(), host.pid(&instance)), ("running", pid));
    assert_eq!(host.ok(&["instance", "exec", &instance, "--", "recall"]).trim(), "second");
    // Awake, and the VM goes with the record: never asleep again, its data is kept.
    host.ok(&["instance", "exec", &instance, "--", "write", "kept"]);
    host.ok(&["instance", "sleep", &instance]);
    host.ok(&["instance", "wake", &instance]);
    let pid = host.pid(&instance);
    fs::write(host.record(&instance), "").expect("damaged");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it can be killed");
    host.eventually("it is gone", SECONDS, || !is_alive(pid));
    host.repaired();
    assert_eq!(host.status(&instance), "stopped");
    host.ok(&["instance", "start", &instance]);
    assert_eq!(host.ok(&["instance", "exec", &instance, "--", "recall"]).trim(), "");
    assert_eq!(host.ok(&["instance", "exec", &instance, "--", "read"]).trim(), "kept");
    Outcome::Passed
}

fn a_lost_record_keeps_its_drives(host: &Host) -> Outcome {
    let instance = host.first();
    let record = host.record(&instance);
    let good = fs::read(&record).expect("a record");
    let spare = record.with_file_name("instance.json.bak");
    let pid = host.pid(&instance);
    fs::remove_file(&spare).expect("the version before");
    fs::write(&record, "{").expect("damaged");
    // Its VM lives and nothing says what it is: nothing is done.
    let (answer, clean) = host.repair();
    assert!(!clean && answer["handled"] == json!([]), "{answer:#}");
    assert!(is_alive(pid) && answer["left"][0]["verdict"] == "ask", "{answer:#}");
    // Without a VM the record goes aside and the tenant goes on; the drives stay.
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it can be killed");
    host.eventually("it is gone", SECONDS, || !is_alive(pid));
    host.refused(&["pool", "scale", POOL, "--running", "6"], 1);
    let (answer, clean) = host.repair();
    assert!(!clean, "somebody has to look: {answer:#}");
    let moved = handled(&answer, "record ")["moved_to"].as_str().expect("kept").to_owned();
    assert!(Path::new(&moved).with_file_name("note.txt").exists());
    let data = record.with_file_name("data.img");
    assert!(data.exists() && host.doctor().contains("a person has to decide"));
    assert!(host.doctor().contains("kept aside"));
    let said = host.refused(&["instance", "start", &instance], 1);
    assert!(said.contains("its drives are kept in") && said.contains("data.img"), "{said}");
    // Nobody gets its user while its drive is there.
    let uid = fs::metadata(&data).expect("a drive").uid();
    let others = host.members(POOL);
    host.ok(&["pool", "scale", POOL, "--running", "6"]);
    let new = host.members(POOL).into_iter().find(|member| !others.contains(member));
    for member in host.members(POOL) {
        let record: Value =
            serde_json::from_slice(&fs::read(host.record(&member)).expect("a record"))
                .expect("JSON");
        assert_ne!(record["uid"], uid);
    }
    // Put back, it starts again with its data. The address it had is another's by now.
    fs::write(&record, good).expect("put back");
    assert!(host.doctor().contains("has the address too"), "{}", host.doctor());
    assert!(!host.repair().1);
    host.ok(&["instance", "destroy", &new.expect("a new one"), "--force"]);
    host.repaired();
    host.ok(&["instance", "start", &instance]);
    assert_eq!(host.ok(&["instance", "exec", &instance, "--", "read"]).trim(), "kept");
    Outcome::Passed
}

fn what_only_a_person_can_decide(host: &Host) -> Outcome {
    let record = host.record(&host.first());
    let good = fs::read(&record).expect("a record");
    edit(&record, |document| document["schema_version"] = json!(99));
    let (answer, clean) = host.repair();
    assert!(!clean && answer["handled"] == json!([]), "{answer:#}");
    assert!(answer["left"].to_string().contains("newer mvm"), "{answer:#}");
    assert_eq!(host.run(&["doctor"]).status.code(), Some(1));
    fs::write(&record, good).expect("put back");
    assert!(host.repair().1);
    Outcome::Passed
}

fn an_older_record_gets_its_vm_back(host: &Host) -> Outcome {
    let instance = host.first();
    let old = fs::read(host.record(&instance)).expect("a record");
    host.ok(&["instance", "stop", &instance]);
    host.ok(&["instance", "start", &instance]);
    let pid = host.pid(&instance);
    // Somebody restores a backup of before: it names a VM that is gone.
    fs::write(host.record(&instance), old).expect("restored");
    assert!(host.strays().contains("its VM lives as process"), "{}", host.doctor());
    let answer = host.repaired();
    assert_eq!(handled(&answer, &instance)["verdict"], "settle");
    assert_eq!((host.status(&instance).as_str(), host.pid(&instance)), ("running", pid));
    Outcome::Passed
}

fn the_vm_of_an_instance_that_is_gone(host: &Host) -> Outcome {
    let members = host.members(POOL);
    let (moved, deleted) = (members[1].clone(), members[2].clone());
    let pids = [host.pid(&moved), host.pid(&deleted)];
    host.ok(&["instance", "exec", &deleted, "--", "write", "precious"]);
    let others = host.vms().len() - 2;
    let dir = |instance: &str| host.record(instance).parent().expect("a directory").to_owned();
    let elsewhere = host.path("elsewhere");
    fs::rename(dir(&moved), &elsewhere).expect("moved");
    fs::remove_dir_all(dir(&deleted)).expect("deleted");
    // What is young is left, unless that is asked for.
    let (answer, clean) = host.repair_with(&[]);
    assert!(clean && answer["handled"] == json!([]), "{answer:#}");
    let (dry, _) = host.repair_with(&["--dry-run", "--older-than", "0"]);
    for pid in pids {
        assert_eq!(handled(&dry, &format!("process {pid}"))["outcome"], "planned");
        assert!(is_alive(pid));
    }
    let answer = host.repaired();
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(host.vms().len(), others);
    // The last name of a drive is never removed.
    let drive = handled(&answer, "drives/data");
    assert_eq!(drive["verdict"], "quarantine", "{answer:#}");
    let kept = fs::read(drive["moved_to"].as_str().expect("kept")).expect("kept");
    assert!(kept.windows(8).any(|bytes| bytes == b"precious"));
    assert!(elsewhere.join("data.img").exists());
    for instance in [&moved, &deleted] {
        let (_, id) = instance.rsplit_once('/').expect("a path");
        let left = |dir: &str| {
            let entries = fs::read_dir(host.path(dir)).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_name().to_string_lossy().contains(id)).count()
        };
        for dir in ["run/vm", "run/secrets", "state/jails/firecracker"] {
            assert_eq!(left(dir), 0, "{dir} of {id}");
        }
    }
    fs::remove_dir_all(elsewhere).expect("removed");
    host.ok(&["agent", "reconcile"]);
    Outcome::Passed
}

fn strays_of_the_network(host: &Host) -> Outcome {
    let node = host.json(&["node", "info"])["node_id"].as_str().expect("an id").to_owned();
    let tap = |name: &str, alias: &str| {
        host.tool("ip", &["tuntap", "add", "dev", name, "mode", "tap"]);
        host.tool("ip", &["link", "set", name, "alias", alias]);
    };
    tap("tn1i77", &format!("mvm:{node}:port:1/77"));
    tap("tn9i3", &format!("mvm:{node}:port:9/3"));
    tap("tn8i3", "mvm:another-node:port:8/3");
    tap("tap0", "somebody's");
    for (name, alias) in [
        ("br-tenant-9", format!("mvm:{node}:tenant:gone")),
        ("br-tenant-8", "mvm:another-node:tenant:x".into()),
    ] {
        host.tool("ip", &["link", "add", name, "type", "bridge"]);
        host.tool("ip", &["link", "set", name, "alias", &alias]);
    }
    let before = host.vms();
    assert!(host.strays().contains("tap tn1i77"), "{}", host.doctor());
    let answer = host.repaired();
    for stray in ["tap tn1i77", "tap tn9i3", "bridge br-tenant-9"] {
        assert_eq!(handled(&answer, stray)["verdict"], "reclaim");
    }
    let links = host.tool("ip", &["-br", "link"]);
    for gone in ["tn1i77", "tn9i3", "br-tenant-9"] {
        assert!(!links.contains(gone), "{gone} is still there:\n{links}");
    }
    for stays in ["tn8i3", "tap0", "br-tenant-8", "br-tenant-1"] {
        assert!(links.contains(stays), "{stays} is gone:\n{links}");
    }
    assert_eq!(host.vms(), before);
    for name in ["tn8i3", "tap0", "br-tenant-8"] {
        host.tool("ip", &["link", "del", name]);
    }
    Outcome::Passed
}

fn snapshots_nobody_sleeps_in(host: &Host) -> Outcome {
    let instance = host.first();
    host.ok(&["instance", "sleep", &instance]);
    let dir = host.record(&instance).with_file_name("snapshots");
    let own = fs::read_dir(&dir).expect("snapshots").flatten().next().expect("one").path();
    for name in ["90", "91", "92.tmp"] {
        host.tool("cp", &["-a", &own.to_string_lossy(), &dir.join(name).to_string_lossy()]);
    }
    fs::write(dir.join("91/consumed"), "").expect("marked");
    let answer = host.repaired();
    let whole = handled(&answer, "snapshots/90");
    assert_eq!(whole["verdict"], "quarantine");
    let kept = PathBuf::from(whole["moved_to"].as_str().expect("kept"));
    assert!(kept.join("memory").exists() && kept.join("manifest.json").exists());
    for spent in ["snapshots/91", "snapshots/92.tmp"] {
        assert_eq!(handled(&answer, spent)["verdict"], "reclaim");
    }
    assert!(own.exists());
    host.ok(&["instance", "wake", &instance]);
    Outcome::Passed
}

fn what_somebody_is_at_is_left(host: &Host) -> Outcome {
    // Just made, and nobody knows by whom.
    let young = host.path("run/vm/i-0badf00d");
    fs::create_dir_all(&young).expect("made");
    let (answer, clean) = host.repair_with(&[]);
    assert!(clean && young.exists(), "{answer:#}");
    assert!(answer["left"].to_string().contains("s old"), "{answer:#}");
    host.tool("touch", &["-d", "2 minutes ago", &young.to_string_lossy()]);
    assert!(host.repair_with(&[]).1 && !young.exists());
    // Under somebody's lock nothing is touched.
    let instance = host.first();
    let record = host.record(&instance);
    let good = fs::read(&record).expect("a record");
    let lock = fs::File::options().write(true).open(record.with_file_name(".lock"));
    let lock = Flock::lock(lock.expect("a lock"), FlockArg::LockExclusiveNonblock);
    let lock = lock.expect("nobody has it");
    fs::write(&record, "{").expect("damaged");
    let stray = record.with_file_name("snapshots").join("95");
    fs::create_dir_all(&stray).expect("made");
    let (answer, clean) = host.repair();
    assert!(clean && answer["handled"] == json!([]), "{answer:#}");
    fs::write(&record, good).expect("as it was");
    drop(lock);
    let answer = host.repaired();
    assert_eq!(handled(&answer, "snapshots/95")["verdict"], "reclaim");
    Outcome::Passed
}

/// Every process of the world ends at once, and the host has another boot id: all that a restart
/// is for mvm. Its run directory is on a disk, which is worse than what a restart leaves.
fn a_restarted_host_comes_back(host: &Host) -> Outcome {
    let members = host.members(POOL);
    let (asleep, stopped) = (&members[0], &members[1]);
    host.ok(&["instance", "exec", asleep, "--", "remember", "the word"]);
    host.ok(&["instance", "sleep", asleep]);
    host.ok(&["instance", "stop", stopped]);
    let running = host.vms().len();
    let mut pids = Vec::new();
    for entry in fs::read_dir(host.path("run/vm")).expect("run directories").flatten() {
        let Ok(bytes) = fs::read(entry.path().join("vmm.json")) else { continue };
        let vm: Value = serde_json::from_slice(&bytes).expect("JSON");
        let pid = |who: &str| vm[who]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pids.extend(["supervisor", "process"].into_iter().filter_map(pid));
    }
    for pid in &pids {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    host.eventually("all are gone", SECONDS, || !pids.iter().any(|pid| is_alive(*pid)));
    let boot_id = host.path("boot_id");
    fs::write(&boot_id, "00000000-0000-4000-8000-000000000001\n").expect("written");
    let none: Option<&str> = None;
    let real = "/proc/sys/kernel/random/boot_id";
    mount(Some(&boot_id), real, none, MsFlags::MS_BIND, none).expect("another boot");
    // The number of a VM of then is somebody else's now.
    let mut bystander = Bystander::start();
    let ran = members
        .iter()
        .find(|member| host.record(member).exists() && *member != asleep && *member != stopped)
        .expect("one that ran");
    edit(&host.record(ran), |record| {
        record["state"]["vm"]["process"]["pid"] = json!(bystander.pid())
    });
    edit(&host.run_dir(ran).join("vmm.json"), |vm| vm["process"]["pid"] = json!(bystander.pid()));
    assert_eq!(host.vms(), []);
    assert_eq!(host.status(asleep), "sleeping");
    let report = wait(spawn(host.command(&["agent", "reconcile"])), &["agent", "reconcile"]);
    let listed = host.ok(&["instance", "list"]);
    assert!(report.status.success(), "{}\n{listed}", told(&report));
    host.eventually("all that ran run again", SECONDS, || host.vms().len() >= running);
    assert!(bystander.is_unharmed());
    assert!(host.repair().1);
    host.ok(&["instance", "wake", asleep]);
    assert_eq!(host.ok(&["instance", "exec", asleep, "--", "recall"]).trim(), "the word");
    for entry in fs::read_dir(host.path("run/vm")).expect("run directories").flatten() {
        if let Ok(text) = fs::read_to_string(entry.path().join("vmm.json")) {
            assert!(text.contains("00000000-0000-4000-8000-000000000001"), "of the boot before");
        }
    }
    host.ok(&["tenant", "destroy", "acme", "--force"]);
    nix::mount::umount(real).expect("as it was");
    Outcome::Passed
}
