//! `mvm-fake-firecracker`: Firecracker's API and rules without a guest's processor, for tests of
//! many VMs and of what goes wrong. Never installed, and what was tried with it is not tested.
//!
//! Built static (`--target <arch>-unknown-linux-musl`) it is put into a real jail by the real
//! jailer, like the program it stands for: `MVM_FIRECRACKER=…/mvm-fake-firecracker` with the file
//! named `firecracker`. It opens its drives and its tap, filters its system calls, writes both
//! files of a snapshot in Firecracker's order and ends when it cannot load one.
//!
//! ```text
//! api.rs      HTTP on the socket: one request after another, limits of size
//! machine.rs  what the requests do: phases, drives, tap, snapshot
//! kernel.rs   its tap and the filter of its system calls
//! guest.rs    who answers behind the vsock's socket: a mvm-guest with one word of memory
//! drive.rs    what the guest keeps on its drives
//! faults.rs   what goes wrong, asked before each request of `@mvm-fake` where somebody listens
//! witness.rs  what the same listener is told whenever a guest begins to execute
//! ```

mod api;
mod drive;
mod faults;
mod guest;
mod kernel;
mod machine;
mod witness;

use std::process::ExitCode;
use std::sync::Arc;

use machine::Machine;

/// The version it stands for.
const VERSION: &str = "1.15.1";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--version") {
        println!("Firecracker v{VERSION}\n\nThis is a fake: it runs no guest.");
        return ExitCode::SUCCESS;
    }
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let socket = value("--api-sock").unwrap_or_else(|| "/run/firecracker.socket".into());
    let machine = Arc::new(Machine::new(value("--id").unwrap_or_else(|| "anonymous".into())));
    match api::serve(&socket, &machine) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{socket}: {error}");
            ExitCode::FAILURE
        }
    }
}
