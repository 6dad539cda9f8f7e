//! QEMU's command line for a spec: pure, so that every option is seen in a golden test.
//!
//! Nothing is opened by name but the kernel and the initrd, which the confinement shows at
//! constant paths. Drives, tap, sockets and the console are descriptors at the numbers [`Fds`]
//! lays out. Accepted by QEMU 7.2 (Debian 12), 8.2 (Ubuntu 24.04) and 10.0 (Debian 13).
//!
//! Device order: the guest must see vda, vdb, vdc, vdd in spec order. `microvm` describes its
//! virtio-mmio slots in ACPI from the highest down, `virt` in its device tree from the lowest up.
//! Slot 0 of `microvm` is not used: with a second I/O APIC its interrupt does not arrive.

use mvm_model::vm::Accel;

use crate::spec::{Access, Net, StartMode, VmSpec};

/// Where the confinement shows the kernel.
pub(crate) const KERNEL: &str = "/kernel";
/// Where the confinement shows the initrd.
pub(crate) const INITRD: &str = "/initrd";

/// Name of the guest agent's virtio-serial port.
const AGENT_PORT: &str = "mvm.agent";
/// Bounds the translated code TCG keeps, MiB; the default grows to 1 GiB per VM.
const TCG_BUFFER_MIB: u32 = 256;

/// The architecture QEMU emulates; always the host's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// `qemu-system-x86_64`, machine `microvm`.
    #[serde(rename = "x86_64")]
    X86_64,
    /// `qemu-system-aarch64`, machine `virt`.
    Aarch64,
}

impl Arch {
    /// This program's own architecture.
    #[cfg(target_arch = "x86_64")]
    pub const HOST: Self = Self::X86_64;
    /// This program's own architecture.
    #[cfg(target_arch = "aarch64")]
    pub const HOST: Self = Self::Aarch64;

    /// The name kernels and packages use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The machine type, as recorded in a snapshot's manifest. Unversioned: a snapshot is bound
    /// to the QEMU build, which fixes what the name means.
    pub const fn machine(self) -> &'static str {
        match self {
            Self::X86_64 => "microvm",
            Self::Aarch64 => "virt",
        }
    }

    fn machine_options(self) -> &'static str {
        match self {
            Self::X86_64 => {
                "microvm,acpi=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off,pcie=off,usb=off"
            }
            Self::Aarch64 => "virt,gic-version=max,acpi=off",
        }
    }

    /// The emulator moves one byte a round in `rep movsb`, which a CPU with these two asks guests
    /// to prefer: without them the guest's kernel zeroes pages four times as fast.
    fn cpu(self, accel: Accel) -> &'static str {
        match (self, accel) {
            (Self::X86_64, Accel::Tcg) => "max,erms=off,fsrm=off",
            (Self::X86_64, Accel::Kvm) | (Self::Aarch64, _) => "max",
        }
    }

    fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }

    /// The slot of the n-th device, so that the guest counts devices from 0 in our order.
    fn slot(self, device: usize) -> usize {
        match self {
            Self::X86_64 => 7 - device,
            Self::Aarch64 => device,
        }
    }
}

/// Numbers of the descriptors QEMU inherits; 0 to 2 are null, log, log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fds {
    drives: u32,
    tap: bool,
}

impl Fds {
    /// Write end of the serial console's pipe.
    pub(crate) const CONSOLE: u32 = 3;
    /// Listening socket of the monitor.
    pub(crate) const QMP: u32 = 4;
    /// Listening socket of the guest agent's port.
    pub(crate) const AGENT: u32 = 5;

    /// The layout for a spec.
    pub(crate) fn of(spec: &VmSpec) -> Self {
        Self { drives: spec.drives.len() as u32, tap: spec.net.is_some() }
    }

    /// The n-th drive.
    pub(crate) fn drive(self, index: usize) -> u32 {
        6 + index as u32
    }

    /// The tap.
    pub(crate) fn tap(self) -> u32 {
        6 + self.drives
    }

    /// One past the last.
    pub(crate) fn end(self) -> u32 {
        6 + self.drives + u32::from(self.tap)
    }
}

/// How fast the guest's time stamp counter runs, kHz, where the guest cannot find out itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TscKhz(pub(crate) u64);

