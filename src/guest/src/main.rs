//! `mvm-guest`: what answers inside a guest, as PID 1 or as a service.
//!
//! ```text
//!  kernel ──► PID 1 in the initrd ──► PID 1 in the root ──► agent, network, workload
//!             [`initrd`]: modules,     [`init`]: mounts,
//!             root, switch             config, power off
//!
//!  another init ──► `mvm-guest serve [--unix PATH]` ──► agent only
//!
//!  transport ([`transport`]) ── bytes ── [`session`] ── one thread per request ── [`verbs`]
//! ```
//!
//! Plain threads and `poll`, no async runtime: the binary is static, below 2 MiB, and lives in
//! a few hundred KiB. [`reaper`] is the only caller of `waitpid`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod drives;
mod guest;
mod heap;
mod init;
mod initrd;
mod log;
mod mounts;
mod network;
mod once;
mod power;
mod process;
mod program;
mod reaper;
mod service;
mod session;
mod sys;
mod transport;
mod user;
mod verbs;
mod workload;

use std::process::ExitCode;

#[global_allocator]
static HEAP: heap::Forgetful = heap::Forgetful;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        let took = match std::path::Path::new(initrd::MODULES).is_dir() {
            true => initrd::run(),
            false => initrd::Took::nothing(),
        };
        // Never returns: PID 1 that ends is a kernel panic.
        init::run(took);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match service::Options::parse(&arguments) {
        Ok(service::Command::Serve(options)) => service::run(&options),
        Ok(service::Command::Version) => {
            println!("mvm-guest {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Err(usage) => {
            eprintln!("{usage}");
            ExitCode::from(2)
        }
    }
}
