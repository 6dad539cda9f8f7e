//! The product on a host where it was just installed.

use crate::common::Outcome;
use crate::common::world::told;
use crate::hostvm::HostVm;

/// Programs and files are where an installation has them.
pub fn this_build_is_installed(host: &HostVm) -> Outcome {
    assert!(host.mvm(&["--version"]).starts_with("mvm "));
    assert!(host.sh("/usr/local/libexec/mvm/mvm-guest-x86_64 --version").starts_with("mvm-guest "));
    assert!(host.sh("firecracker --version | head -n 1").starts_with("Firecracker v1."));
    assert!(host.sh("jailer --version | head -n 1").starts_with("Jailer v1."));
    host.sh("test -s /opt/guest/vmlinux && test -s /opt/guest/initrd && test -s /opt/guest/rootfs");
    Outcome::Passed
}

/// Both come to an end and say something useful, without a network.
pub fn doctor_and_bootstrap_speak(host: &HostVm) -> Outcome {
    for command in ["doctor", "bootstrap"] {
        let args: &[&str] = if command == "doctor" { &[] } else { &["--yes"] };
        let output = host.run(&[&["mvm", command], args].concat());
        println!("mvm {command}:\n{}", told(&output));
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1 | 4 | 5)), "{}", told(&output));
    }
    Outcome::Passed
}
