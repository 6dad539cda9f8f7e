//! The embedded image builder on real packages: same inputs same digest, nothing lost when the
//! disk is full, the builder is killed or the network is gone. Skipped where apt is missing.

#![allow(unreachable_pub, clippy::unwrap_used)] // one binary, nothing is exported

#[path = "image_faults.rs"]
mod faults;
#[path = "../common/skip.rs"]
mod skip;
#[path = "image_world.rs"]
mod world;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use mvm_host::image::Store;
use mvm_host::packages::{Arch, find_program};
use mvm_model::image::{Profile, Restart, Role};
use skip::skip;
use world::{World, apart, shell};

#[test]
fn two_builds_from_the_same_inputs_have_the_same_digest() {
    let Some(world) = World::enter("two_builds_from_the_same_inputs") else { return };
    let (here, there) = (world.built(), world.store());
    let first = world.build(&here.store, Profile::Minimal, Role::Worker).unwrap();
    // Another directory, another umask, another second.
    let (second, took) = apart(|| {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let started = Instant::now();
        let second = world.build(&there.store, Profile::Minimal, Role::Worker).unwrap();
        (second, started.elapsed())
    });
    assert!(took < Duration::from_secs(60), "took {took:?}");
    assert_eq!(first.digest, second.digest);
    here.store.verify(&first.digest, world.control()).unwrap();
    there.store.verify(&first.digest, world.control()).unwrap();
    let files = first.files(Arch::HOST).unwrap();
    let magic = |path, at: usize| std::fs::read(path).unwrap()[at..at + 4].to_vec();
    assert_eq!(magic(&files.vmlinux, 0), b"\x7fELF");
    assert_eq!(magic(&files.initrd, 0), b"0707");
    if Arch::HOST == Arch::X86_64 {
        assert_eq!(magic(&files.kernel, 0x202), b"HdrS");
    }
}

#[test]
fn an_unchanged_rebuild_takes_milliseconds_and_no_network() {
    let Some(world) = World::enter("an_unchanged_rebuild_takes_milliseconds") else { return };
    let here = world.built();
    let built = world.build(&here.store, Profile::Minimal, Role::Worker).unwrap();
    let (again, took) = apart(|| {
        world::without_network();
        // The least of three: neighbours have their turns.
        let tries = (0..3).map(|_| {
            let started = Instant::now();
            let again = world.build(&here.store, Profile::Minimal, Role::Worker).unwrap();
            (started.elapsed(), again)
        });
        let (took, again) = tries.min_by_key(|(took, _)| *took).unwrap();
        (again, took)
    });
    assert_eq!(built.digest, again.digest);
    assert!(took < Duration::from_millis(500), "took {took:?}");
}

#[test]
fn roles_share_a_kernel_and_only_a_gateway_has_a_workload() {
    let Some(world) = World::enter("roles_share_a_kernel") else { return };
    let here = world.built();
    let worker = world.build(&here.store, Profile::Minimal, Role::Worker).unwrap();
    let gateway = world.build(&here.store, Profile::Minimal, Role::Gateway).unwrap();
    assert_ne!(worker.digest, gateway.digest);
    let inode = |dir: &std::path::Path| std::fs::metadata(dir.join("vmlinux")).unwrap().ino();
    assert_eq!(inode(&worker.dir), inode(&gateway.dir));
    // What is lent is what would have been made.
    let alone = world.build(&world.store().store, Profile::Minimal, Role::Gateway).unwrap();
    assert_eq!(alone.digest, gateway.digest);
    assert_eq!(worker.manifest.workload, None);
    let workload = gateway.manifest.workload.as_ref().unwrap();
    assert_eq!((&workload.ports[..], workload.restart), (&[8080][..], Restart::Always));
    // Collecting one leaves the other whole.
    here.store.gc(std::slice::from_ref(&gateway.digest), world.control()).unwrap();
    here.store.verify(&gateway.digest, world.control()).unwrap();
    assert!(here.store.get(&worker.digest).is_err());
}

