//! The hidden halves of `mvm`: processes other parts start, never a person.
//!
//! They are told apart before any thread exists and before the command line is parsed: the
//! trampoline must be single-threaded to change what it is.

use std::process::ExitCode;

use mvm_agent::{shim, upkeep};
use mvm_host::net::dns;
use mvm_vmm::confine;

use crate::command::bench::{burst, fleet};

/// Becomes a VMM if that is what was asked for: before all else, because a wake waits for it.
pub fn confine() -> Option<ExitCode> {
    (std::env::args_os().nth(1)? == shim::CONFINE).then(confine::main)
}

/// Runs a hidden half if that is what was asked for.
pub fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let word = args.next()?;
    match word.to_str()? {
        shim::SUBCOMMAND => Some(shim::main()),
        upkeep::RESOLVER => Some(resolve()),
        fleet::SUBCOMMAND => Some(fleet::main(args)),
        burst::SUBCOMMAND => Some(burst::main(args)),
        _ => None,
    }
}

/// The tenants' resolver.
fn resolve() -> ExitCode {
    let user = dns::UNPRIVILEGED;
    match dns::serve(&dns::Serve { uid: user, gid: user, resolv_conf: "/etc/resolv.conf".into() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mvm resolver: {error}");
            ExitCode::FAILURE
        }
    }
}
