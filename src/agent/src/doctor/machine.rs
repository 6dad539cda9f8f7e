//! The machine: what its kernel and its administrator give us.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use nix::sys::resource::{Resource, getrlimit};

use super::{Check, Health, when};

/// The capability to change networks, its number in the kernel's masks.
const CAP_NET_ADMIN: u32 = 12;
/// What an agent with some hundred guests and their clients may have open at once.
const FILES: u64 = 4096;
/// Before this, seconds since the epoch, no clock can be that runs this program: 2025.
const BEGINNING: u64 = 1_735_689_600;

pub(super) fn checks() -> Vec<Check> {
    vec![
        kvm_device(),
        capability(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        cgroup_v2(),
        nftables(),
        tun_device(),
        clock(SystemTime::now()),
        open_files(),
        swap(&fs::read_to_string("/proc/swaps").unwrap_or_default()),
    ]
}

fn kvm_device() -> Check {
    let found = match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok("/dev/kvm can be opened (whether it runs guests is proven by 'mvm bootstrap')"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err("/dev/kvm not found".to_owned())
        }
        Err(error) => Err(format!("/dev/kvm: {error}")),
    };
    let health = when(found.is_ok(), Health::Warning);
    let text = found.map_or_else(|text| text, str::to_owned);
    Check::new("kvm", health, text)
        .remedy("enable virtualisation in the firmware, or nested virtualisation in the outer hypervisor; mvm emulates meanwhile")
        .mandatory()
}

fn cgroup_v2() -> Check {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let lacks: Vec<_> = ["cpu", "io", "memory", "pids"]
        .into_iter()
        .filter(|name| !controllers.split_whitespace().any(|have| have == *name))
        .collect();
    let found = match lacks.is_empty() {
        true => format!("controllers: {}", controllers.trim()),
        false => format!("cgroup v2 lacks: {}", lacks.join(", ")),
    };
    Check::new("cgroup v2", when(lacks.is_empty(), Health::Warning), found)
        .remedy("boot with systemd.unified_cgroup_hierarchy=1; without it VMs run without limits")
        .mandatory()
}

fn nftables() -> Check {
    let found = mvm_host::packages::find_program("nft");
    let text = found
        .as_ref()
        .map_or_else(|| "nft is not installed".to_owned(), |path| path.display().to_string());
    Check::new("nftables", when(found.is_some(), Health::Bad), text)
        .remedy("mvm bootstrap")
        .mandatory()
}

fn tun_device() -> Check {
    let tun = Path::new("/dev/net/tun").exists();
    let text = if tun { "/dev/net/tun is there" } else { "/dev/net/tun is missing" };
    Check::new("base networking", when(tun, Health::Bad), text).remedy("modprobe tun").mandatory()
}

/// Root in a container, or under a service manager, may have lost it.
fn capability(status: &str) -> Check {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let have = mask & (1 << CAP_NET_ADMIN) != 0;
    let found = match have {
        true => "we may change bridges, taps and rules (CAP_NET_ADMIN)",
        false => "CAP_NET_ADMIN is missing: bridges, taps and rules cannot be made",
    };
    Check::new("capability", when(have, Health::Bad), found)
        .remedy("run as root; in a container or unit add the capability CAP_NET_ADMIN")
        .mandatory()
}

fn clock(now: SystemTime) -> Check {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let good = since >= BEGINNING;
    let found = if good { "is set" } else { "is years behind; guests get the same time" };
    Check::new("clock", when(good, Health::Bad), found).remedy("set the time, or start NTP")
}

fn open_files() -> Check {
    // What cannot be asked is not held against the host.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((FILES, FILES));
    let found = match hard >= FILES {
        true => "enough may be open".to_owned(),
        false => format!("at most {hard} may be open"),
    };
    Check::new("open files", when(hard >= FILES, Health::Warning), found).remedy(format!(
        "raise the limit to {FILES} or more: ulimit -n, or LimitNOFILE= of the unit"
    ))
}

/// An area on zram or a file on an encrypted disk cannot be told apart from others here.
fn swap(swaps: &str) -> Check {
    let areas: Vec<_> =
        swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let found = match areas.is_empty() {
        true => "none".to_owned(),
        false => format!("active on {}", areas.join(", ")),
    };
    Check::new("swap", when(areas.is_empty(), Health::Warning), found)
        .remedy("guests' memory can reach the disk: turn swap off, or encrypt it and waive it in host.json: \"waive\": [\"swap\"]")
        .mandatory()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_root_without_the_capability_is_found_out() {
        assert_eq!(capability("CapEff:\t000001ffffffffff\n").health, Health::Good);
        let lost = capability("CapEff:\t000001ffffffefff\n");
        assert_eq!(lost.health, Health::Bad);
        assert!(lost.remedy.unwrap().contains("CAP_NET_ADMIN"));
        assert_eq!(capability("").health, Health::Bad);
    }

    #[test]
    fn a_clock_that_was_never_set_is_found_out() {
        assert_eq!(
            clock(SystemTime::UNIX_EPOCH + Duration::from_secs(BEGINNING)).health,
            Health::Good
        );
        assert_eq!(clock(SystemTime::UNIX_EPOCH).health, Health::Bad);
    }

    #[test]
    fn swap_areas_are_named() {
        let header = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(swap(header).health, Health::Good);
        let used = swap(&format!("{header}/dev/sda2 partition 1 0 -2\n"));
        assert!(used.health == Health::Warning && used.found.contains("/dev/sda2"));
    }
}
