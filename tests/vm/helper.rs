//! Stands in for the `mvm` binary in the tests of crate `mvm-vmm`: `confine` is the trampoline,
//! `shim` supervises one VM, `take-over` one that lost its supervisor. The product's own subcommands are as thin.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;

use mvm_vmm::supervisor::{self, Failure};
use mvm_vmm::{Launch, Report, Trampoline, confine};
use nix::libc;
use nix::sched::{CloneFlags, unshare};

mod tun {
    #![allow(missing_docs)]
    nix::ioctl_write_int!(set_iff, b'T', 202);
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|word| word.to_str()) {
        Some("confine") => confine::main(),
        Some("shim") => shim(),
        Some("take-over") => take_over(args.next()),
        _ => ExitCode::from(2),
    }
}

/// Reads a [`Launch`] from stdin, reports on stdout, waits for the end.
fn shim() -> ExitCode {
    let Ok(launch) = serde_json::from_reader::<_, Launch>(std::io::stdin()) else {
        return ExitCode::from(2);
    };
    let tap = launch.spec.net.as_ref().map(|net| open_tap(&net.tap));
    match tap.transpose() {
        Ok(tap) => supervise(&launch, tap),
        Err(_) => ExitCode::from(3),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn supervise(launch: &Launch, tap: Option<OwnedFd>) -> ExitCode {
    let trampoline = Trampoline::this_program("confine");
    match supervisor::start(launch, tap, &trampoline).await {
        Err(error) => {
            let _ = Report::Failed(Failure::from(&error)).send(std::io::stdout());
            ExitCode::FAILURE
        }
        Ok(vm) => {
            let _ = Report::Started(vm.process().clone()).send(std::io::stdout());
            match vm.wait().await {
                Ok(_) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Supervises the VM of a run directory.
#[tokio::main(flavor = "current_thread")]
async fn take_over(run_dir: Option<std::ffi::OsString>) -> ExitCode {
    match supervisor::take_over(std::path::Path::new(&run_dir.unwrap_or_default())) {
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Ok(vm) => {
            let _ = Report::Started(vm.process().clone()).send(std::io::stdout());
            vm.wait().await.map_or(ExitCode::FAILURE, |_| ExitCode::SUCCESS)
        }
    }
}

/// A tap in a network namespace of this process alone.
fn open_tap(name: &str) -> std::io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let tun: File = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // A zeroed request: name first, flags behind it.
    let mut request = [0_u8; 40];
    request[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the kernel reads and writes one `struct ifreq` (40 bytes) at the pointer, which
    // lives across the call.
    unsafe { tun::set_iff(tun.as_raw_fd(), request.as_mut_ptr() as u64) }?;
    Ok(tun.into())
}
