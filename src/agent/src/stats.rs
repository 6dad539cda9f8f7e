//! What an instance uses: read from `/proc`, `/sys` and its files when asked.

use std::fs;
use std::time::Duration;

pub use mvm_api::instance::{Counters, Stats};
use mvm_host::file;
use mvm_host::snapshot::Snapshots;
use mvm_model::record::InstanceRecord;
use mvm_model::state::Status;

use crate::machine::Machine;
use crate::service::Service;

/// How long `stats` waits for a guest's answer.
const GUEST_PATIENCE: Duration = Duration::from_secs(2);

impl Service {
    /// An instance with what it uses now.
    pub async fn stats(&self, record: &InstanceRecord) -> Stats {
        let view = self.view(record);
        let dir = self.instance_dir(record);
        // What the host's side of a tap sends is what the guest receives.
        let counters = Counters {
            vcpus: record.resources.vcpus,
            mem_mib: record.resources.mem_mib,
            resident_bytes: view.pid.and_then(resident_bytes),
            cpu_ms: view.pid.and_then(cpu_ms),
            data_bytes: file::allocated_bytes(&dir.join("data.img")),
            snapshot_bytes: Snapshots::of(&dir).allocated_bytes(),
            rx_bytes: link_counter(&view.tap_dev, "tx_bytes"),
            tx_bytes: link_counter(&view.tap_dev, "rx_bytes"),
            wakes: record.wakes.count,
            slow_wakes: record.wakes.slow,
            slow_because: record.wakes.slow_because.clone(),
            vmm_waits: self.waiting_vmm(record).is_some(),
        };
        let guest_agent = match view.status {
            Status::Running => self.guest_word(record).await,
            status => format!("not asked ({status})"),
        };
        Stats { view, counters, guest_agent }
    }

    async fn guest_word(&self, record: &InstanceRecord) -> String {
        let machine = Machine::of(self, record);
        match tokio::time::timeout(GUEST_PATIENCE, machine.guest_status()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => format!("does not answer: {}", error.chain()),
            Err(_) => "does not answer".into(),
        }
    }
}

pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

pub(crate) fn cpu_ms(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold blanks and parentheses; fields count from after it.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some((ticks()? + ticks()?) * 1000 / u64::try_from(per_second).ok()?)
}

pub(crate) fn link_counter(link: &str, counter: &str) -> u64 {
    let text = fs::read_to_string(format!("/sys/class/net/{link}/statistics/{counter}"));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).unwrap() > 1 << 20);
        assert!(cpu_ms(pid).is_some());
        assert_eq!(link_counter("no-such-link", "rx_bytes"), 0);
    }
}
