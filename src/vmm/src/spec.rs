//! What one VM process is started with: a value the agent writes, the shim reads and the
//! supervisor carries out.
//!
//! Everything a tenant can influence is a number or a typed word here, so that nothing of it can
//! become an option of the VMM. Paths are opened by root before the VMM is confined.

use std::path::PathBuf;

use mvm_model::vm::{Accel, VmmKind};
use mvm_model::{InstanceId, Mac};
use serde::{Deserialize, Serialize};

/// The most drives a VM has: root, data, secrets, config.
pub const MAX_DRIVES: usize = 4;

/// The longest extra kernel command line, bytes: x86 kernels cut at 2048 and the base needs room.
pub const MAX_CMDLINE: usize = 1500;

/// What a VM process is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Whose VM it is; shown as the process's guest name.
    pub instance: InstanceId,
    /// The program.
    pub vmm: VmmKind,
    /// The accelerator.
    pub accel: Accel,
    /// Virtual CPUs, 1 to 32.
    pub vcpus: u32,
    /// Guest memory in MiB.
    pub mem_mib: u64,
    /// The kernel; must be readable by everyone, because the confined VMM reads it.
    pub kernel: PathBuf,
    /// The initrd; likewise.
    pub initrd: PathBuf,
    /// Kernel parameters after the VMM's own (console, clock, reboot).
    pub cmdline: String,
    /// Drives in the order the guest sees them: vda, vdb, vdc, vdd.
    pub drives: Vec<Drive>,
    /// The network interface, if any.
    pub net: Option<Net>,
    /// The uid of this VM alone.
    pub uid: u32,
    /// Its gid.
    pub gid: u32,
    /// Directory of sockets, logs and the exit record; exists, owned by root, mode 0700.
    pub run_dir: PathBuf,
}

/// One drive: a regular file or block device with a raw image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// The file.
    pub path: PathBuf,
    /// Whether the guest may write.
    pub access: Access,
}

/// What the guest may do with a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read only; the file may be shared by many VMs.
    ReadOnly,
    /// Read and write; the file is locked for this VM as long as its process lives.
    ReadWrite,
}

/// A network interface. The tap itself is opened by the caller and passed as a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Name of the tap in the host's namespace.
    pub tap: String,
    /// The guest's MAC.
    pub mac: Mac,
    /// The MTU the guest is told.
    pub mtu: u32,
}

/// How a VM process begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartMode {
    /// Boots its kernel at once.
    Boot,
    /// Waits for [`Vmm::restore`](crate::Vmm::restore), vCPUs stopped.
    Restore,
}

/// Why a spec was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSpec {
    /// A number outside its bounds.
    #[error("{what} is {given}, allowed are {min} to {max}")]
    Bounds {
        /// Which number.
        what: &'static str,
        /// Its value.
        given: u64,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// The VMM would run as root.
    #[error("a VM needs a uid and gid of its own, not 0")]
    Root,
    /// Control characters or non-ASCII text in the kernel command line.
    #[error("the kernel command line may hold printable ASCII only")]
    Cmdline,
}

impl VmSpec {
    /// Refuses what no VMM should be started with.
    ///
    /// # Errors
    /// The first thing wrong.
    pub fn check(&self) -> Result<(), BadSpec> {
        within("the vCPU count", self.vcpus.into(), 1, 32)?;
        within("the memory in MiB", self.mem_mib, 32, 1 << 20)?;
        within("the number of drives", self.drives.len() as u64, 0, MAX_DRIVES as u64)?;
        within("the command line's length", self.cmdline.len() as u64, 0, MAX_CMDLINE as u64)?;
        if let Some(net) = &self.net {
            within("the MTU", net.mtu.into(), 576, 65_535)?;
        }
        if !self.cmdline.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(BadSpec::Cmdline);
        }
        if self.uid == 0 || self.gid == 0 { Err(BadSpec::Root) } else { Ok(()) }
    }
}

fn within(what: &'static str, given: u64, min: u64, max: u64) -> Result<(), BadSpec> {
    if (min..=max).contains(&given) {
        Ok(())
    } else {
        Err(BadSpec::Bounds { what, given, min, max })
    }
}

#[cfg(test)]
pub(crate) fn example() -> VmSpec {
    use mvm_model::network::{NetId, Offset};
    let drive = |path: &str, access| Drive { path: path.into(), access };
    VmSpec {
        instance: InstanceId::from_bits(0xbeef),
        vmm: VmmKind::Qemu,
        accel: Accel::Tcg,
        vcpus: 2,
        mem_mib: 256,
        kernel: "/images/bzImage".into(),
        initrd: "/images/initrd".into(),
        cmdline: "rootfstype=erofs".into(),
        drives: vec![
            drive("/images/root", Access::ReadOnly),
            drive("/data", Access::ReadWrite),
            drive("/secrets", Access::ReadOnly),
            drive("/config", Access::ReadOnly),
        ],
        net: Some(Net {
            tap: "tn7i3".into(),
            mac: Mac::new(NetId::new(7).unwrap(), Offset(3)),
            mtu: 1450,
        }),
        uid: 1_900_000_007,
        gid: 1_900_000_007,
        run_dir: "/run/mvm/i-0000beef".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_spec_survives_json_and_the_check() {
        let spec = example();
        assert_eq!(spec.check(), Ok(()));
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<VmSpec>(&text).unwrap(), spec);
    }

    #[test]
    fn absurd_specs_are_refused() {
        let changes: [fn(&mut VmSpec); 8] = [
            |s| s.vcpus = 0,
            |s| s.vcpus = 33,
            |s| s.mem_mib = 0,
            |s| s.drives.extend(example().drives),
            |s| s.cmdline = "a\nb".into(),
            |s| s.cmdline = "x".repeat(MAX_CMDLINE + 1),
            |s| s.uid = 0,
            |s| s.gid = 0,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut spec = example();
            change(&mut spec);
            assert!(spec.check().is_err(), "change {number} was accepted");
        }
    }
}
