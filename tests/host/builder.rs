//! Who builds a pool's image, with a stub in the place of `nix`: a program the test writes, which
//! succeeds, fails or hangs as the test says. What Nix itself does is not tested here.
//!
//! And the revisions that come of it: history, rollback, collection. One guest is booted from an
//! image that went through the `nix` path.

#[path = "../common/mod.rs"]
mod common;
#[path = "builder/stub.rs"]
mod stub;

use std::process::{ExitCode, Output};
use std::time::{Duration, Instant};

use common::world::{spawn, told, wait};
use common::{Outcome, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stub::{Mode, Stub, repository};

/// How long something may take to show.
const SOON: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    common::main(
        "builder",
        &[
            ("bootstrap_a_tenant", bootstrap_a_tenant),
            ("a_directory_without_a_flake_is_refused_at_once", no_flake),
            ("a_reference_that_is_no_reference_is_refused", bad_references),
            ("what_was_typed_and_what_it_means_are_both_shown", typed_and_kept),
            ("nix_builds_what_it_can", nix_builds_what_it_can),
            ("an_image_of_nix_boots", an_image_of_nix_boots),
            ("the_older_attribute_is_tried_too", the_older_attribute_is_tried_too),
            ("a_failing_build_says_why_and_changes_nothing", a_failing_build_changes_nothing),
            ("an_output_with_a_link_is_refused", an_output_with_a_link_is_refused),
            ("a_hanging_build_ends_with_ctrl_c_and_leaves_no_process", a_hanging_build),
            ("without_nix_our_own_set_is_built_by_the_embedded_builder", own_set),
            ("without_nix_another_flake_has_no_builder", foreign),
            ("the_answer_of_nix_is_remembered", the_answer_is_remembered),
            ("a_hanging_nix_is_given_up_after_twenty_seconds", a_hanging_dry_run),
            ("a_missing_nix_is_named", a_missing_nix_is_named),
            ("rollback_goes_back_and_forth", rollback_goes_back_and_forth),
            ("gc_keeps_what_is_needed_and_nothing_else", gc_keeps_what_is_needed),
            ("an_image_comes_from_an_archive_too", an_image_comes_from_an_archive),
        ],
    )
}

/// Runs `mvm` with the stub in front of every other `nix`.
fn run(world: &World, stub: &Stub, args: &[&str]) -> Output {
    let mut command = world.command(args);
    command.env("PATH", stub.path()).current_dir(repository());
    wait(spawn(command), args)
}