#[test]
fn a_minimal_root_holds_what_a_guest_boots_with() {
    let Some(world) = World::enter("a_minimal_root_holds_what_a_guest_boots_with") else { return };
    let here = world.built();
    let built = world.build(&here.store, Profile::Minimal, Role::Gateway).unwrap();
    let Some(root) = world.extract(&built) else { return };
    let path = |name: &str| root.path().join(name);
    let init = std::fs::read(path("usr/sbin/init")).unwrap();
    assert_eq!(mvm_model::Digest::of(&init), world.guest.digest);
    for (link, target) in
        [("bin", "usr/bin"), ("usr/bin/sh", "busybox"), ("etc/resolv.conf", "/run/resolv.conf")]
    {
        assert_eq!(std::fs::read_link(path(link)).unwrap().to_str(), Some(target));
    }
    for dir in ["proc", "sys", "dev", "run", "tmp", "data", "root", "etc/mvm-config"] {
        assert!(path(dir).is_dir(), "{dir}");
    }
    let about = std::fs::read_to_string(path("etc/mvm/image.json")).unwrap();
    assert_eq!(about.trim(), r#"{"profile":"minimal","role":"gateway"}"#);
    assert!(std::fs::read_to_string(path("etc/passwd")).unwrap().contains("user:x:1000:1000:"));
    // The gateway's program serves a page that names it.
    let script = std::fs::read_to_string(path("usr/libexec/mvm/gateway")).unwrap();
    assert!(script.contains("httpd -f -p 8080"), "{script}");
}

#[test]
fn a_hello_worker_serves_a_page_and_says_how_it_is() {
    let Some(world) = World::enter("a_hello_worker_serves_a_page") else { return };
    let here = world.built();
    let built = world.build(&here.store, Profile::Hello, Role::Worker).unwrap();
    let workload = built.manifest.workload.as_ref().unwrap();
    assert_eq!((&workload.ports[..], workload.user.as_deref()), (&[8080][..], Some("1000:1000")));
    assert_eq!(workload.health.as_ref().map(|health| &health.path[..]), Some("/health"));
    let Some(root) = world.extract(&built) else { return };
    let script = std::fs::read_to_string(root.path().join(&workload.argv[0][1..])).unwrap();
    assert!(script.contains("httpd -f -p \"$port\""), "{script}");
}

#[test]
fn a_node_root_runs_node_with_nothing_but_its_own_libraries() {
    let Some(world) = World::enter("a_node_root_runs_node") else { return };
    let here = world.built();
    let built = world.build(&here.store, Profile::Node, Role::Worker).unwrap();
    let Some(root) = world.extract(&built) else { return };
    let script = "console.log(6*7, new Intl.NumberFormat('de').format(1.5)); require('https')";
    let output = shell("chroot", &[root.path().to_str().unwrap(), "/usr/bin/node", "-e", script]);
    assert_eq!(output, "42 1,5\n");
    assert!(!root.path().join("usr/share/doc").exists());
    let size = std::fs::metadata(built.files(Arch::HOST).unwrap().rootfs).unwrap().len();
    assert!(size < 80 << 20, "{size} bytes");
}

/// Slow where nothing is kept yet: it downloads some 300 packages.
#[test]
fn an_openclaw_root_runs_openclaw_with_its_install_script_done() {
    let name = "an_openclaw_root_runs_openclaw";
    if std::env::var_os("MVM_TEST_OPENCLAW").is_none() {
        return skip(name, "takes minutes and 800 MB of npm packages: MVM_TEST_OPENCLAW=1 runs it");
    }
    let Some(world) = World::enter(name) else { return };
    let (here, built) = match world.openclaw() {
        Ok(both) => both,
        Err(reason) => return skip(name, &reason),
    };
    assert_eq!(built.manifest.workload.as_ref().unwrap().ports, [18789]);
    assert!(built.manifest.inputs["npm:openclaw"].starts_with("2026."));
    // Its packages are kept: another role needs no network, nor does building again.
    apart(|| {
        world::without_network();
        world.build(&here.store, Profile::OpenClaw, Role::Worker).unwrap();
        let started = Instant::now();
        let again = world.build(&here.store, Profile::OpenClaw, Role::Gateway).unwrap();
        assert_eq!(again.digest, built.digest);
        assert!(started.elapsed() < Duration::from_millis(500));
    });
    let Some(root) = world.extract(&built) else { return };
    let package = root.path().join("usr/lib/node_modules/openclaw");
    assert!(!package.join(".openclaw-lifecycle-pending").exists());
    let version = "HOME=/tmp exec /usr/bin/openclaw --version";
    let said = shell("chroot", &[root.path().to_str().unwrap(), "/bin/sh", "-c", version]);
    assert!(said.starts_with("OpenClaw 2026."), "{said}");
    let size = std::fs::metadata(built.files(Arch::HOST).unwrap().rootfs).unwrap().len();
    assert!(size < 340 << 20, "{size} bytes");
    compiled_code_is_taken(root.path());
    patience_is_for_one_limit(root.path());
}

/// What the rehearsal compiled is what the image's user is given, from a read-only directory.
fn compiled_code_is_taken(root: &Path) {
    let run = "HOME=/tmp NODE_DEBUG_NATIVE=COMPILE_CACHE NODE_COMPILE_CACHE=/usr/lib/mvm/compiled \
               exec /usr/bin/node /usr/bin/openclaw --version 2>&1";
    let said =
        shell("chroot", &["--userspec=1000:1000", root.to_str().unwrap(), "/bin/sh", "-c", run]);
    let accepted = said.lines().filter(|line| line.contains("was accepted")).count();
    assert!(accepted > 3, "{said}");
    let compiled = std::fs::read_dir(root.join("usr/lib/mvm/compiled")).unwrap().flatten().next();
    assert!(std::fs::read_dir(compiled.unwrap().path()).unwrap().count() > 4000);
}

/// `patience.cjs` names a function of OpenClaw's and a constant of it: another version may have
/// others. Nothing else waits longer.
fn patience_is_for_one_limit(root: &Path) {
    let dist = root.join("usr/lib/node_modules/openclaw/dist");
    let texts: Vec<String> = std::fs::read_dir(dist)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("state-lease-heartbeat"))
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .collect();
    for word in ["function startOpenClawStateLeaseHeartbeat(", "START_TIMEOUT_MS = 5e3"] {
        assert!(texts.iter().any(|text| text.contains(word)), "OpenClaw has no {word} any more");
    }
    let script = "const ms = delay => { const t = setTimeout(() => {}, delay).unref(); \
                  return t._idleTimeout }; \
                  function startOpenClawStateLeaseHeartbeat(delay) { return ms(delay) } \
                  console.log(ms(5000), startOpenClawStateLeaseHeartbeat(5000), \
                  startOpenClawStateLeaseHeartbeat(1000))";
    let patience = ["--require", "/usr/lib/mvm/patience.cjs", "-e", script];
    let said =
        shell("chroot", &[&[root.to_str().unwrap(), "/usr/bin/node"][..], &patience].concat());
    assert_eq!(said, "5000 60000 1000\n");
}

