//! What Firecracker is told before a guest boots: pure, so that every request is seen in a golden
//! test. Paths are the jail's own and the same for every VM, so that a snapshot's are right in
//! any other jail.

use serde::Serialize;

use super::api::Call;
use crate::spec::{Access, Drive, Net, VmSpec};

/// Where the jail shows the kernel.
pub(crate) const KERNEL: &str = "/kernel";
/// Where the jail shows the initrd.
pub(crate) const INITRD: &str = "/initrd";
/// Names of the drives, in the order the guest counts them.
pub(crate) const DRIVES: [&str; 4] = ["root", "data", "secrets", "config"];
/// The fifo the log goes to.
pub(crate) const LOG: &str = "/log.fifo";
/// The socket behind which the guest's vsock ports are.
pub(crate) const VSOCK: &str = "/run/v.sock";
/// The devices of a snapshot.
pub(crate) const SNAPSHOT_DEVICES: &str = "/snapshot/devices";
/// The memory of a snapshot.
pub(crate) const SNAPSHOT_MEMORY: &str = "/snapshot/memory";

/// The network interface's id.
const INTERFACE: &str = "eth0";
/// The guest's address on its vsock. Each VM has a socket of its own, so all may have the same.
const GUEST_CID: u32 = 3;
/// Refill interval of all limits, milliseconds.
const SECOND: u64 = 1000;
/// A drive's bytes per second, and what it may take at once beyond that.
const DRIVE_BYTES: (u64, u64) = (512 << 20, 1 << 30);
/// A drive's operations per second.
const DRIVE_OPS: (u64, u64) = (50_000, 100_000);
/// Bytes per second of a network interface, each way: what a gigabit carries, and a burst.
const NET_BYTES: (u64, u64) = (128 << 20, 256 << 20);
/// Packets per second, each way.
const NET_PACKETS: (u64, u64) = (100_000, 200_000);
/// Random bytes per second.
const ENTROPY_BYTES: (u64, u64) = (64 << 10, 64 << 10);

#[derive(Serialize)]
struct Bucket {
    size: u64,
    one_time_burst: u64,
    refill_time: u64,
}

impl From<(u64, u64)> for Bucket {
    fn from((size, one_time_burst): (u64, u64)) -> Self {
        Self { size, one_time_burst, refill_time: SECOND }
    }
}

#[derive(Serialize)]
struct Limiter {
    bandwidth: Bucket,
    #[serde(skip_serializing_if = "Option::is_none")]
    ops: Option<Bucket>,
}

impl Limiter {
    fn new(bandwidth: (u64, u64), ops: Option<(u64, u64)>) -> Self {
        Self { bandwidth: bandwidth.into(), ops: ops.map(Bucket::from) }
    }
}

#[derive(Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u64,
    smt: bool,
    track_dirty_pages: bool,
}

#[derive(Serialize)]
struct BootSource {
    kernel_image_path: &'static str,
    initrd_path: &'static str,
    boot_args: String,
}

#[derive(Serialize)]
struct DriveConfig {
    drive_id: &'static str,
    path_on_host: String,
    is_root_device: bool,
    is_read_only: bool,
    cache_type: &'static str,
    io_engine: &'static str,
    rate_limiter: Limiter,
}

#[derive(Serialize)]
struct NetConfig<'a> {
    iface_id: &'static str,
    host_dev_name: &'a str,
    guest_mac: String,
    rx_rate_limiter: Limiter,
    tx_rate_limiter: Limiter,
}

#[derive(Serialize)]
struct Vsock {
    guest_cid: u32,
    uds_path: &'static str,
}

#[derive(Serialize)]
struct Entropy {
    rate_limiter: Limiter,
}

#[derive(Serialize)]
struct Action {
    action_type: &'static str,
}

#[derive(Serialize)]
struct VmState {
    state: &'static str,
}

#[derive(Serialize)]
struct CreateSnapshot {
    snapshot_type: &'static str,
    snapshot_path: &'static str,
    mem_file_path: &'static str,
}

#[derive(Serialize)]
struct LoadSnapshot<'a> {
    snapshot_path: &'static str,
    mem_backend: MemoryBackend,
    resume_vm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_overrides: Option<[NetworkOverride<'a>; 1]>,
}

#[derive(Serialize)]
struct NetworkOverride<'a> {
    iface_id: &'static str,
    host_dev_name: &'a str,
}

#[derive(Serialize)]
struct MemoryBackend {
    backend_type: &'static str,
    backend_path: &'static str,
}