/// The whole command line after `argv[0]`.
pub(crate) fn command_line(
    spec: &VmSpec,
    mode: StartMode,
    arch: Arch,
    tsc: Option<TscKhz>,
) -> Vec<String> {
    let mut line = Line::default();
    line.machine(spec, arch);
    line.option("-append", kernel_command_line(spec, arch, tsc));
    let mut slots = (0..).map(|device| format!("virtio-mmio-bus.{}", arch.slot(device)));
    let mut bus = || slots.next().unwrap_or_default();
    let fds = Fds::of(spec);
    for (index, drive) in spec.drives.iter().enumerate() {
        line.drive(index, drive.access, fds.drive(index), &bus());
    }
    if let Some(net) = &spec.net {
        line.net(net, fds.tap(), &bus());
    }
    line.channels(&bus(), &bus());
    if mode == StartMode::Restore {
        line.flag("-S");
        line.option("-incoming", "defer");
    }
    line.0
}

/// Console, clock and power-off first, then what the caller adds.
fn kernel_command_line(spec: &VmSpec, arch: Arch, tsc: Option<TscKhz>) -> String {
    let mut words = vec![
        format!("console={}", arch.console()),
        "quiet".into(),
        "panic=-1".into(),
        "init_on_free=1".into(),
    ];
    if arch == Arch::X86_64 {
        words.push("reboot=t".into());
    }
    if let Some(TscKhz(khz)) = tsc {
        // Under TCG on a busy host the guest's own calibration fails now and then, and a kernel
        // without a clock hangs.
        words.extend(["tsc=reliable".into(), format!("tsc_early_khz={khz}")]);
    }
    if !spec.cmdline.is_empty() {
        words.push(spec.cmdline.clone());
    }
    words.join(" ")
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.to_owned());
    }

    fn option(&mut self, flag: &str, value: impl Into<String>) {
        self.flag(flag);
        self.0.push(value.into());
    }

    fn machine(&mut self, spec: &VmSpec, arch: Arch) {
        self.option("-name", format!("guest={}", spec.instance));
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            self.flag(flag);
        }
        self.option("-display", "none");
        self.option(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        // Guest memory stays out of core files and is never merged with another tenant's.
        let hygiene = "dump-guest-core=off,mem-merge=off";
        self.option("-machine", format!("{},{hygiene}", arch.machine_options()));
        self.option(
            "-accel",
            match spec.accel {
                Accel::Kvm => "kvm".to_owned(),
                Accel::Tcg => format!("tcg,tb-size={TCG_BUFFER_MIB}"),
            },
        );
        self.option("-cpu", arch.cpu(spec.accel));
        self.option("-smp", spec.vcpus.to_string());
        self.option("-m", format!("{}M", spec.mem_mib));
        self.option("-kernel", KERNEL);
        self.option("-initrd", INITRD);
        self.option("-global", "virtio-mmio.force-legacy=false");
    }

    /// Host page cache with flushes honoured: a guest's fsync reaches the disk.
    fn drive(&mut self, index: usize, access: Access, fd: u32, bus: &str) {
        let name = format!("drive{index}");
        let set = index + 1;
        self.option("-add-fd", format!("fd={fd},set={set}"));
        let mode = match access {
            Access::ReadOnly => "read-only=on",
            Access::ReadWrite => "read-only=off,discard=unmap",
        };
        self.option(
            "-blockdev",
            format!(
                "driver=raw,node-name={name},{mode},cache.direct=off,cache.no-flush=off,\
                 file.driver=file,file.filename=/dev/fdset/{set},file.aio=threads,\
                 file.locking=off"
            ),
        );
        self.option(
            "-device",
            format!(
                "virtio-blk-device,bus={bus},drive={name},write-cache=on,\
                 rerror=report,werror=report"
            ),
        );
    }

    fn net(&mut self, net: &Net, fd: u32, bus: &str) {
        self.option("-netdev", format!("tap,id=net0,fd={fd},vhost=off"));
        self.option(
            "-device",
            format!("virtio-net-device,bus={bus},netdev=net0,mac={},host_mtu={}", net.mac, net.mtu),
        );
    }

    /// Console, monitor, guest agent and entropy.
    fn channels(&mut self, serial_bus: &str, rng_bus: &str) {
        self.option("-add-fd", format!("fd={},set=9", Fds::CONSOLE));
        self.option("-chardev", "file,id=console,path=/dev/fdset/9,append=on");
        self.option("-serial", "chardev:console");
        let socket = |id, fd| format!("socket,id={id},fd={fd},server=on,wait=off");
        self.option("-chardev", socket("qmp", Fds::QMP));
        self.option("-mon", "chardev=qmp,mode=control");
        self.option("-chardev", socket("agent", Fds::AGENT));
        self.option("-device", format!("virtio-serial-device,bus={serial_bus},max_ports=2"));
        self.option("-device", format!("virtserialport,chardev=agent,name={AGENT_PORT}"));
        self.option("-object", "rng-builtin,id=rng0");
        self.option("-device", format!("virtio-rng-device,bus={rng_bus},rng=rng0"));
    }
}

#[cfg(test)]
mod tests;
