//! Which control group a VM is in, and what it may use.
//!
//! ```text
//! systemd    mvm.slice / mvm-t<net id>.slice / mvm-vm-<instance>.service     limits: the unit's
//! cgroup v2  mvm / t<net id> / <jail>                                     limits: the jailer's
//! none       whoever started it                                                limits: none
//! ```
//!
//! A slice is named by number: in a tenant's name a dash would be a level of its own.

use mvm_model::{InstanceId, NetId};
use serde::{Deserialize, Serialize};

use crate::spec::VmSpec;

/// What a VM needs beyond its guest's memory: the VMM (some 10 MiB), its supervisor, page tables.
const OVERHEAD_MIB: u64 = 128;
/// Processes and threads beside vCPUs: VMM, API, supervisor and its readers.
const MORE_TASKS: u64 = 32;
/// CPU time beyond the vCPUs' for the VMM's own thread, percent.
const MORE_CPU: u64 = 25;

/// Where a VM is put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// In a unit of systemd's, whose limits it has. The supervisor is in it already.
    Unit(NetId),
    /// In a control group the jailer makes.
    Group(NetId),
    /// Where it is started: without limits.
    Unlimited,
}

/// What a VM may use of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory, bytes; nothing of it is ever swapped.
    pub memory: u64,
    /// CPU time, percent of one CPU.
    pub cpu_percent: u64,
    /// Its share where CPUs are short; 100 per vCPU.
    pub cpu_weight: u64,
    /// Threads and processes.
    pub tasks: u64,
}

impl Limits {
    /// The limits of a VM.
    pub fn of(spec: &VmSpec) -> Self {
        let vcpus = u64::from(spec.vcpus);
        Self {
            memory: (spec.mem_mib + OVERHEAD_MIB) << 20,
            cpu_percent: vcpus * 100 + MORE_CPU,
            cpu_weight: (vcpus * 100).min(10_000),
            tasks: vcpus + MORE_TASKS,
        }
    }

    /// CPU time as cgroup v2 has it: microseconds in each tenth of a second.
    pub(crate) fn cpu_max(self) -> String {
        format!("{} 100000", self.cpu_percent * 1000)
    }
}

/// The unit of an instance's VM.
pub fn unit_name(instance: InstanceId) -> String {
    format!("mvm-vm-{instance}.service")
}

/// The slice of a tenant's VMs.
pub fn slice_name(net: NetId) -> String {
    format!("mvm-t{net}.slice")
}

impl Placement {
    /// How the path of the control group ends that the VM must be in.
    pub(crate) fn group(&self, spec: &VmSpec, jail: &str) -> Option<String> {
        match self {
            Self::Unit(net) => Some(format!("/{}/{}", slice_name(*net), unit_name(spec.instance))),
            Self::Group(net) => Some(format!("/{}/{jail}", parent_group(*net))),
            Self::Unlimited => None,
        }
    }

    /// What the jailer is told.
    pub(crate) fn jailer_args(&self, spec: &VmSpec) -> Vec<String> {
        let Self::Group(net) = self else { return Vec::new() };
        let limits = Limits::of(spec);
        let mut args: Vec<String> =
            ["--cgroup-version", "2", "--parent-cgroup"].map(Into::into).into();
        args.push(parent_group(*net));
        for setting in [
            format!("memory.max={}", limits.memory),
            "memory.swap.max=0".into(),
            "memory.oom.group=1".into(),
            format!("cpu.max={}", limits.cpu_max()),
            format!("cpu.weight={}", limits.cpu_weight),
            format!("pids.max={}", limits.tasks),
        ] {
            args.extend(["--cgroup".into(), setting]);
        }
        args
    }

    /// The control group that stays when the VM is gone.
    pub(crate) fn leftover(&self, jail: &str) -> Option<std::path::PathBuf> {
        match self {
            Self::Group(net) => {
                Some(format!("/sys/fs/cgroup/{}/{jail}", parent_group(*net)).into())
            }
            _ => None,
        }
    }
}

fn parent_group(net: NetId) -> String {
    format!("mvm/t{net}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn limits_follow_the_resources() {
        let limits = Limits::of(&example());
        assert_eq!(limits.memory, (256 + OVERHEAD_MIB) << 20);
        assert_eq!((limits.cpu_percent, limits.cpu_weight, limits.tasks), (225, 200, 34));
    }

    #[test]
    fn systemd_and_the_jailer_never_both_set_limits() {
        let (spec, net) = (example(), NetId::new(7).unwrap());
        assert!(Placement::Unit(net).jailer_args(&spec).is_empty());
        assert!(Placement::Unlimited.jailer_args(&spec).is_empty());
        let args = Placement::Group(net).jailer_args(&spec).join(" ");
        assert!(args.starts_with("--cgroup-version 2 --parent-cgroup mvm/t7 --cgroup memory.max="));
    }

    #[test]
    fn a_vm_is_found_in_its_own_group() {
        let (spec, net) = (example(), NetId::new(7).unwrap());
        let unit = Placement::Unit(net).group(&spec, "j").unwrap();
        assert_eq!(unit, "/mvm-t7.slice/mvm-vm-i-0000beef.service");
        assert_eq!(Placement::Group(net).group(&spec, "j").unwrap(), "/mvm/t7/j");
    }
}
