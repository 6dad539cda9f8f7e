//! The host's own commands: `add host`, `node …`, `doctor`, `net verify`, `events`, and the rows of
//! the troubleshooting table that need no guest, each provoked; and bad input. Nothing boots.

#[path = "../common/mod.rs"]
mod common;
#[path = "node/input.rs"]
mod input;
#[path = "node/program.rs"]
mod program;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use common::harness::OwnImages;
use common::world::{spawn, told, wait};
use common::{Outcome, World};
use serde_json::Value;

fn main() -> ExitCode {
    common::main::<OwnImages>(
        "node",
        &[
            ("add_host_prepares_and_can_be_repeated", |world| {
                add_host_prepares_and_can_be_repeated(world)
            }),
            ("node_says_what_it_is_and_does", |world| node_says_what_it_is_and_does(world)),
            ("the_disk_quota_counts_drives_at_full_size", |world| {
                the_disk_quota_counts_drives_at_full_size(world)
            }),
            ("a_program_gets_json_and_nothing_else", |world| {
                program::a_program_gets_json_and_nothing_else(world)
            }),
            ("a_quota_is_told_with_its_numbers", |world| {
                program::a_quota_is_told_with_its_numbers(world)
            }),
            ("a_word_about_the_disk_means_one_thing", |world| {
                program::a_word_about_the_disk_means_one_thing(world)
            }),
            ("garbage_goes_and_what_is_needed_stays", |world| {
                garbage_goes_and_what_is_needed_stays(world)
            }),
            ("net_verify_tries_what_it_checks", |world| net_verify_tries_what_it_checks(world)),
            ("doctor_names_each_trouble_with_its_remedy", |world| {
                doctor_names_each_trouble_with_its_remedy(world)
            }),
            ("no_kvm_and_no_capability_have_their_hints", |world| {
                no_kvm_and_no_capability_have_their_hints(world)
            }),
            ("events_outlive_their_tenant", |world| events_outlive_their_tenant(world)),
            ("bad_documents_change_nothing", |world| input::bad_documents_change_nothing(world)),
            ("what_cannot_be_is_refused", |world| input::what_cannot_be_is_refused(world)),
            ("another_owners_objects_are_left_alone", |world| {
                input::another_owners_objects_are_left_alone(world)
            }),
            ("a_newer_versions_state_is_left_alone", |world| {
                input::a_newer_versions_state_is_left_alone(world)
            }),
            ("a_clock_set_back_loses_nothing", |world| {
                input::a_clock_set_back_loses_nothing(world)
            }),
        ],
    )
}

fn run(world: &World, args: &[&str]) -> Output {
    wait(spawn(world.command(args)), args)
}

