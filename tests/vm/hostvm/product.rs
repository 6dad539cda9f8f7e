//! The product on a host where it was just installed, and which Firecracker it runs there.

use crate::common::Outcome;
use crate::common::world::told;
use crate::hostvm::HostVm;

/// Where this host's Firecracker is before and after these scenarios.
const INSTALLED: &str = "/usr/local/bin";
/// What somebody downloaded and unpacked.
const RELEASE: &str = "/srv/release";

/// Programs and files are where an installation has them.
pub fn this_build_is_installed(host: &HostVm) -> Outcome {
    assert!(host.mvm(&["--version"]).starts_with("mvm "));
    assert!(host.sh("/usr/local/libexec/mvm/mvm-guest-x86_64 --version").starts_with("mvm-guest "));
    assert!(host.sh("firecracker --version | head -n 1").starts_with("Firecracker v1."));
    assert!(host.sh("jailer --version | head -n 1").starts_with("Jailer v1."));
    host.sh("test -s /opt/guest/vmlinux && test -s /opt/guest/initrd && test -s /opt/guest/rootfs");
    Outcome::Passed
}

/// `doctor` says which Firecracker there is, and why another one is not run.
pub fn doctor_explains_which_firecracker_is_run(host: &HostVm) -> Outcome {
    let doctor = || String::from_utf8_lossy(&host.run(&["mvm", "doctor"]).stdout).into_owned();
    let there = doctor();
    assert!(there.contains("1.15.1 at /usr/local/bin/firecracker, unlisted"), "{there}");
    assert!(there.contains("each VM is a unit of systemd's"), "{there}");
    // Another version, as far as it says so itself.
    host.sh(&format!(
        "mkdir -p {RELEASE} /srv/other; mv {INSTALLED}/firecracker {INSTALLED}/jailer {RELEASE}; \
         for name in firecracker jailer; do \
           sed 's/1\\.15\\.1/1.16.1/g' {RELEASE}/$name >/srv/other/$name; chmod 755 /srv/other/$name; \
         done"
    ));
    let missing = doctor();
    assert!(missing.contains("firecracker is not installed"), "{missing}");
    assert!(missing.contains("mvm bootstrap --firecracker DIR"), "{missing}");
    let other = host.run(&["sh", "-c", "PATH=$PATH:/srv/other mvm doctor"]);
    let other = told(&other);
    assert!(other.contains("Firecracker 1.16.1 is not run: the way into the guest"), "{other}");
    assert!(other.contains("install version 1.15.1"), "{other}");
    let refused = host.mvm_refuses(&["bootstrap", "--firecracker", "/srv/other"], 4);
    assert!(refused.contains("1.16.1") && refused.contains("bare pause and resume"), "{refused}");
    Outcome::Passed
}

/// On a host without QEMU, Firecracker and network: a directory with the release is all it takes.
pub fn a_directory_is_all_bootstrap_takes(host: &HostVm) -> Outcome {
    let alone = told(&host.run(&["mvm", "bootstrap"]));
    assert!(alone.contains("Firecracker is not fetched"), "{alone}");
    assert!(alone.contains("qemu-system-x86"), "without it there would be nothing: {alone}");
    let ready = host.mvm(&["bootstrap", "--firecracker", RELEASE]);
    assert!(ready.contains("installed Firecracker 1.15.1"), "{ready}");
    assert!(ready.contains("firecracker/kvm: proven"), "{ready}");
    assert!(ready.contains("this host is ready"), "{ready}");
    assert!(!ready.contains("qemu"), "{ready}");
    assert_eq!(host.sh("stat -c '%a %U' /var/lib/mvm/bin/*"), "755 root\n755 root");
    // Again it is there, and nothing is proven anew.
    host.mvm(&["bootstrap"]);
    // Nobody vouches for this build before the host's configuration does.
    let unlisted = host.mvm_refuses(&["bootstrap", "--production"], 4);
    assert!(unlisted.contains("unlisted: nobody vouches for this build"), "{unlisted}");
    let digests = host.sh("cd /var/lib/mvm/bin; sha256sum firecracker jailer | cut -d' ' -f1");
    let digests: Vec<_> = digests.lines().collect();
    let mut settings: serde_json::Value =
        serde_json::from_str(&host.text("/etc/mvm/host.json")).expect("the host's settings");
    let mut doctors_word_naming = |digests: &[&str]| {
        settings["firecracker_digests"] = serde_json::json!(digests);
        host.write("/etc/mvm/host.json", 0o644, settings.to_string().as_bytes());
        host.mvm(&["doctor"])
    };
    let half = doctors_word_naming(&digests[..1]);
    assert!(half.contains("its jailer is unlisted"), "{half}");
    let both = doctors_word_naming(&digests);
    assert!(both.contains("a build this host trusts"), "{both}");
    let production = told(&host.run(&["mvm", "bootstrap", "--production"]));
    assert!(!production.contains("unlisted"), "{production}");
    host.sh(&format!("cp {RELEASE}/* {INSTALLED}/"));
    Outcome::Passed
}
