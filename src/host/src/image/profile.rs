//! What a profile adds to the base: its packages, and which of their files.

use mvm_model::image::Profile;

use crate::packages::PackageSet;

/// The package sets an image of `profile` is made from.
pub(super) fn package_sets(profile: Profile) -> &'static [PackageSet] {
    match profile {
        Profile::Minimal | Profile::Hello => &[PackageSet::Kernel, PackageSet::Busybox],
        Profile::Node => &[PackageSet::Kernel, PackageSet::Busybox, PackageSet::Node],
        Profile::OpenClaw => &[PackageSet::Kernel, PackageSet::Busybox, PackageSet::Runtime],
    }
}

/// That of its sets whose files go into the root as they are.
pub(super) fn files_of(profile: Profile) -> Option<PackageSet> {
    match profile {
        Profile::Minimal | Profile::Hello => None,
        Profile::Node => Some(PackageSet::Node),
        Profile::OpenClaw => Some(PackageSet::Runtime),
    }
}

/// Where a file of a runtime package goes in the image; `None` leaves it out.
///
/// Programs and libraries are kept; documentation, headers, configuration and what only other
/// tools use are not. Everything lands below `usr/`, where `bin`, `lib` … of the root point.
pub(super) fn place(path: &str) -> Option<String> {
    let path = merged(path);
    let keep = KEEP.iter().any(|prefix| path.starts_with(prefix));
    let drop = DROP.iter().any(|part| path.contains(part));
    (keep && !drop).then_some(path)
}

const KEEP: [&str; 4] = ["usr/bin/", "usr/lib/", "usr/lib64/", "usr/share/nodejs/"];
const DROP: [&str; 6] =
    ["/gconv/", "/audit/", "/valgrind/", "/debug/", "/share/nodejs/acorn/dist/bin", ".d.ts"];

/// `lib/x` → `usr/lib/x`: packages older than the merge of the two still use both.
fn merged(path: &str) -> String {
    let path = path.trim_start_matches("./");
    let old = ["bin/", "sbin/", "lib/", "lib64/"].iter().any(|top| path.starts_with(top));
    if old { format!("usr/{path}") } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_kept_below_usr_and_documentation_is_not() {
        let kept = |path| place(path);
        assert_eq!(
            kept("lib/x86_64-linux-gnu/libc.so.6").unwrap(),
            "usr/lib/x86_64-linux-gnu/libc.so.6"
        );
        assert_eq!(kept("lib64/ld-linux-x86-64.so.2").unwrap(), "usr/lib64/ld-linux-x86-64.so.2");
        assert_eq!(kept("usr/bin/node").unwrap(), "usr/bin/node");
        for dropped in [
            "usr/share/doc/nodejs/copyright",
            "usr/include/node.h",
            "etc/ld.so.conf.d/x.conf",
            "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so",
        ] {
            assert_eq!(kept(dropped), None, "{dropped}");
        }
    }
}
