//! The data: which programs mvm runs on a host, and which packages images are made from.

use super::os::{Arch, Distro};

/// What a program is needed for; decides what `bootstrap` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Running guests under QEMU.
    Qemu,
    /// Tenant networks.
    Network,
    /// Formatting data, secrets and config drives.
    Drives,
    /// The embedded image builder.
    Images,
    /// Its profile `openclaw`; asked for with that profile only.
    OpenClaw,
}

impl Purpose {
    /// Everything a host that runs guests under QEMU needs.
    pub const ALL: [Self; 4] = [Self::Qemu, Self::Network, Self::Drives, Self::Images];
}

/// A program the host must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Need {
    /// The package that brings it (the same name on every supported distribution).
    pub package: &'static str,
    /// The program whose presence proves it.
    pub program: &'static str,
    /// What mvm does with it, for people.
    pub reason: &'static str,
}

/// The programs needed on `arch` for `purposes`, without repetition.
pub fn needs(arch: Arch, purposes: &[Purpose]) -> Vec<Need> {
    let mut list: Vec<Need> = Vec::new();
    for need in purposes.iter().map(|purpose| need(arch, *purpose)) {
        if !list.contains(&need) {
            list.push(need);
        }
    }
    list
}

fn need(arch: Arch, purpose: Purpose) -> Need {
    let (package, program, reason) = match (purpose, arch) {
        (Purpose::Qemu, Arch::X86_64) => ("qemu-system-x86", "qemu-system-x86_64", "runs guests"),
        (Purpose::Qemu, Arch::Aarch64) => ("qemu-system-arm", "qemu-system-aarch64", "runs guests"),
        (Purpose::Network, _) => ("nftables", "nft", "keeps tenants apart"),
        (Purpose::Drives, _) => ("e2fsprogs", "mke2fs", "formats drives"),
        (Purpose::Images, _) => ("erofs-utils", "mkfs.erofs", "builds images"),
        (Purpose::OpenClaw, _) => ("npm", "npm", "installs OpenClaw into an image"),
    };
    Need { package, program, reason }
}

/// A part of an image that comes from distribution packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackageSet {
    /// The guest kernel and its modules.
    Kernel,
    /// A static busybox.
    Busybox,
    /// Node.js with the libraries it needs.
    Node,
    /// The libraries of C and C++, for programs that come from elsewhere.
    Runtime,
}

impl PackageSet {
    /// A word for file names and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Busybox => "busybox",
            Self::Node => "node",
            Self::Runtime => "runtime",
        }
    }

    /// The package whose dependencies, as apt resolves them on an empty system, hold this set.
    pub(super) fn root(self, distro: Distro, arch: Arch) -> &'static str {
        match (self, distro, arch) {
            (Self::Kernel, Distro::Debian, Arch::X86_64) => "linux-image-cloud-amd64",
            (Self::Kernel, Distro::Debian, Arch::Aarch64) => "linux-image-cloud-arm64",
            (Self::Kernel, Distro::Ubuntu, _) => "linux-image-virtual",
            (Self::Busybox, _, _) => "busybox-static",
            (Self::Node, _, _) => "nodejs",
            (Self::Runtime, _, _) => "libstdc++6",
        }
    }

    /// Whether a package that was drawn in is wanted: a kernel's other dependencies only matter
    /// to a system that boots by itself.
    pub(super) fn wants(self, package: &str) -> bool {
        match self {
            Self::Kernel => is_kernel(package),
            Self::Busybox => package == "busybox-static",
            Self::Node | Self::Runtime => !NOT_IN_IMAGES.contains(&package),
        }
    }
}

/// Packages only the package manager or a person at a login needs.
const NOT_IN_IMAGES: [&str; 6] =
    ["debconf", "perl-base", "dpkg", "tar", "nodejs-doc", "ca-certificates"];

/// `linux-image-6.1.0-…`, `linux-image-unsigned-6.8.0-…`, `linux-modules-6.8.0-…`: the real
/// packages, not the meta packages that point at them.
fn is_kernel(package: &str) -> bool {
    ["linux-image-unsigned-", "linux-image-", "linux-modules-"]
        .iter()
        .find_map(|prefix| package.strip_prefix(prefix))
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_gets_its_own_qemu() {
        let of = |arch| needs(arch, &[Purpose::Qemu, Purpose::Qemu]);
        assert_eq!(of(Arch::X86_64).len(), 1);
        assert_eq!(of(Arch::X86_64)[0].package, "qemu-system-x86");
        assert_eq!(of(Arch::Aarch64)[0].program, "qemu-system-aarch64");
    }

    #[test]
    fn npm_is_only_needed_when_asked_for() {
        let all = needs(Arch::X86_64, &Purpose::ALL);
        assert!(all.iter().all(|need| need.program != "npm"));
        assert_eq!(needs(Arch::X86_64, &[Purpose::OpenClaw])[0].program, "npm");
    }

    #[test]
    fn kernels_are_named_per_distribution_and_architecture() {
        let root = |distro, arch| PackageSet::Kernel.root(distro, arch);
        assert_eq!(root(Distro::Debian, Arch::X86_64), "linux-image-cloud-amd64");
        assert_eq!(root(Distro::Debian, Arch::Aarch64), "linux-image-cloud-arm64");
        assert_eq!(root(Distro::Ubuntu, Arch::Aarch64), "linux-image-virtual");
    }

    #[test]
    fn only_the_real_kernel_packages_are_wanted() {
        for yes in [
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.9+deb13-cloud-arm64",
            "linux-image-unsigned-6.8.0-31-generic",
            "linux-modules-6.8.0-31-generic",
        ] {
            assert!(PackageSet::Kernel.wants(yes), "{yes}");
        }
        for no in ["linux-image-cloud-amd64", "linux-base", "linux-image-virtual", "kmod"] {
            assert!(!PackageSet::Kernel.wants(no), "{no}");
        }
    }
}
