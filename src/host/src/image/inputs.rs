//! Everything an image is made from, as one value: the key under which a build is found again.

use std::collections::BTreeMap;

use mvm_model::Digest;
use mvm_model::image::{Profile, Role};
use serde::Serialize;

use super::mkfs::Mkfs;
use super::npm::Npm;
use crate::packages::{Arch, PackageSet, Resolved};

/// Counts changes of this builder that change what it makes of the same inputs.
pub(super) const BUILDER_VERSION: u32 = 1;

/// The inputs of one image.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Inputs {
    builder: u32,
    arch: Arch,
    profile: Profile,
    role: Role,
    guest: Digest,
    guest_proto: u32,
    /// Package name to version and digest, by set.
    packages: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// What the manifest says of the npm packages, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    npm: Option<(String, String)>,
    /// Tools that may write the root, with their versions.
    mkfs: Vec<String>,
}

impl Inputs {
    /// The inputs without packages yet.
    pub(super) fn new(
        request: &super::Request,
        mkfs: &[Mkfs],
        packages: &[(PackageSet, Resolved)],
        npm: Option<Npm>,
    ) -> Self {
        let list = |resolved: &Resolved| {
            let one = |p: &crate::packages::Package| {
                (p.name.clone(), format!("{} sha256:{}", p.version, p.sha256))
            };
            resolved.packages.iter().map(one).collect::<BTreeMap<_, _>>()
        };
        Self {
            builder: BUILDER_VERSION,
            arch: request.arch,
            profile: request.profile,
            role: request.role.clone(),
            guest: request.guest.digest.clone(),
            guest_proto: request.guest_proto,
            packages: packages.iter().map(|(set, found)| (set.as_str(), list(found))).collect(),
            npm: npm.map(Npm::input),
            mkfs: mkfs.iter().map(|mkfs| mkfs.version().to_owned()).collect(),
        }
    }

    /// The key under which the result is found again.
    pub(super) fn key(&self) -> Digest {
        // Cannot fail: strings, numbers and maps with string keys.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// What the manifest says went in; `mkfs` is the tool that was used.
    pub(super) fn manifest(&self, mkfs: &Mkfs) -> BTreeMap<String, String> {
        let mut map = self.kernel_part();
        map.insert("guest".into(), self.guest.to_string());
        map.insert("mkfs".into(), mkfs.version().to_owned());
        map.extend(self.npm.clone());
        for (name, version) in self.packages.values().flatten() {
            map.insert(format!("package:{name}"), version.clone());
        }
        map
    }

    /// Those inputs that alone decide kernel and vmlinux.
    pub(super) fn kernel_part(&self) -> BTreeMap<String, String> {
        let kernel = self.packages.get(PackageSet::Kernel.as_str()).into_iter().flatten();
        let mut map: BTreeMap<String, String> =
            kernel.map(|(name, version)| (format!("package:{name}"), version.clone())).collect();
        map.insert("builder".into(), self.builder.to_string());
        map
    }
}
