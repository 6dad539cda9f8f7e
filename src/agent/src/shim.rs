//! The shim: one small process beside each VM, in a session of its own.
//!
//! ```text
//! driver ── Order on stdin ─▶ mvm __shim ── starts, drains ─▶ VMM
//!        ◀─ Report on stdout ─┘   │ relay: guest.sock ◀─ many clients
//!                                 │        agent.sock ─▶ the guest agent's one port
//!                                 └ VMM ended → exit.json → the record, if nobody holds it
//! ```
//!
//! The VM does not need it: a shim that dies takes only the way to the guest agent and the exit
//! record with it.

use std::io;
use std::process::ExitCode;

use mvm_host::net::open_tap;
use mvm_vmm::supervisor::{self, Failure, Report, Supervised, Trampoline};
use mvm_vmm::{Launch, qemu};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::dirs::Dirs;
use crate::guest::relay;
use crate::service::Service;

/// The hidden subcommand that is a shim.
pub const SUBCOMMAND: &str = "__shim";
/// The hidden subcommand that confines itself and becomes the VMM.
pub const CONFINE: &str = "__confine";
/// The relay's socket in the run directory.
pub const GUEST_SOCKET: &str = "guest.sock";

/// What a shim is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The VM to launch.
    pub launch: Launch,
    /// Its tap, opened here.
    pub tap: Option<String>,
    /// The instance's path.
    pub instance: String,
    /// Where things are.
    pub dirs: Dirs,
}

/// Entry of the hidden subcommand.
pub fn main() -> ExitCode {
    // A process group leader cannot start a session; we were forked, so we are none.
    let _ = nix::unistd::setsid();
    let order: Order = match serde_json::from_reader(io::stdin().lock()) {
        Ok(order) => order,
        Err(error) => return refuse("order", &error.to_string()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(order)),
        Err(error) => refuse("runtime", &error.to_string()),
    }
}

fn refuse(kind: &str, message: &str) -> ExitCode {
    let failure = Failure { kind: kind.into(), message: message.into(), last_log: Vec::new() };
    let _ = Report::Failed(failure).send(io::stdout());
    ExitCode::FAILURE
}

async fn run(order: Order) -> ExitCode {
    let tap = match order.tap.as_deref().map(open_tap).transpose() {
        Ok(tap) => tap,
        Err(error) => return refuse("tap", &error.to_string()),
    };
    match supervisor::start(&order.launch, tap, &Trampoline::this_program(CONFINE)).await {
        Ok(supervised) => supervise(order, supervised).await,
        Err(error) => {
            let _ = Report::Failed(Failure::from(&error)).send(io::stdout());
            ExitCode::FAILURE
        }
    }
}

async fn supervise(order: Order, supervised: Supervised) -> ExitCode {
    let run_dir = &order.launch.spec.run_dir;
    let relay = match listen(run_dir).await {
        Ok((guest, listener)) => {
            tokio::spawn(async move { drop(relay::serve(guest, listener).await) })
        }
        Err(error) => {
            // Without a way to the guest the instance is of no use: the driver ends the VM.
            return refuse("relay", &error.to_string());
        }
    };
    let _ = Report::Started(supervised.process().clone()).send(io::stdout());
    let ended = supervised.wait().await;
    relay.abort();
    if let Err(error) = ended {
        eprintln!("cannot record how the VM ended: {error}");
    }
    note(&order).await;
    ExitCode::SUCCESS
}

async fn listen(run_dir: &std::path::Path) -> io::Result<(tokio::net::UnixStream, UnixListener)> {
    let guest = qemu::connect_in(run_dir, qemu::AGENT_SOCKET).await?;
    Ok((guest, crate::socket::listen_in(run_dir, GUEST_SOCKET)?))
}

/// Writes down what became of the instance, unless somebody is changing it.
async fn note(order: &Order) {
    let Ok(path) = order.instance.parse() else { return };
    if let Ok(service) =
        Service::open(order.dirs.clone(), "/proc/self/exe".into(), "the VM's supervisor".into())
    {
        service.note_exit(&path).await;
    }
}
