//! This host in detail: what it is (`mvm node info`) and what it does now (`mvm node stats`).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use mvm_host::facts::Facts;
use mvm_model::TenantName;
use mvm_model::resources::Usage;
use mvm_model::state::Status;
use mvm_model::vm::VmmKind;

pub use mvm_api::node::{
    Machine, Memory, NodeInfo, NodeStats, Program, Proof, TenantStats, Versions, Wakes,
};

use crate::audit::{Event, Outcome};
use crate::error::Result;
use crate::prove::Verdict;
use crate::service::Service;
use crate::stats::{cpu_ms, resident_bytes};

/// How long CPU use is watched: long enough for a few clock ticks, short enough to wait for.
const WATCH: Duration = Duration::from_millis(300);

/// A tenant's instances, as far as counting needs them.
#[derive(Default)]
struct Crowd {
    instances: BTreeMap<Status, usize>,
    pids: Vec<u32>,
    claim: crate::disk::Claim,
}

impl Crowd {
    fn cpu_ms(&self) -> u64 {
        self.pids.iter().filter_map(|pid| cpu_ms(*pid)).sum()
    }
}

impl Service {
    /// What this host is.
    ///
    /// # Errors
    /// When the node id cannot be kept.
    pub async fn node_info(&self) -> Result<NodeInfo> {
        let tenants = self.records.tenants().records;
        let (mut instances, mut kinds) = (BTreeMap::new(), Vec::new());
        for record in self.records.all_instances().records {
            let state = self.observe(&record).state;
            kinds.extend(state.vm().map(|vm| vm.vmm.kind));
            *instances.entry(state.status()).or_default() += 1;
        }
        Ok(NodeInfo {
            node_id: self.node_id()?,
            hostname: hostname(),
            machine: machine(),
            versions: versions(),
            vmm_programs: self.programs_of(&kinds).await,
            vmms: self.proofs_made(),
            given: together(tenants.iter().map(|tenant| self.usage(&tenant.tenant_id))),
            tenants: tenants.iter().filter(|tenant| !tenant.builtin).count(),
            instances,
            state_dir: self.dirs.state.clone(),
            cache_dir: self.dirs.cache.clone(),
        })
    }

    /// What was proven since this boot.
    pub fn proofs_made(&self) -> Vec<Proof> {
        self.known_verdicts().iter().map(proof).collect()
    }

    /// The programs VMs run in, `running` of which there are.
    pub(crate) async fn programs_of(&self, running: &[VmmKind]) -> Vec<Program> {
        let programs = self.installed_vmms(running).await.into_iter();
        programs.map(|(name, state)| Program { name, state }).collect()
    }

    /// What this host does now; takes a third of a second.
    pub async fn node_stats(&self) -> NodeStats {
        let names: Vec<_> =
            self.records.tenants().records.into_iter().map(|tenant| tenant.tenant_id).collect();
        let crowds: Vec<_> = names.iter().map(|name| self.crowd(name)).collect();
        let (host, before) = (cpu_times(), crowds.iter().map(Crowd::cpu_ms).collect::<Vec<_>>());
        tokio::time::sleep(WATCH).await;
        let busy = cpu_times().percent_since(host);
        let tenants: Vec<_> = names
            .into_iter()
            .zip(crowds)
            .zip(before)
            .map(|((name, crowd), before)| self.tenant_stats(name, crowd, before))
            .collect();
        let mut instances = BTreeMap::new();
        for (status, count) in tenants.iter().flat_map(|tenant| &tenant.instances) {
            *instances.entry(*status).or_default() += count;
        }
        NodeStats {
            cpus: Facts::read().cpus,
            cpu_percent: busy,
            load: load(&fs::read_to_string("/proc/loadavg").unwrap_or_default()),
            memory: memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            file_systems: self.file_systems(),
            instances,
            given: together(tenants.iter().map(|tenant| tenant.usage)),
            tenants,
            wakes: wakes(&self.events(None, usize::MAX).unwrap_or_default()),
        }
    }

    fn crowd(&self, name: &TenantName) -> Crowd {
        let records = self.records.tenant_instances(name).records;
        let mut crowd = Crowd { claim: self.claim(&records), ..Crowd::default() };
        for record in &records {
            let state = self.observe(record).state;
            crowd.pids.extend(state.vm().map(|vm| vm.process.pid));
            *crowd.instances.entry(state.status()).or_default() += 1;
        }
        crowd
    }

    fn tenant_stats(&self, tenant_id: TenantName, crowd: Crowd, before_ms: u64) -> TenantStats {
        let used = crowd.cpu_ms().saturating_sub(before_ms);
        TenantStats {
            usage: self.usage(&tenant_id),
            tenant_id,
            resident_bytes: crowd.pids.iter().filter_map(|pid| resident_bytes(*pid)).sum(),
            cpu_percent: rounded(used as f64 * 100.0 / WATCH.as_millis() as f64),
            disk_claim: crowd.claim,
            instances: crowd.instances,
        }
    }
}

/// What this host is made of.
pub(crate) fn machine() -> Machine {
    let Facts { arch, kernel, boot_id, cpu_class, cpus, mem_mib } = Facts::read();
    Machine { arch, kernel, boot_id, cpu_class, cpus, mem_mib }
}

