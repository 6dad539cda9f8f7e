//! What a newcomer types first, in a fresh world: `demo`, `dev`, `stop`, `status`, with and
//! without root.

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

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
            (
                "a_build_through_sudo_leaves_no_file_of_roots",
                a_build_through_sudo_leaves_no_file_of_roots,
            ),
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

/// A place where nobody can work: a copy of `mvm`, the Rust toolchain, and sudo rules that let
/// nobody become root. All of it is seen in this world's mount namespace only.
struct Nobody {
    home: PathBuf,
    mounted: Vec<PathBuf>,
}

const NOBODY: u32 = 65_534;

impl Nobody {
    fn new() -> Self {
        let home = std::env::temp_dir().join(format!("mvm-nobody-{}", std::process::id()));
        fs::create_dir_all(&home).expect("a home");
        fs::copy(env!("CARGO_BIN_EXE_mvm"), home.join("mvm")).expect("a copy");
        fs::set_permissions(home.join("mvm"), fs::Permissions::from_mode(0o755)).expect("a mode");
        Self { home, mounted: Vec::new() }
    }

    fn bind(&mut self, from: &Path, to: &Path) {
        let none: Option<&str> = None;
        if from.is_dir() {
            fs::create_dir_all(to).expect("a mount point");
        }
        mount(Some(from), to, none, MsFlags::MS_BIND, none).expect("a bind mount");
        self.mounted.push(to.to_owned());
    }

    fn allow_sudo(&mut self) {
        let rules = self.home.join("sudoers");
        let text = "root ALL=(ALL) ALL\nnobody ALL=(ALL) NOPASSWD:SETENV: ALL\n";
        fs::write(&rules, text).expect("rules");
        fs::set_permissions(&rules, fs::Permissions::from_mode(0o440)).expect("a mode");
        self.bind(&rules, Path::new("/etc/sudoers"));
    }

    /// `mvm` as nobody.
    fn run(&self, world: &World, args: &[&str], path: &str, more: &[(&str, &Path)]) -> Output {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
        command.arg(self.home.join("mvm")).args(args).env_clear();
        for (name, value) in world.command(args).get_envs() {
            if let Some(value) = value.filter(|_| name.to_string_lossy().starts_with("MVM_")) {
                command.env(name, value);
            }
        }
        command.envs(more.iter().copied()).env("PATH", path).stdin(Stdio::null());
        command.output().expect("setpriv runs")
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        for target in self.mounted.iter().rev() {
            let _ = nix::mount::umount(target);
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

fn without_root_and_sudo_the_need_is_named(world: &World) -> Outcome {
    let output = Nobody::new().run(world, &["tenant", "list"], "/nowhere", &[]);
    assert_eq!(output.status.code(), Some(4), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("needs root") && said.contains("no sudo"), "{said}");
    Outcome::Passed
}

fn without_root_sudo_is_used(world: &World) -> Outcome {
    if !Path::new("/usr/bin/sudo").exists() {
        return Outcome::Skipped("sudo is not installed".into());
    }
    let mut nobody = Nobody::new();
    nobody.allow_sudo();
    let output = nobody.run(world, &["tenant", "list", "--json"], "/usr/bin:/bin", &[]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[]");
    // Programs are told nothing but results and failures.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let output = nobody.run(world, &["tenant", "list"], "/usr/bin:/bin", &[]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("continuing with sudo"));
    Outcome::Passed
}

/// In a checkout of nobody's, `mvm pool build` through sudo builds the guest agent as nobody.
fn a_build_through_sudo_leaves_no_file_of_roots(world: &World) -> Outcome {
    let rust = |name: &str, default: &str| {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        std::env::var_os(name).map_or_else(|| home.join(default), PathBuf::from)
    };
    let (rustup, cargo) = (rust("RUSTUP_HOME", ".rustup"), rust("CARGO_HOME", ".cargo"));
    if !Path::new("/usr/bin/sudo").exists() || !rustup.join("toolchains").is_dir() {
        return Outcome::Skipped("needs sudo and a Rust toolchain of rustup's".into());
    }
    let mut nobody = Nobody::new();
    nobody.allow_sudo();
    let (checkout, rustup_home, cargo_home) =
        (nobody.home.join("checkout"), nobody.home.join("rustup"), nobody.home.join("cargo"));
    nobody.bind(&rustup, &rustup_home);
    nobody.bind(&cargo, &cargo_home);
    fs::create_dir_all(&checkout).expect("a checkout");
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    for part in ["src", "Cargo.toml", "Cargo.lock"] {
        world.tool("cp", &["-r", &format!("{sources}/{part}"), &checkout.to_string_lossy()]);
    }
    world.tool("chown", &["-R", "65534:65534", &checkout.to_string_lossy()]);
    world.ok(&["tenant", "create", "built"]);
    world.ok(&["pool", "create", "built/workers"]);
    let path = format!("{}/bin:/usr/bin:/bin", cargo_home.display());
    let manifest = checkout.join("src/cli");
    let more = [
        ("RUSTUP_HOME", rustup_home.as_path()),
        ("CARGO_HOME", cargo_home.as_path()),
        ("CARGO_MANIFEST_DIR", manifest.as_path()),
        ("CARGO_NET_OFFLINE", Path::new("true")),
        // Who owns the files does not depend on how well they are optimised.
        ("CARGO_PROFILE_GUEST_LTO", Path::new("off")),
        ("CARGO_PROFILE_GUEST_OPT_LEVEL", Path::new("0")),
        ("CARGO_PROFILE_GUEST_CODEGEN_UNITS", Path::new("16")),
        ("MVM_GUEST", Path::new("")),
    ];
    let output = nobody.run(world, &["pool", "build", "built/workers"], &path, &more);
    assert!(output.status.success(), "{}", told(&output));
    let of_others =
        world.tool("find", &[&checkout.to_string_lossy(), "!", "-uid", &NOBODY.to_string()]);
    assert_eq!(of_others, "", "a build through sudo left files of somebody else");
    assert!(checkout.join("target").is_dir(), "nothing was built there");
    world.ok(&["tenant", "destroy", "built", "--force"]);
    Outcome::Passed
}
