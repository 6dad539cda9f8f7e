//! Quantities an instance is given, and their bounds.

use serde::{Deserialize, Serialize};

/// Why resources were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given} is outside {min} to {max}{unit}")]
pub struct BadResources {
    what: &'static str,
    given: u64,
    min: u64,
    max: u64,
    unit: &'static str,
}

fn within(
    what: &'static str,
    given: u64,
    min: u64,
    max: u64,
    unit: &'static str,
) -> Result<(), BadResources> {
    if (min..=max).contains(&given) {
        Ok(())
    } else {
        Err(BadResources { what, given, min, max, unit })
    }
}

/// What one instance is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Virtual CPUs, 1 to 32 (Firecracker's limit).
    pub vcpus: u32,
    /// Memory in MiB, 128 (a distribution's kernel does not boot in less) to 1 TiB; all of it can
    /// be used by the guest.
    pub mem_mib: u64,
    /// Size of the data drive in MiB; 0 means a placeholder that holds nothing.
    pub data_disk_mib: u64,
}

impl Resources {
    /// Refuses zero and absurd values.
    ///
    /// # Errors
    /// [`BadResources`] naming the value and its bounds.
    pub fn check(self) -> Result<Self, BadResources> {
        within("vCPU count", self.vcpus.into(), 1, 32, "")?;
        within("memory", self.mem_mib, 128, 1 << 20, " MiB")?;
        if self.data_disk_mib != 0 {
            within("data disk", self.data_disk_mib, 8, 16 << 20, " MiB")?;
        }
        Ok(self)
    }
}

/// What a tenant may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// vCPUs of all running and warm instances.
    pub max_vcpus: u32,
    /// Memory of all running and warm instances, MiB.
    pub max_mem_mib: u64,
    /// Running instances.
    pub max_running: u32,
    /// Warm instances.
    pub max_warm: u32,
    /// Pools.
    pub max_pools: u32,
    /// Instances in one pool, whatever their status.
    pub max_instances_per_pool: u32,
    /// Data drives and snapshots together, GiB.
    pub max_disk_gib: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            max_vcpus: 16,
            max_mem_mib: 32 * 1024,
            max_running: 8,
            max_warm: 4,
            max_pools: 10,
            max_instances_per_pool: 32,
            max_disk_gib: 100,
        }
    }
}

/// What of a tenant's quotas is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// vCPUs of running and warm instances.
    pub vcpus: u32,
    /// Memory of running and warm instances, MiB.
    pub mem_mib: u64,
    /// Running instances.
    pub running: u32,
    /// Warm instances.
    pub warm: u32,
}

/// A quota a step would exceed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{quota} of {} would be exceeded ({used}{} in use, {wanted}{} more wanted)",
    self.limit_told(), self.unit(), self.unit()
)]
pub struct OverQuota {
    /// The quota's field name.
    pub quota: &'static str,
    /// Its limit.
    pub limit: u64,
    /// What is in use.
    pub used: u64,
    /// What the step adds.
    pub wanted: u64,
}

impl OverQuota {
    /// The unit of its numbers, after a space; nothing for what is counted.
    pub fn unit(&self) -> &'static str {
        match self.quota {
            "max_mem_mib" => " MiB",
            "max_disk_gib" => " GiB",
            "max_vcpus" => " vCPUs",
            _ => "",
        }
    }

    /// The limit with its unit.
    pub fn limit_told(&self) -> String {
        format!("{}{}", self.limit, self.unit())
    }

    /// What raises it: an option of `mvm tenant update`.
    pub fn flag(&self) -> String {
        let name = self.quota.trim_end_matches("_mib").trim_end_matches("_gib");
        format!("--{}", name.replace('_', "-"))
    }
}

impl Usage {
    /// Counts an instance that holds CPU and memory.
    pub fn add_running(&mut self, resources: Resources) {
        self.running += 1;
        self.hold(resources);
    }

    /// Counts a paused instance: it still holds its memory.
    pub fn add_warm(&mut self, resources: Resources) {
        self.warm += 1;
        self.hold(resources);
    }

    fn hold(&mut self, resources: Resources) {
        self.vcpus += resources.vcpus;
        self.mem_mib += resources.mem_mib;
    }

