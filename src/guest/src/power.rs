//! Turning the machine off: processes asked, then ended; file systems made safe; the end.
//!
//! The machine is *restarted*, which its VMM, told not to, takes as the end on every VMM and
//! architecture; powering off needs firmware that small machines do not have.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::drives::Drive;
use crate::guest::Guest;
use crate::process;

/// Ends the machine without further ado. The kernel's buffers are written.
pub(crate) fn end_machine() -> ! {
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    // Not reached with the privileges of PID 1; ending PID 1 panics the kernel, which ends it.
    std::process::exit(1)
}

/// Ends everything in order, then the machine. Processes have `grace` between TERM and KILL.
pub(crate) fn power_off(guest: &Guest, grace: Duration) -> ! {
    guest.note("powering off");
    guest.workload.retire();
    let everyone = Pid::from_raw(-1);
    // As PID 1 this spares ourselves.
    let _ = kill(everyone, Signal::SIGTERM);
    // Stopped processes could not even take the TERM.
    let _ = kill(everyone, Signal::SIGCONT);
    wait_until_alone(guest, grace);
    let _ = kill(everyone, Signal::SIGKILL);
    wait_until_alone(guest, Duration::from_secs(2));
    for drive in [Drive::Secrets, Drive::Config, Drive::Data] {
        if drive.unmount().is_err() {
            make_safe(Path::new(drive.mount_point()));
        }
    }
    end_machine()
}

/// A file system that cannot be unmounted is at least clean.
fn make_safe(at: &Path) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    if mount(None::<&str>, at, None::<&str>, flags, None::<&str>).is_err() {
        let _ = umount2(at, MntFlags::MNT_DETACH);
    }
}

fn wait_until_alone(guest: &Guest, grace: Duration) {
    let deadline = Instant::now() + grace;
    let others = || process::all().any(|it| !it.is_kernel && !it.is_zombie && it.id != 1);
    while others() && Instant::now() < deadline {
        guest.reaper.reap();
        std::thread::sleep(Duration::from_millis(10));
    }
}
