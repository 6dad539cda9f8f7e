//! What a Firecracker that the product started may do: nothing but run its guest.

use crate::common::Outcome;
use crate::hostvm::HostVm;
use crate::instance::{MEMORY, pid};

/// Read back from /proc, on every thread: who it is, what it may do, where its root is.
pub fn every_thread_of_the_vmm_is_confined(host: &HostVm) -> Outcome {
    let pid = pid(host);
    let uid = host.sh(&format!("stat -c %u /proc/{pid}"));
    assert!(uid.parse::<u32>().expect("a uid") > 1_000_000, "{uid}");
    let threads = host.sh(&format!("cat /proc/{pid}/task/*/status"));
    let four = [uid.as_str(); 4].join("\t");
    let none = "0000000000000000";
    for (name, wanted) in [
        ("Uid", four.as_str()),
        ("Gid", &four),
        ("CapEff", none),
        ("CapPrm", none),
        ("CapInh", none),
        ("CapAmb", none),
        // What the jailer needs; of no use without new privileges.
        ("CapBnd", "00000000082400c3"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let named =
            |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        let values: Vec<_> = threads.lines().filter_map(named).collect();
        assert!(values.len() >= 3 && values.iter().all(|it| it == wanted), "{name}: {values:?}");
    }
    let arguments = host.sh(&format!("tr '\\0' ' ' </proc/{pid}/cmdline"));
    for word in ["seccomp", "pci", "mmds"] {
        assert!(!arguments.contains(word), "{arguments}");
    }
    // Its root is its jail, and there is no process and no mount of others in it.
    let jail = host.sh("echo /var/lib/mvm/jails/firecracker/*/root");
    assert_eq!(host.sh(&format!("cd /proc/{pid}/root && ls")), host.sh(&format!("ls {jail}")));
    assert!(!host.can(&format!("test -e /proc/{pid}/root/proc/self")));
    let mounts = host.text(&format!("/proc/{pid}/mountinfo"));
    let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(points, ["/", "/drives/secrets"], "{mounts}");
    assert!(host.sh(&format!("grep NSpid /proc/{pid}/status")).ends_with("\t1"));
    let limit = |name: &str| {
        let line = host.sh(&format!("grep 'Max {name}' /proc/{pid}/limits"));
        line.split_whitespace().rev().nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!((limit("core file size"), limit("open files")), ("0".into(), "2048".into()));
    assert_eq!(limit("file size"), ((MEMORY + 64) << 20).to_string());
    assert_eq!(host.text(&format!("/proc/{pid}/coredump_filter")), "00000000");
    only_its_own_is_in_the_jail(host, &jail, &uid);
    // It may make, rename and remove nothing there.
    let dirs = host.sh(&format!("cd {jail} && stat -c '%u %a' . dev dev/net run | sort -u"));
    assert_eq!(dirs, "0 750");
    // No other user gets to its sockets.
    let relay = host.sh("echo /run/mvm/vm/*/guest.sock");
    for socket in [format!("{jail}/run/api.sock"), format!("{jail}/run/v.sock"), relay] {
        assert!(host.can(&format!("test -S {socket}")), "{socket}");
        let other = format!("setpriv --reuid 65534 --clear-groups test -e {socket}");
        assert!(!host.can(&other), "{socket}");
    }
    Outcome::Passed
}

/// Nothing runs there with another's rights, nothing is anybody's but root's and the VM's, and the
/// one file it writes is nobody else's.
fn only_its_own_is_in_the_jail(host: &HostVm, jail: &str, uid: &str) {
    let all = host.sh(&format!("cd {jail} && find . ! -type d -printf '%P\\n' | sort"));
    let known = [
        "dev/kvm",
        "dev/net/tun",
        "dev/urandom",
        "dev/userfaultfd",
        "drives/config",
        "drives/data",
        "drives/root",
        "drives/secrets",
        "firecracker",
        "firecracker.pid",
        "initrd",
        "kernel",
        "log.fifo",
        "run/api.sock",
        "run/v.sock",
        // Those it was loaded from.
        "snapshot/devices",
        "snapshot/memory",
    ];
    let strange: Vec<_> = all.lines().filter(|name| !known.contains(name)).collect();
    assert!(strange.is_empty(), "{strange:?}");
    assert_eq!(host.sh(&format!("find {jail} -perm /6000 -o ! -uid 0 ! -uid {uid}")), "");
    assert_eq!(host.sh(&format!("stat -c %h {jail}/drives/data")), "2");
}