/// What each process is told when it starts. Where the log goes is not part of a snapshot; below
/// errors a guest fills it with every port it tries.
pub(crate) const FIRECRACKER_ARGS: [&str; 7] =
    ["--api-sock", "/run/api.sock", "--log-path", LOG, "--level", "Error", "--show-level"];

/// Everything that makes the machine, in order. Drives are named in the guest by their order.
pub(crate) fn machine(spec: &VmSpec) -> Vec<Call> {
    let machine = MachineConfig {
        vcpu_count: spec.vcpus,
        mem_size_mib: spec.mem_mib,
        smt: false,
        track_dirty_pages: false,
    };
    let boot = BootSource {
        kernel_image_path: KERNEL,
        initrd_path: INITRD,
        boot_args: kernel_command_line(&spec.cmdline),
    };
    let mut calls = vec![Call::put("/machine-config", &machine), Call::put("/boot-source", &boot)];
    calls.extend(DRIVES.iter().zip(&spec.drives).map(|(name, drive)| drive_call(name, drive)));
    calls.extend(spec.net.as_ref().map(net_call));
    calls.push(Call::put("/vsock", &Vsock { guest_cid: GUEST_CID, uds_path: VSOCK }));
    let entropy = Entropy { rate_limiter: Limiter::new(ENTROPY_BYTES, None) };
    calls.push(Call::put("/entropy", &entropy));
    calls
}

/// Lets the machine run for the first time.
pub(crate) fn start() -> Call {
    Call::put("/actions", &Action { action_type: "InstanceStart" })
}

/// Stops the vCPUs.
pub(crate) fn pause() -> Call {
    Call::patch("/vm", &VmState { state: "Paused" })
}

/// Lets the vCPUs run.
pub(crate) fn resume() -> Call {
    Call::patch("/vm", &VmState { state: "Resumed" })
}

/// Writes the paused VM to the jail's snapshot files.
pub(crate) fn create_snapshot() -> Call {
    let create = CreateSnapshot {
        snapshot_type: "Full",
        snapshot_path: SNAPSHOT_DEVICES,
        mem_file_path: SNAPSHOT_MEMORY,
    };
    Call::put("/snapshot/create", &create)
}

/// Loads the jail's snapshot files; nothing runs yet. The interface gets the tap it has here: the
/// snapshot has one with the name it was saved with. A VM that was saved without an interface is
/// refused one.
pub(crate) fn load_snapshot(tap: Option<&str>) -> Call {
    let load = LoadSnapshot {
        snapshot_path: SNAPSHOT_DEVICES,
        mem_backend: MemoryBackend { backend_type: "File", backend_path: SNAPSHOT_MEMORY },
        resume_vm: false,
        network_overrides: tap
            .map(|tap| [NetworkOverride { iface_id: INTERFACE, host_dev_name: tap }]),
    };
    Call::put("/snapshot/load", &load)
}

/// The reset through the keyboard's controller is what Firecracker takes for an orderly end. The
/// other three serial ports do not exist, and looking for them fills the log.
fn kernel_command_line(more: &str) -> String {
    let base = "console=ttyS0 quiet reboot=k panic=-1 init_on_free=1 8250.nr_uarts=1 i8042.noaux";
    format!("{base} {more}").trim_end().to_owned()
}

/// Where the jail shows a drive.
pub(crate) fn drive_path(name: &str) -> String {
    format!("/drives/{name}")
}

/// No drive is the root device: Firecracker would add a `root=` of its own to the command line.
/// `Writeback` passes a guest's flush on; the default takes it for done.
fn drive_call(name: &'static str, drive: &Drive) -> Call {
    let config = DriveConfig {
        drive_id: name,
        path_on_host: drive_path(name),
        is_root_device: false,
        is_read_only: drive.access == Access::ReadOnly,
        cache_type: match drive.access {
            Access::ReadOnly => "Unsafe",
            Access::ReadWrite => "Writeback",
        },
        io_engine: "Sync",
        rate_limiter: Limiter::new(DRIVE_BYTES, Some(DRIVE_OPS)),
    };
    Call::put(format!("/drives/{name}"), &config)
}

/// Firecracker cannot tell the guest its MTU; the guest's agent sets what its configuration says.
fn net_call(net: &Net) -> Call {
    let limiter = || Limiter::new(NET_BYTES, Some(NET_PACKETS));
    let config = NetConfig {
        iface_id: INTERFACE,
        host_dev_name: &net.tap,
        guest_mac: net.mac.to_string(),
        rx_rate_limiter: limiter(),
        tx_rate_limiter: limiter(),
    };
    Call::put(format!("/network-interfaces/{INTERFACE}"), &config)
}

#[cfg(test)]
mod tests;