fn ok(world: &World, stub: &Stub, args: &[&str]) -> (String, String) {
    let output = run(world, stub, args);
    assert!(output.status.success(), "mvm {}\n{}", args.join(" "), told(&output));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn refused(world: &World, stub: &Stub, args: &[&str], code: i32) -> String {
    let output = run(world, stub, args);
    assert_eq!(output.status.code(), Some(code), "mvm {}\n{}", args.join(" "), told(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn create(world: &World, stub: &Stub, pool: &str, flake: &str, more: &[&str]) {
    let args = [&["pool", "create", pool, "--flake", flake, "--mem", "256"], more].concat();
    ok(world, stub, &args);
}

/// The digests of a pool's revisions, newest use first, with what they are to it.
fn revisions(world: &World, pool: &str) -> Vec<(String, bool, bool)> {
    let info = world.json(&["pool", "info", pool]);
    let of = |one: &serde_json::Value| {
        let digest = one["digest"].as_str().expect("a digest").to_owned();
        (digest, one["current"] == true, one["here"] == true)
    };
    info["revisions"].as_array().expect("a list").iter().map(of).collect()
}

fn bootstrap_a_tenant(world: &World) -> Outcome {
    // What another run was answered is nothing to this one.
    let _ = std::fs::remove_dir_all(Stub::none(world).cache().join("nix-answers"));
    world.ok(&["tenant", "create", "acme", "--max-running", "4"]);
    Outcome::Passed
}

fn no_flake(world: &World) -> Outcome {
    let empty = world.path("empty");
    std::fs::create_dir_all(&empty).expect("a directory");
    let args = ["pool", "create", "acme/none", "--flake", "."];
    let mut command = world.command(&args);
    command.current_dir(&empty);
    let output = wait(spawn(command), &args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("is no flake: it has no flake.nix"), "{error}");
    assert!(error.contains(&*empty.to_string_lossy()) && error.contains("hint:"), "{error}");
    world.refused(&["pool", "info", "acme/none"], 3);
    Outcome::Passed
}

fn bad_references(world: &World) -> Outcome {
    for bad in [".#tenant", "github:owner", "http://host.example/x.tar.gz", "~/x"] {
        let error = world.refused(&["pool", "create", "acme/none", "--flake", bad], 2);
        assert!(error.contains("hint:"), "{bad}: {error}");
    }
    // What begins with '-' is no value to the command line, and no reference where it is one.
    let error = world.refused(&["pool", "create", "acme/none", "--flake=--impure"], 2);
    assert!(error.contains("does not start with '-'"), "{error}");
    let secret = "https://me:hunter2@host.example/x.tar.gz";
    let error = world.refused(&["pool", "create", "acme/none", "--flake", secret], 2);
    assert!(error.contains("credentials") && !error.contains("hunter2"), "{error}");
    Outcome::Passed
}

fn typed_and_kept(world: &World) -> Outcome {
    let stub = Stub::new(world, Mode::Fails);
    create(world, &stub, "acme/own", ".", &["--profile", "minimal"]);
    let kept = world.json(&["pool", "info", "acme/own"]);
    assert_eq!(kept["image"]["ref"].as_str(), repository().to_str());
    assert_eq!(kept["origin"]["typed"], ".");
    let shown = world.ok(&["pool", "info", "acme/own"]);
    assert!(shown.contains("(typed: .)"), "{shown}");
    Outcome::Passed
}

fn nix_builds_what_it_can(world: &World) -> Outcome {
    let stub = Stub::new(world, Mode::Builds);
    create(world, &stub, "acme/nixed", "github:acme/images", &["--profile", "minimal"]);
    let (said, progress) = ok(world, &stub, &["pool", "build", "acme/nixed"]);
    assert!(said.contains("builder: nix"), "{said}");
    // Its output is shown as progress, without its colours.
    assert!(progress.contains("building '/nix/store/stub.drv'..."), "{progress}");
    let info = world.json(&["pool", "info", "acme/nixed"]);
    assert_eq!(info["builder"], "nix");
    assert_eq!(info["revisions"][0]["source"], "github:acme/images#minimal");
    let digest = info["current"].as_str().expect("a digest");
    let pool = world.path("state/tenants/acme/pools/nixed/artifacts");
    for file in ["vmlinux", "rootfs", "manifest.json"] {
        assert!(pool.join("revisions").join(digest).join(file).is_file(), "{file}");
    }
    assert!(pool.join("current").join("vmlinux").is_file());
    // An argument vector that ends with flake and attribute, and no lock file written.
    let calls = stub.calls();
    let build = calls.last().expect("nix was called");
    let end = "github:acme/images#packages.x86_64-linux.tenant-worker-minimal";
    assert!(build.contains("--no-link --no-write-lock-file") && build.contains(end), "{build}");
    let events = world.ok(&["events", "acme"]);
    assert!(events.contains("builder: nix"), "{events}");
    Outcome::Passed
}

fn an_image_of_nix_boots(world: &World) -> Outcome {
    world.ok(&["instance", "create", "acme/nixed/first"]);
    world.ok(&["instance", "start", "acme/nixed/first"]);
    assert_eq!(world.guest("acme/nixed/first", "uname -s"), "Linux");
    Outcome::Passed
}

fn the_older_attribute_is_tried_too(world: &World) -> Outcome {
    let stub = Stub::new(world, Mode::HasOlderAttribute);
    create(world, &stub, "acme/older", "github:acme/older", &["--profile", "web-shop"]);
    let (said, _) = ok(world, &stub, &["pool", "build", "acme/older", "--builder", "nix"]);
    assert!(said.contains("builder: nix"), "{said}");
    let calls = stub.calls().join("\n");
    let both = ["tenant-worker-web-shop", "packages.x86_64-linux.tenant-web-shop"];
    assert!(both.iter().all(|attribute| calls.contains(attribute)), "{calls}");
    Outcome::Passed
}

fn a_failing_build_changes_nothing(world: &World) -> Outcome {
    let before = revisions(world, "acme/nixed");
    let stub = Stub::new(world, Mode::Fails);
    let args = ["pool", "build", "acme/nixed", "--builder", "nix"];
    let error = refused(world, &stub, &args, 1);
    assert!(error.contains("builder for '/nix/store/stub.drv' failed"), "{error}");
    assert!(!error.contains("line 40") && error.len() < 2500, "not shortened: {error}");
    assert!(error.contains("nix --version"), "{error}");
    let log = std::fs::read_to_string(stub.cache().join("nix-build.log")).expect("a log");
    assert!(log.contains("line 40"), "{log}");
    assert_eq!(revisions(world, "acme/nixed"), before);
    Outcome::Passed
}

fn an_output_with_a_link_is_refused(world: &World) -> Outcome {
    let stub = Stub::new(world, Mode::BuildsLink);
    let args = ["pool", "build", "acme/nixed", "--builder", "nix"];
    let error = refused(world, &stub, &args, 2);
    assert!(error.contains("rootfs is a link, not a file"), "{error}");
    Outcome::Passed
}

fn a_hanging_build(world: &World) -> Outcome {
    let stub = Stub::new(world, Mode::Hangs);
    let args = ["pool", "build", "acme/nixed", "--builder", "nix"];
    let mut command = world.command(&args);
    command.env("PATH", stub.path());
    let child = spawn(command);
    world.eventually("nix hangs", SOON, || !stub.processes().is_empty());
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("mvm is there");
    let output = wait(child, &args);
    assert_eq!(output.status.code(), Some(130), "{}", told(&output));
    world.eventually("nothing of nix is left", SOON, || stub.processes().is_empty());
    Outcome::Passed
}

fn own_set(world: &World) -> Outcome {
    let stub = Stub::new(world, Mode::Fails);
    let (said, talk) = ok(world, &stub, &["pool", "build", "acme/own"]);
    assert!(said.contains("builder: embedded"), "{said}");
    let note = talk.lines().find(|line| line.starts_with("note: ")).expect("one line says so");
    assert!(note.contains("the embedded builder makes this image"), "{note}");
    assert_eq!(world.json(&["pool", "info", "acme/own"])["builder"], "embedded");
    Outcome::Passed
}

fn foreign(world: &World) -> Outcome {
    let stub = Stub::new(world, Mode::Fails);
    create(world, &stub, "acme/foreign", "github:myorg/myflake", &["--profile", "openclaw"]);
    let error = refused(world, &stub, &["pool", "build", "acme/foreign"], 5);
    for word in ["github:myorg/myflake", "failed with exit code", "nix --version", "image import"] {
        assert!(error.contains(word), "{word} is not in {error}");
    }
    // Somebody's copy of our flake is not ours.
    let theirs = world.path("theirs");
    std::fs::create_dir_all(&theirs).expect("a directory");
    let text = std::fs::read_to_string(repository().join("flake.nix")).expect("our flake");
    std::fs::write(theirs.join("flake.nix"), format!("{text}# mine\n")).expect("a flake");
    create(world, &stub, "acme/theirs", theirs.to_str().expect("text"), &[]);
    refused(world, &stub, &["pool", "build", "acme/theirs"], 5);
    let error =
        refused(world, &stub, &["pool", "build", "acme/theirs", "--builder", "embedded"], 5);
    assert!(error.contains("mvm's own images only"), "{error}");
    Outcome::Passed
}

fn the_answer_is_remembered(world: &World) -> Outcome {
    // Asked by the scenarios before, with a stub that failed.
    let stub = Stub::new(world, Mode::Builds);
    let error = refused(world, &stub, &["pool", "build", "acme/foreign"], 5);
    assert!(error.contains("failed with exit code"), "{error}");
    assert_eq!(stub.calls(), Vec::<String>::new());
    // Another lock file is another question.
    let theirs = world.path("theirs");
    std::fs::write(theirs.join("flake.lock"), "{}").expect("a lock file");
    let (said, _) = ok(world, &stub, &["pool", "build", "acme/theirs"]);
    assert!(said.contains("builder: nix"), "{said}");
    let lock = &world.json(&["pool", "info", "acme/theirs"])["revisions"][0]["lock"];
    assert_eq!(lock.as_str().map(str::len), Some(64));
    Outcome::Passed
}

fn a_hanging_dry_run(world: &World) -> Outcome {
    let stub = Stub::new(world, Mode::Hangs);
    create(world, &stub, "acme/slow", "github:acme/slow", &[]);
    let started = Instant::now();
    let error = refused(world, &stub, &["pool", "build", "acme/slow"], 5);
    let took = started.elapsed();
    assert!((Duration::from_secs(19)..Duration::from_secs(40)).contains(&took), "{took:?}");
    assert!(error.contains("gave up after"), "{error}");
    world.eventually("nothing of nix is left", SOON, || stub.processes().is_empty());
    Outcome::Passed
}

fn a_missing_nix_is_named(world: &World) -> Outcome {
    let stub = Stub::none(world);
    if let Err(reason) = stub.hide_the_machines_own() {
        return Outcome::Skipped(reason);
    }
    let args = ["pool", "build", "acme/nixed", "--builder", "nix"];
    let error = refused(world, &stub, &args, 5);
    assert!(error.contains("nix is not installed") && error.contains("nix --version"), "{error}");
    create(world, &stub, "acme/nobody", "github:acme/nobody", &[]);
    let error = refused(world, &stub, &["pool", "build", "acme/nobody"], 5);
    assert!(error.contains("nix is not installed; the embedded builder"), "{error}");
    Outcome::Passed
}

fn rollback_goes_back_and_forth(world: &World) -> Outcome {
    let first = revisions(world, "acme/nixed")[0].0.clone();
    let error = world.refused(&["pool", "rollback", "acme/nixed"], 3);
    assert!(error.contains("no previous revision"), "{error}");
    let stub = Stub::new(world, Mode::BuildsAnother(1));
    ok(world, &stub, &["pool", "build", "acme/nixed", "--builder", "nix"]);
    let second = revisions(world, "acme/nixed")[0].0.clone();
    assert_ne!(first, second);
    // The running instance keeps the first, of which the rollback to it says nothing.
    let back = world.json(&["pool", "rollback", "acme/nixed"]);
    assert_eq!((back["to"].as_str(), back["keeping"].as_u64()), (Some(&*first), Some(0)));
    let forth = world.json(&["pool", "rollback", "acme/nixed", "--to", &second[..10]]);
    assert_eq!((forth["to"].as_str(), forth["keeping"].as_u64()), (Some(&*second), Some(1)));
    let now = world.instance("acme/nixed/first");
    assert_eq!(now["revision"].as_str(), Some(&*first));
    let error = world.refused(&["pool", "rollback", "acme/nixed", "--to", "00"], 3);
    assert!(error.contains("never used"), "{error}");
    Outcome::Passed
}

fn gc_keeps_what_is_needed(world: &World) -> Outcome {
    let booted = world.instance("acme/nixed/first")["revision"].as_str().expect("one").to_owned();
    for number in 2..5 {
        let stub = Stub::new(world, Mode::BuildsAnother(number));
        ok(world, &stub, &["pool", "build", "acme/nixed", "--builder", "nix"]);
    }
    let here = |world: &World| {
        let all = revisions(world, "acme/nixed").into_iter();
        all.filter(|(_, _, here)| *here).map(|(digest, ..)| digest).collect::<Vec<_>>()
    };
    let before = here(world);
    assert_eq!(before.len(), 5);
    let collected = world.json(&["pool", "gc", "acme/nixed"]);
    assert_eq!(collected["revisions"].as_array().map(Vec::len), Some(2), "{collected}");
    // Current, previous, and what the running instance was booted from.
    let after = here(world);
    assert_eq!(after, [before[0].clone(), before[1].clone(), booted.clone()]);
    // What is gone can be gone back to only while the image store has it.
    let gone = &before[2];
    world.ok(&["pool", "rollback", "acme/nixed", "--to", gone]);
    world.ok(&["pool", "rollback", "acme/nixed"]);
    world.ok(&["instance", "sleep", "acme/nixed/first"]);
    world.ok(&["pool", "gc", "acme/nixed"]);
    world.ok(&["instance", "wake", "acme/nixed/first"]);
    assert_eq!(world.guest("acme/nixed/first", "uname -s"), "Linux");
    world.ok(&["instance", "destroy", "acme/nixed/first", "--force"]);
    let again = world.json(&["pool", "gc", "acme/nixed"]);
    let removed = again["revisions"].as_array().expect("a list");
    assert!(removed.iter().any(|digest| *digest == booted), "{again}");
    Outcome::Passed
}

fn an_image_comes_from_an_archive(world: &World) -> Outcome {
    let stub = Stub::new(world, Mode::Builds);
    let (archive, output) = (world.path("image.tar"), stub.output());
    let (archive, output) = (archive.to_str().expect("text"), output.to_str().expect("text"));
    world.tool("tar", &["-cf", archive, "-C", output, "."]);
    // Its manifest names neither profile nor role, which only a build knows.
    let error = world.refused(&["image", "import", archive], 2);
    assert!(error.contains("names no profile and role"), "{error}");
    stub.name("web-shop", "worker");
    world.tool("tar", &["-I", "gzip -1", "-cf", archive, "-C", output, "."]);
    let view = world.json(&["image", "import", archive]);
    let digest = view["digest"].as_str().expect("a digest");
    world.ok(&["pool", "create", "acme/shop", "--revision", digest]);
    world.ok(&["pool", "build", "acme/shop"]);
    assert_eq!(world.json(&["pool", "info", "acme/shop"])["current"], digest);
    let listed = world.json(&["image", "list"]);
    let ours = listed.as_array().expect("a list").iter().find(|one| one["digest"] == digest);
    assert_eq!(ours.expect("listed")["needed_by"][0], "acme/shop");
    Outcome::Passed
}