fn proof(verdict: &Verdict) -> Proof {
    Proof {
        vmm: verdict.vmm,
        accel: verdict.accel,
        proven: verdict.is_proven(),
        found: verdict.to_string(),
    }
}

/// Versions of what acts here.
pub fn versions() -> Versions {
    Versions {
        mvm: env!("CARGO_PKG_VERSION").into(),
        guest_proto: mvm_guest_proto::VERSION,
        records: mvm_model::record::SCHEMA_VERSION,
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into())
}

fn together(usages: impl Iterator<Item = Usage>) -> Usage {
    usages.fold(Usage::default(), |sum, usage| Usage {
        vcpus: sum.vcpus + usage.vcpus,
        mem_mib: sum.mem_mib + usage.mem_mib,
        running: sum.running + usage.running,
        warm: sum.warm + usage.warm,
    })
}

/// Counted from what the audit log says of each.
fn wakes(events: &[Event]) -> Wakes {
    let mut wakes = Wakes::default();
    let woke = |event: &&Event| event.event == "instance.wake" && event.outcome == Outcome::Done;
    for event in events.iter().filter(woke) {
        let Some(reasons) = event.detail.strip_prefix("slow: ") else {
            wakes.fast += 1;
            continue;
        };
        wakes.slow += 1;
        for reason in reasons.split("; ") {
            *wakes.reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }
    wakes
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Clock ticks of all CPUs since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct CpuTimes {
    busy: u64,
    all: u64,
}

impl CpuTimes {
    fn percent_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let busy = self.busy.saturating_sub(before.busy);
        if all == 0 { 0.0 } else { rounded(busy as f64 * 100.0 / all as f64) }
    }
}

fn cpu_times() -> CpuTimes {
    parse_cpu_times(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; what
/// follows (guest) is in user already.
fn parse_cpu_times(stat: &str) -> CpuTimes {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    CpuTimes { busy: all - idle, all }
}

fn load(loadavg: &str) -> [f64; 3] {
    let mut fields = loadavg.split(' ').map(|field| field.parse().unwrap_or(0.0));
    [(); 3].map(|()| fields.next().unwrap_or(0.0))
}

fn memory(meminfo: &str) -> Memory {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    Memory {
        total_bytes: bytes("MemTotal"),
        available_bytes: bytes("MemAvailable"),
        swapped_bytes: bytes("SwapTotal").saturating_sub(bytes("SwapFree")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{instance, service};
    use mvm_model::state::State;

    #[test]
    fn the_kernels_tables_are_understood() {
        let times = parse_cpu_times("cpu  10 0 20 60 10 0 0 0 5 0\ncpu0 1 1 1 1\n");
        assert_eq!(times, CpuTimes { busy: 30, all: 100 });
        assert_eq!(times.percent_since(CpuTimes { busy: 20, all: 80 }), 50.0);
        assert_eq!(times.percent_since(times), 0.0);
        assert_eq!(load("0.50 1.25 2.00 1/300 42\n"), [0.5, 1.25, 2.0]);
        let told = memory("MemTotal: 8 kB\nMemAvailable:  4 kB\nSwapTotal: 2 kB\nSwapFree: 1 kB\n");
        assert_eq!(told, Memory { total_bytes: 8192, available_bytes: 4096, swapped_bytes: 1024 });
    }

    #[test]
    fn slow_wakes_are_counted_with_their_reasons() {
        let event = |event: &str, outcome, detail: &str| Event {
            seq: 1,
            at: 1,
            tenant: "acme".into(),
            object: "acme/workers/i-00000001".into(),
            event: event.into(),
            outcome,
            detail: detail.into(),
            by: "a test".into(),
            previous: String::new(),
        };
        let told = wakes(&[
            event("instance.wake", Outcome::Done, ""),
            event("instance.wake", Outcome::Done, "slow: secrets were written; an old image"),
            event("instance.wake", Outcome::Done, "slow: secrets were written"),
            event("instance.wake", Outcome::Failed, "slow: x"),
            event("instance.start", Outcome::Done, ""),
        ]);
        assert_eq!((told.fast, told.slow), (1, 2));
        assert_eq!(told.reasons["secrets were written"], 2);
        assert_eq!(told.reasons.len(), 2);
    }

    #[tokio::test]
    async fn instances_are_counted_by_status_and_tenant() {
        let (_dir, service) = service();
        instance(&service, State::Created);
        instance(&service, State::Stopped);
        let stats = service.node_stats().await;
        assert_eq!(stats.instances, [(Status::Created, 1), (Status::Stopped, 1)].into());
        assert_eq!(stats.tenants.len(), 1);
        assert_eq!(stats.tenants[0].disk_claim.data_bytes, 2 << 30);
        assert!(stats.memory.total_bytes > 0 && !stats.file_systems.is_empty());
        let info = service.node_info().await.unwrap();
        assert_eq!((info.tenants, info.instances.len()), (1, 2));
        let json = serde_json::to_value(&info).unwrap();
        assert!(json["arch"].is_string() && json["mem_mib"].is_u64());
    }
}