    /// Whether one more running instance fits.
    ///
    /// # Errors
    /// The first quota it would exceed.
    pub fn admit_running(&self, quotas: &Quotas, resources: Resources) -> Result<(), OverQuota> {
        let fits = |quota, limit: u64, used: u64, wanted: u64| {
            if used + wanted <= limit {
                Ok(())
            } else {
                Err(OverQuota { quota, limit, used, wanted })
            }
        };
        fits("max_running", quotas.max_running.into(), self.running.into(), 1)?;
        fits("max_vcpus", quotas.max_vcpus.into(), self.vcpus.into(), resources.vcpus.into())?;
        fits("max_mem_mib", quotas.max_mem_mib, self.mem_mib, resources.mem_mib)
    }

    /// Whether a warm instance may run again; its CPU and memory are counted already.
    ///
    /// # Errors
    /// `max_running` when it is used up.
    pub fn admit_resume(&self, quotas: &Quotas) -> Result<(), OverQuota> {
        let (limit, used) = (u64::from(quotas.max_running), u64::from(self.running));
        if used < limit {
            Ok(())
        } else {
            Err(OverQuota { quota: "max_running", limit, used, wanted: 1 })
        }
    }

    /// Whether one more warm instance fits; its CPU and memory are counted already.
    ///
    /// # Errors
    /// `max_warm` when it is used up.
    pub fn admit_warm(&self, quotas: &Quotas) -> Result<(), OverQuota> {
        let (limit, used) = (u64::from(quotas.max_warm), u64::from(self.warm));
        if used < limit {
            Ok(())
        } else {
            Err(OverQuota { quota: "max_warm", limit, used, wanted: 1 })
        }
    }
}

/// What instances claim of a tenant's disk quota, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Claim {
    /// Data drives at full size, also those that no start has made yet.
    pub data_bytes: u64,
    /// Snapshots that are on disk, the ones on their way out included.
    pub snapshot_bytes: u64,
}

impl Claim {
    /// Both together.
    pub fn total(self) -> u64 {
        self.data_bytes.saturating_add(self.snapshot_bytes)
    }

    /// What two claims come to.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            data_bytes: self.data_bytes.saturating_add(other.data_bytes),
            snapshot_bytes: self.snapshot_bytes.saturating_add(other.snapshot_bytes),
        }
    }

    /// Whether `more_mib` more fit into a quota.
    ///
    /// # Errors
    /// `max_disk_gib` when they do not.
    pub fn admit(self, quotas: &Quotas, more_mib: u64) -> Result<(), OverQuota> {
        let more = more_mib.saturating_mul(1 << 20);
        let limit = quotas.max_disk_gib.saturating_mul(1 << 30);
        if more == 0 || self.total().saturating_add(more) <= limit {
            return Ok(());
        }
        let gib = |bytes: u64| bytes.div_ceil(1 << 30);
        let (used, wanted) = (gib(self.total()), gib(more));
        Err(OverQuota { quota: "max_disk_gib", limit: quotas.max_disk_gib, used, wanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Resources = Resources { vcpus: 2, mem_mib: 1024, data_disk_mib: 0 };

    #[test]
    fn zero_and_absurd_resources_are_refused() {
        for bad in [
            Resources { vcpus: 0, ..SMALL },
            Resources { vcpus: 1000, ..SMALL },
            Resources { mem_mib: 0, ..SMALL },
            Resources { mem_mib: u64::MAX, ..SMALL },
            Resources { data_disk_mib: 1, ..SMALL },
            Resources { data_disk_mib: u64::MAX, ..SMALL },
        ] {
            assert!(bad.check().is_err(), "{bad:?} was accepted");
        }
        assert!(SMALL.check().is_ok());
    }

    #[test]
    fn a_quota_is_named_when_it_would_be_exceeded() {
        let quotas = Quotas { max_vcpus: 4, ..Quotas::default() };
        let mut usage = Usage::default();
        usage.add_running(SMALL);
        assert_eq!(usage.admit_running(&quotas, SMALL), Ok(()));
        usage.add_warm(SMALL);
        let over = usage.admit_running(&quotas, SMALL).unwrap_err();
        let told = "max_vcpus of 4 vCPUs would be exceeded (4 vCPUs in use, 2 vCPUs more wanted)";
        assert_eq!(over.to_string(), told);
    }

    #[test]
    fn each_quota_names_the_option_that_raises_it() {
        let over = |quota| OverQuota { quota, limit: 1, used: 1, wanted: 1 }.flag();
        assert_eq!(over("max_running"), "--max-running");
        assert_eq!(over("max_mem_mib"), "--max-mem");
        assert_eq!(over("max_disk_gib"), "--max-disk");
        assert_eq!(over("max_instances_per_pool"), "--max-instances-per-pool");
    }
}
