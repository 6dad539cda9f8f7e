//! A real Firecracker with a real guest, without the product: in its jail, as a unit. What
//! the product does must have this shape, so the shape is proven here first.

use std::time::Duration;

use crate::common::Outcome;
use crate::hostvm::HostVm;

/// Emulated twice, on a machine others use too.
const GUEST: Duration = Duration::from_secs(90);
/// Where jails are.
const JAILS: &str = "/srv/jailer";
/// Its user, from a range no account is in.
const UID: u32 = 1_900_001;

/// One transient unit per VM: the VMM is its main process, its limits are the unit's, and it is
/// in the tenant's slice, whatever other tenants' slices do.
pub fn a_jailed_vm_is_a_unit(host: &HostVm) -> Outcome {
    let id = "i-00000002";
    let (unit, root) = (format!("mvm-vm-{id}.service"), jail(host, id, "rootfstype=erofs"));
    let properties = [
        "Type=forking".into(),
        format!("PIDFile={root}/firecracker.pid"),
        "MemoryMax=256M".into(),
        "MemorySwapMax=0".into(),
        "OOMPolicy=kill".into(),
        "CPUQuota=150%".into(),
        "CPUWeight=50".into(),
        "TasksMax=16".into(),
        "NoNewPrivileges=yes".into(),
        // The VMM is the first process of its namespace: it never sees a SIGTERM.
        "KillSignal=SIGKILL".into(),
        format!("StandardOutput=file:/srv/{id}.out"),
    ]
    .map(|property| format!("-p '{property}'"))
    .join(" ");
    let jailer = jailer(id);
    host.sh(&format!("systemd-run --unit={unit} --slice=mvm-t7.slice {properties} {jailer}"));

    let pid = host.text(&format!("{root}/firecracker.pid"));
    let main = || host.sh(&format!("systemctl show {unit} -P MainPID"));
    assert_eq!(main(), pid);
    let group = format!("/mvm.slice/mvm-t7.slice/{unit}");
    assert_eq!(host.text(&format!("/proc/{pid}/cgroup")), format!("0::{group}"));
    for (file, limit) in [
        ("memory.max", "268435456"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("cpu.max", "150000 100000"),
        ("cpu.weight", "50"),
        ("pids.max", "16"),
    ] {
        assert_eq!(host.text(&format!("/sys/fs/cgroup{group}/{file}")), limit, "{file}");
    }
    host.eventually("the guest is up", GUEST, &format!("grep 'ready after' /srv/{id}.out"));
    let threads = host.sh(&format!("cat /proc/{pid}/task/*/status"));
    for (name, value) in [("Seccomp", "2"), ("NoNewPrivs", "1"), ("CapEff", "0000000000000000")] {
        let values: Vec<_> = threads.lines().filter_map(|line| named(line, name)).collect();
        assert!(values.len() >= 3 && values.iter().all(|it| *it == value), "{name}: {values:?}");
    }

    // Another tenant's end, one whose number begins alike, is not this one's.
    host.sh("systemd-run --unit=mvm-vm-i-00000003 --slice=mvm-t77.slice sleep 1000");
    host.sh("systemctl stop mvm-t77.slice");
    assert_eq!(main(), pid);
    host.sh(&format!("systemctl stop {unit}"));
    assert!(!host.can(&format!("test -e /proc/{pid} || test -e /sys/fs/cgroup{group}")));
    host.sh(&format!(
        "systemctl reset-failed {unit} 2>/dev/null || true; rm -r {JAILS}/firecracker/{id}"
    ));
    Outcome::Passed
}

/// A guest's configuration; its files are in `dir`.
fn vm(dir: &str, more: &str) -> String {
    // k: the reset through the keyboard's controller, which Firecracker takes for an orderly end.
    let arguments = format!("console=ttyS0 quiet reboot=k panic=-1 8250.nr_uarts=1 {more}");
    serde_json::json!({
        "boot-source": {
            "kernel_image_path": format!("{dir}/vmlinux"),
            "initrd_path": format!("{dir}/initrd"),
            "boot_args": arguments,
        },
        "drives": [{
            "drive_id": "root",
            "path_on_host": format!("{dir}/rootfs"),
            "is_root_device": false,
            "is_read_only": true,
        }],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 128 },
    })
    .to_string()
}

/// Makes a jail's root and returns where it is.
fn jail(host: &HostVm, id: &str, more: &str) -> String {
    let root = format!("{JAILS}/firecracker/{id}/root");
    host.sh(&format!(
        "mkdir -p {root} && cp -lL /opt/guest/vmlinux /opt/guest/initrd /opt/guest/rootfs {root}/"
    ));
    host.write(&format!("{root}/vm.json"), 0o444, vm("", more).as_bytes());
    root
}

fn jailer(id: &str) -> String {
    format!(
        "jailer --id {id} --exec-file /usr/local/bin/firecracker --uid {UID} --gid {UID} \
         --chroot-base-dir {JAILS} --new-pid-ns -- \
         --api-sock /run/api.sock --level Error --config-file /vm.json"
    )
}

/// A field's value, in a line of `/proc/<pid>/status`.
fn named<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix(name)?.strip_prefix(':').map(str::trim)
}