fn ok(world: &World, args: &[&str]) -> String {
    let output = run(world, args);
    assert!(output.status.success(), "mvm {}\n{}", args.join(" "), told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(world: &World, args: &[&str]) -> Value {
    let text = ok(world, &[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
}

fn destroy(world: &World, tenant: &str) {
    ok(world, &["tenant", "destroy", tenant, "--force"]);
}

fn add_host_prepares_and_can_be_repeated(world: &World) -> Outcome {
    let first = run(world, &["add", "host"]);
    let said = told(&first);
    assert!(first.status.success(), "{said}");
    for word in ["Node:", "proven", "no certificates yet", "next: mvm agent serve"] {
        assert!(said.contains(word), "{word} is missing in\n{said}");
    }
    let again = ok(world, &["add", "host"]);
    assert_eq!(String::from_utf8_lossy(&first.stdout), again);
    for fleet in [&["--production"][..], &["--ca", "ca.crt"], &["--signing-key", "c.pub"]] {
        let refused = run(world, &[&["add", "host"], fleet].concat());
        let said = told(&refused);
        assert_eq!(refused.status.code(), Some(4), "{said}");
        assert!(said.contains("certificates") && said.contains("hint:"), "{said}");
    }
    Outcome::Passed
}

fn node_says_what_it_is_and_does(world: &World) -> Outcome {
    let info = json(world, &["node", "info"]);
    for field in ["node_id", "arch", "cpus", "mem_mib", "kernel", "vmms", "versions", "given"] {
        assert!(!info[field].is_null(), "{field} is missing in {info}");
    }
    let shown = ok(world, &["node", "info"]);
    for word in ["Node:", "Architecture:", "vCPUs:", "Memory:", "Kernel:", "Accelerator:"] {
        assert!(shown.contains(word), "{word} is missing in\n{shown}");
    }
    ok(world, &["tenant", "create", "acme"]);
    let stats = json(world, &["node", "stats"]);
    assert_eq!(stats["tenants"][0]["tenant_id"], "acme");
    assert!(stats["memory"]["total_bytes"].as_u64() > Some(0));
    assert!(ok(world, &["node", "stats"]).contains("acme"));
    destroy(world, "acme");
    Outcome::Passed
}

fn the_disk_quota_counts_drives_at_full_size(world: &World) -> Outcome {
    ok(world, &["tenant", "create", "acme", "--max-disk", "1"]);
    let drives = ["--cpus", "1", "--mem", "128", "--data-disk", "600", "--profile", "minimal"];
    ok(world, &[&["pool", "create", "acme/workers"][..], &drives].concat());
    let refused = run(world, &["pool", "scale", "acme/workers", "--running", "2"]);
    assert_eq!(refused.status.code(), Some(4), "{}", told(&refused));
    assert!(told(&refused).contains("max_disk_gib"), "{}", told(&refused));
    assert_eq!(json(world, &["instance", "list"]).as_array().map(Vec::len), Some(0));
    ok(world, &["pool", "scale", "acme/workers", "--running", "1"]);
    let claimed = 600_u64 << 20;
    for object in [&["tenant", "info", "acme"], &["pool", "info", "acme/workers"]] {
        assert_eq!(json(world, object)["disk_claim"]["data_bytes"], claimed);
    }
    assert!(ok(world, &["tenant", "info", "acme"]).contains("600.0 MiB of 1 GiB"));
    destroy(world, "acme");
    Outcome::Passed
}

fn garbage_goes_and_what_is_needed_stays(world: &World) -> Outcome {
    ok(world, &["tenant", "create", "acme"]);
    ok(
        world,
        &["pool", "create", "acme/workers", "--profile", "minimal", "--cpus", "1", "--mem", "128"],
    );
    ok(world, &["pool", "build", "acme/workers"]);
    ok(world, &["pool", "scale", "acme/workers", "--running", "1"]);
    let id = world.members("acme/workers").remove(0);
    let stray = world.instance_dir(&id).join("snapshots/3");
    let gone = world.path("run/vm/i-0badf00d");
    for dir in [&stray, &gone] {
        fs::create_dir_all(dir).expect("a directory");
        fs::write(dir.join("memory"), vec![1; 1 << 20]).expect("a file");
    }
    let told = json(world, &["node", "gc", "--dry-run"]);
    assert!(told["freed_bytes"].as_u64() >= Some(2 << 20), "{told}");
    assert!(stray.exists() && gone.exists());
    let freed = json(world, &["node", "gc"]);
    assert_eq!(freed["freed_bytes"], told["freed_bytes"]);
    assert!(!stray.exists() && !gone.exists());
    assert!(ok(world, &["node", "gc"]).contains("everything is needed"));
    // What the pool starts from is still there, also in the store.
    let revision = json(world, &["pool", "info", "acme/workers"])["current"].clone();
    let images = json(world, &["image", "list"]);
    assert!(images.as_array().expect("an array").iter().any(|image| image["digest"] == revision));
    assert!(ok(world, &["node", "disk"]).contains("acme: data drives"));
    destroy(world, "acme");
    let disk = ok(world, &["node", "disk"]);
    assert!(disk.contains("storage is freed") && disk.contains("would free"), "{disk}");
    assert!(json(world, &["node", "gc"])["freed_bytes"].as_u64() > Some(0));
    assert_eq!(json(world, &["node", "disk"])["reclaimable_bytes"], 0);
    Outcome::Passed
}

fn net_verify_tries_what_it_checks(world: &World) -> Outcome {
    assert!(ok(world, &["net", "verify"]).contains("no bridges remaining"));
    for tenant in ["acme", "globex"] {
        ok(world, &["tenant", "create", tenant]);
    }
    let clean = ok(world, &["net", "verify"]);
    for word in
        ["2 tenant bridges correct", "subnets match", "no cross-tenant leakage", "2 networks"]
    {
        assert!(clean.contains(word), "{word} is missing in\n{clean}");
    }
    let report = json(world, &["net", "verify"]);
    let findings = report["findings"].as_array().expect("findings");
    assert!(findings.iter().all(|finding| finding["severity"] == "warning"), "{report}");
    assert_eq!(report["probed"], 2);
    world.tool("nft", &["insert", "rule", "inet", "mvm", "t1_input", "accept"]);
    let broken = run(world, &["net", "verify"]);
    let said = told(&broken);
    assert_eq!(broken.status.code(), Some(1), "{said}");
    assert!(said.contains("beyond DNS") && said.contains("hint:"), "{said}");
    for tenant in ["acme", "globex"] {
        destroy(world, tenant);
    }
    assert!(ok(world, &["net", "verify"]).contains("no bridges remaining"));
    Outcome::Passed
}

/// The check of this name, of a doctor that ends with this code.
fn check(world: &World, name: &str, code: i32) -> Value {
    let output = run(world, &["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(code), "{}", told(&output));
    let checks: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut checks = checks["checks"].as_array().expect("checks").clone().into_iter();
    checks.find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}"))
}

fn doctor_names_each_trouble_with_its_remedy(world: &World) -> Outcome {
    assert_eq!(check(world, "records", 0)["health"], "ok");
    assert!(ok(world, &["doctor"]).contains("all readable"));
    ok(world, &["tenant", "create", "acme"]);
    let record = world.path("state/tenants/acme/tenant.json");
    let good = fs::read(&record).expect("a record");
    for (damage, remedy) in [("{", "doctor --repair"), (r#"{"schema_version":99}"#, "newer mvm")] {
        fs::write(&record, damage).expect("damaged");
        let records = check(world, "records", 1);
        assert_eq!(records["health"], "fail");
        assert!(records["remedy"].as_str().is_some_and(|text| text.contains(remedy)), "{records}");
    }
    fs::write(&record, good).expect("restored");
    let socket = world.path("run/agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    assert_eq!(check(world, "agent", 0)["health"], "warn");
    fs::remove_file(socket).expect("removed");
    destroy(world, "acme");
    Outcome::Passed
}

/// `mvm` behind a program that takes something away from it first.
fn deprived(world: &World, by: &[&str], args: &[&str]) -> Output {
    let mvm = world.command(args);
    let mut command = Command::new(by[0]);
    command.args(&by[1..]).arg(mvm.get_program()).args(mvm.get_args()).env_clear();
    command.envs(mvm.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wait(spawn(command), args)
}

/// A `/dev` without KVM.
const NO_KVM: &str = r#"
d=$(mktemp -d) && mount -t tmpfs none "$d" || exit 99
for n in null zero full random urandom tty; do touch "$d/$n"; mount --bind "/dev/$n" "$d/$n"; done
mkdir "$d/net" && mount --rbind /dev/net "$d/net" && mount --rbind "$d" /dev || exit 99
exec "$@"
"#;

fn no_kvm_and_no_capability_have_their_hints(world: &World) -> Outcome {
    if !Path::new("/usr/bin/setpriv").exists() {
        return Outcome::Skipped("setpriv is not installed".into());
    }
    let without = deprived(world, &["unshare", "-m", "sh", "-c", NO_KVM, "sh"], &["doctor"]);
    let said = told(&without);
    for word in ["/dev/kvm not found", "nested virtualisation"] {
        assert!(said.contains(word), "{word} is missing in\n{said}");
    }
    let weak = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    let refused = deprived(world, &weak, &["tenant", "create", "acme"]);
    let said = told(&refused);
    assert!(!refused.status.success() && said.contains("CAP_NET_ADMIN"), "{said}");
    assert!(json(world, &["tenant", "list"]).as_array().is_some_and(Vec::is_empty));
    let doctor = told(&deprived(world, &weak, &["doctor"]));
    assert!(doctor.contains("CAP_NET_ADMIN is missing"), "{doctor}");
    Outcome::Passed
}

fn events_outlive_their_tenant(world: &World) -> Outcome {
    ok(world, &["tenant", "create", "initech"]);
    ok(world, &["pool", "create", "initech/workers", "--profile", "minimal"]);
    let refused = run(world, &["pool", "create", "initech/workers", "--profile", "minimal"]);
    assert_eq!(refused.status.code(), Some(4));
    destroy(world, "initech");
    let lines = ok(world, &["events", "initech", "--last", "2", "--json"]);
    let events: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    assert_eq!(events.len(), 2, "{lines}");
    assert_eq!(events[1]["event"], "tenant.destroy");
    let shown = ok(world, &["events", "initech"]);
    assert!(shown.contains("pool.create") && shown.contains("FAILED"), "{shown}");
    assert!(ok(world, &["events", "initech", "--verify"]).contains("none changed"));
    assert_eq!(run(world, &["events", "nobody"]).status.code(), Some(3));
    Outcome::Passed
}