#[test]
fn a_tampered_file_is_named_and_rebuilding_heals_it() {
    let Some(world) = World::enter("a_tampered_file_is_named") else { return };
    let here = world.built();
    let built = world.build(&here.store, Profile::Minimal, Role::Worker).unwrap();
    let rootfs = built.files(Arch::HOST).unwrap().rootfs;
    world::flip_byte(&rootfs, 4096);
    let error = here.store.verify(&built.digest, world.control()).unwrap_err();
    assert!(error.to_string().contains("rootfs was changed"), "{error}");
    let again = world.build(&here.store, Profile::Minimal, Role::Worker).unwrap();
    assert_eq!(again.digest, built.digest);
    here.store.verify(&built.digest, world.control()).unwrap();
}

#[test]
fn two_builders_at_once_agree_and_one_waits() {
    let Some(world) = World::enter("two_builders_at_once") else { return };
    let here = world.store();
    let build = || world.build(&here.store, Profile::Minimal, Role::Worker).unwrap().digest;
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(build);
        (build(), other.join().unwrap())
    });
    assert_eq!(one, two);
    assert_eq!(Store::open(here.path()).unwrap().list().unwrap().len(), 1);
    assert!(world.said("is using the image store"), "nobody was told to wait");
}

#[test]
fn every_program_of_the_catalogue_is_named_by_a_package_that_exists() {
    if find_program("apt-cache").is_none() {
        return skip("every_program_of_the_catalogue", "no apt-cache");
    }
    for need in mvm_host::packages::needs(Arch::HOST, &mvm_host::packages::Purpose::ALL) {
        let said = shell("apt-cache", &["policy", need.package]);
        if said.trim().is_empty() {
            return skip("every_program_of_the_catalogue", "apt has no package lists");
        }
        assert!(!said.contains("Candidate: (none)"), "{} cannot be installed", need.package);
    }
}
