//! The document's Troubleshooting table: each symptom provoked, its hint found.
//!
//! | symptom | check | provoked by |
//! |---|---|---|
//! | `Lima VM not running` | `limactl list` | not ours: mvm runs on Linux |
//! | `/dev/kvm not found` | nested virtualisation | cli_node `no_kvm_and_no_capability_have_their_hints` |
//! | `pool build` fails | `nix --version` | here |
//! | `instance start` hangs | `mvm instance logs` | here while it hangs; it ends within a minute, as does asking a guest that hangs: lifecycle `a_silent_guest_is_an_error_not_a_hang` |
//! | bridge not created | `CAP_NET_ADMIN` | cli_node `no_kvm_and_no_capability_have_their_hints` |
//! | QUIC connection refused | certificates | comes with the fleet |
//! | `mvm new` fails at build | `mvm add host` | here |
//! | `mvm connect` shows no instances | `mvm pool info` | here |

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::shell::{Pass, Shell, says};
use crate::common::world::{spawn, told, wait};
use crate::common::{Outcome, World};

const SOON: Duration = Duration::from_secs(20);

pub fn hints_are_found(world: &World) -> Outcome {
    let shell = Shell::new(world, Pass::Hello);
    connect_without_instances(&shell);
    build_fails(&shell);
    new_fails_at_build(&shell);
    start_hangs(&shell);
    Outcome::Passed
}

/// `mvm connect` shows no instances: look at the pool.
fn connect_without_instances(shell: &Shell) {
    shell.ok("mvm tenant create quiet");
    shell.ok("mvm pool create quiet/workers --profile minimal");
    says(&shell.both("mvm connect quiet"), &["mvm pool info quiet/workers"]);
    shell.ok("mvm tenant destroy quiet --force");
}

/// A flake of nobody's, from which no image can be built; its directory.
fn foreign_flake(shell: &Shell) -> String {
    let dir = shell.world.path("foreign-flake");
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("flake.nix"), "{ outputs = _: { }; }\n").expect("a flake");
    dir.display().to_string()
}

/// `pool build` fails: is Nix there and does it work?
fn build_fails(shell: &Shell) {
    let flake = foreign_flake(shell);
    shell.ok("mvm tenant create broken");
    shell.ok(&format!("mvm pool create broken/workers --flake {flake} --profile minimal"));
    says(&shell.refused("mvm pool build broken/workers", 5), &[&flake, "hint:", "nix --version"]);
    shell.ok("mvm tenant destroy broken --force");
}

/// A Nix that would build everything and builds nothing.
const FAILING_NIX: &str = r#"#!/bin/sh
case "$*" in
*--version*) echo "nix (Nix) 2.8.0" ;;
*--dry-run*) ;;
*) echo "error: no such builder" >&2; exit 1 ;;
esac
"#;

/// `mvm new` fails at build: is this host prepared?
fn new_fails_at_build(shell: &Shell) {
    let (flake, bin) = (foreign_flake(shell), shell.world.path("failing-nix"));
    std::fs::create_dir_all(&bin).expect("a directory");
    std::fs::write(bin.join("nix"), FAILING_NIX).expect("a program");
    shell.world.tool("chmod", &["+x", &bin.join("nix").display().to_string()]);
    let line = format!("PATH={}:$PATH mvm new hello unbuilt --flake {flake}", bin.display());
    says(
        &shell.refused(&line, 1),
        &["unbuilt/gateways", "no such builder", "hint:", "mvm add host"],
    );
    says(&shell.both("mvm connect unbuilt"), &["mvm pool info unbuilt/"]);
    shell.ok("mvm tenant destroy unbuilt --force");
}

/// `instance start` hangs: what the machine and its VMM say is there while it does.
fn start_hangs(shell: &Shell) {
    let world = shell.world;
    shell.ok("mvm tenant create slow");
    shell.ok("mvm pool create slow/workers --profile minimal --mem 128");
    shell.ok("mvm pool build slow/workers");
    shell.ok("mvm pool scale slow/workers --running 1");
    let instance = world.members("slow/workers").remove(0);
    let args = ["instance", "start", instance.as_str()];
    let starting = spawn(world.command(&args));
    let id = instance.rsplit('/').next().expect("an id");
    let record = world.path("run/vm").join(id).join("vmm.json");
    let pid = || {
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&record).ok()?).ok()?;
        Some(Pid::from_raw(i32::try_from(record["process"]["pid"].as_i64()?).ok()?))
    };
    world.eventually("it has a VM", SOON, || pid().is_some());
    let pid = pid().expect("a VM");
    kill(pid, Signal::SIGSTOP).expect("it takes a signal");
    says(&shell.ok("mvm instance list --tenant slow"), &["starting"]);
    let said = told(&shell.run(&format!("mvm instance logs {instance}")));
    says(&said, &["is starting"]);
    assert!(said.contains("console: ") || said.contains("--console' and '--vmm'"), "{said}");
    shell.ok(&format!("mvm instance logs {instance} --console"));
    shell.ok(&format!("mvm instance logs {instance} --vmm"));
    kill(pid, Signal::SIGCONT).expect("it takes a signal");
    let started = wait(starting, &args);
    assert!(started.status.success(), "{}", told(&started));
    shell.ok("mvm tenant destroy slow --force");
}
