//! What a newcomer types first, in a fresh world: `demo`, `dev`, `stop`, `status`, with and
//! without root.

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, ExitCode, Stdio};

use common::world::told;
use common::{Outcome, World};
use nix::mount::{MsFlags, mount};

fn main() -> ExitCode {
    common::main(
        "newcomer",
        &[
            ("bootstrap_says_what_this_host_is", bootstrap_says_what_this_host_is),
            (
                "demo_shows_everything_and_goes_without_a_trace",
                demo_shows_everything_and_goes_without_a_trace,
            ),
            ("dev_is_there_when_asked_for", dev_is_there_when_asked_for),
            ("without_root_and_sudo_the_need_is_named", without_root_and_sudo_the_need_is_named),
            ("without_root_sudo_is_used", without_root_sudo_is_used),
        ],
    )
}

fn bootstrap_says_what_this_host_is(world: &World) -> Outcome {
    let said = world.ok(&["bootstrap", "--yes"]);
    assert!(said.contains("proven"), "{said}");
    let status = world.ok(&["status"]);
    for word in ["Firecracker", "QEMU", "Accelerator:", "Agent:", "Dev VM:"] {
        assert!(status.contains(word), "{word} is missing in\n{status}");
    }
    // Whatever machine runs the tests: emulation never counts as production.
    if !said.contains("qemu/kvm: proven") && !said.contains("firecracker/kvm: proven") {
        let error = world.refused(&["bootstrap", "--production"], 4);
        assert!(error.contains("not ready for production"), "{error}");
    }
    let checks = world.run(&["doctor", "--json"]);
    assert!(
        serde_json::from_slice::<serde_json::Value>(&checks.stdout).is_ok(),
        "{}",
        told(&checks)
    );
    Outcome::Passed
}

fn demo_shows_everything_and_goes_without_a_trace(world: &World) -> Outcome {
    let said = world.ok(&["demo", "--yes"]);
    for word in ["Linux", "refused", "memory and /data intact", "Try next"] {
        assert!(said.contains(word), "{word} is missing in\n{said}");
    }
    let before = world.json(&["instance", "list"]);
    let again = world.ok(&["demo", "--yes"]);
    assert!(again.contains("0 booted, 5 ran already"), "{again}");
    let after = world.json(&["instance", "list"]);
    let ids = |list: &serde_json::Value| {
        list.as_array()
            .map(|rows| rows.iter().map(|row| row["instance_id"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(ids(&before), ids(&after));
    let gone = world.ok(&["demo", "--rm"]);
    assert!(gone.contains("packages and the image cache") && gone.contains("stay"), "{gone}");
    assert_eq!(world.leftovers(), Vec::<String>::new());
    assert!(world.ok(&["demo", "--rm"]).contains("was not there"));
    Outcome::Passed
}

fn dev_is_there_when_asked_for(world: &World) -> Outcome {
    let said =
        world.ok(&["dev", "--yes", "--", "sh", "-c", "echo kept > /data/file; sync; uname -s"]);
    assert_eq!(said.trim(), "Linux");
    assert_eq!(world.run(&["dev", "--", "sh", "-c", "exit 5"]).status.code(), Some(5));
    assert!(world.ok(&["status"]).contains("running"));
    assert_eq!(world.json(&["tenant", "list"]).as_array().map(Vec::len), Some(0));
    let all = world.json(&["tenant", "list", "--all"]);
    let net = all[0]["network"].clone();
    world.ok(&["stop"]);
    assert!(world.ok(&["status"]).contains("not running"));
    assert!(!world.tool("ip", &["-o", "link"]).contains("br-tenant-"), "stop left a bridge");
    assert_eq!(world.ok(&["dev", "--", "cat", "/data/file"]).trim(), "kept");
    assert_eq!(world.json(&["tenant", "list", "--all"])[0]["network"], net);
    world.ok(&["dev", "--rm"]);
    assert_eq!(world.leftovers(), Vec::<String>::new());
    Outcome::Passed
}

/// `mvm` as nobody, with a copy of the binary nobody may run.
fn as_nobody(world: &World, args: &[&str], path: &str) -> std::process::Output {
    // The world's own directory may be closed to nobody.
    let copy = std::env::temp_dir().join(format!("mvm-nobody-{}", std::process::id()));
    if !copy.exists() {
        fs::copy(env!("CARGO_BIN_EXE_mvm"), &copy).expect("a copy");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let original = world.command(args);
    let mut command = Command::new("/usr/bin/setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(&copy)
        .args(args);
    command.env_clear();
    for (name, value) in original.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env("PATH", path).stdin(Stdio::null());
    let output = command.output().expect("setpriv runs");
    fs::remove_file(&copy).expect("the copy goes");
    output
}

fn without_root_and_sudo_the_need_is_named(world: &World) -> Outcome {
    let output = as_nobody(world, &["tenant", "list"], "/nowhere");
    assert_eq!(output.status.code(), Some(4), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("needs root") && said.contains("no sudo"), "{said}");
    Outcome::Passed
}

fn without_root_sudo_is_used(world: &World) -> Outcome {
    if !std::path::Path::new("/usr/bin/sudo").exists() {
        return Outcome::Skipped("sudo is not installed".into());
    }
    // Only this world's mount namespace sees the rule.
    let rules = world.path("sudoers");
    fs::write(
        &rules,
        "Defaults !requiretty\nroot ALL=(ALL) ALL\nnobody ALL=(ALL) NOPASSWD:SETENV: ALL\n",
    )
    .expect("rules");
    fs::set_permissions(&rules, fs::Permissions::from_mode(0o440)).expect("a mode");
    let none: Option<&str> = None;
    mount(Some(&rules), "/etc/sudoers", none, MsFlags::MS_BIND, none).expect("a bind mount");
    let output = as_nobody(world, &["tenant", "list", "--json"], "/usr/bin:/bin");
    let unmounted = nix::mount::umount("/etc/sudoers");
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[]");
    assert!(String::from_utf8_lossy(&output.stderr).contains("continuing with sudo"));
    unmounted.expect("the bind mount goes");
    // What cargo built for us is not root's unless cargo ran as root.
    let target = fs::metadata(env!("CARGO_BIN_EXE_mvm")).expect("the binary");
    let runner = nix::unistd::geteuid().as_raw();
    assert_eq!(target.uid(), runner);
    Outcome::Passed
}
