//! The shim: one small process beside each VM, in a session of its own.
//!
//! ```text
//! driver ── Order on stdin ─▶ mvm __shim ── starts (or takes over), drains ─▶ VMM
//!        ◀─ Report on stdout ─┘   │ relay: guest.sock ◀─ many clients
//!                                 │        agent.sock (QEMU) ─▶ the guest agent's one port
//!                                 │        v.sock (Firecracker) ─▶ a connection for each
//!                                 └ VMM ended → exit.json → the record, if nobody holds it → the agent
//! ```
//!
//! The VM does not need it: a shim that dies takes only the way to the guest agent with it, and
//! whoever needs that next starts another, which takes the living VM over
//! ([`Machine::ensure_supervisor`](crate::machine::Machine::ensure_supervisor)).

mod unit;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use mvm_api::Client;
use mvm_api::agent::Nudge;
use mvm_api::client::Found;
use mvm_host::net::open_tap;
use mvm_model::InstanceId;
use mvm_model::vm::VmmKind;
use mvm_vmm::supervisor::{self, Failure, Report, RunningRecord, Supervised, Trampoline};
use mvm_vmm::{Launch, qemu};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::dirs::Dirs;
use crate::failpoint;
use crate::guest::relay;
use crate::service::Service;
use unit::Starter;

/// The hidden subcommand that is a shim.
pub const SUBCOMMAND: &str = "__shim";
/// The hidden subcommand that confines itself and becomes the VMM.
pub const CONFINE: &str = "__confine";
/// The relay's socket in the run directory.
pub const GUEST_SOCKET: &str = "guest.sock";

/// Threads for what blocks: few, because a unit's threads are counted.
const MOST_BLOCKING: usize = 8;

/// How long the agent may take to hear that a VM ended.
const NUDGE: Duration = Duration::from_secs(2);

/// What a shim is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// What to do.
    pub task: Task,
    /// The instance's path.
    pub instance: String,
    /// Where things are.
    pub dirs: Dirs,
    /// Whether it is the supervisor of a unit of systemd's.
    #[serde(default)]
    pub unit: bool,
}

/// Where a shim's VM comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// It starts it.
    Launch {
        /// The VM.
        launch: Box<Launch>,
        /// Its tap, opened here.
        tap: Option<String>,
    },
    /// It lives, and its shim is gone.
    TakeOver {
        /// Its run directory.
        run_dir: PathBuf,
    },
}

impl Task {
    fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Launch { launch, .. } => Some(launch.spec.instance),
            Self::TakeOver { .. } => None,
        }
    }

    fn run_dir(&self) -> &Path {
        match self {
            Self::Launch { launch, .. } => &launch.spec.run_dir,
            Self::TakeOver { run_dir } => run_dir,
        }
    }
}

/// Entry of the hidden subcommand.
pub fn main() -> ExitCode {
    // A process group leader cannot start a session; we were forked, so we are none.
    let _ = nix::unistd::setsid();
    failpoint::arm("supervisor");
    let order: Order = match serde_json::from_reader(io::stdin().lock()) {
        Ok(order) => order,
        Err(error) => return refuse("order", &error.to_string()),
    };
    match order.unit {
        true => unit::main(order),
        false => {
            // A jailed VMM's parent is gone once it runs: then it is ours, and its end too.
            let _ = nix::sys::prctl::set_child_subreaper(true);
            serve(order, None)
        }
    }
}

fn serve(order: Order, starter: Option<Starter>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(MOST_BLOCKING)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(order, starter)),
        Err(error) => refuse("runtime", &error.to_string()),
    }
}

fn refuse(kind: &str, message: &str) -> ExitCode {
    let _ = Report::Failed(failure(kind, message)).send(io::stdout());
    ExitCode::FAILURE
}

fn failure(kind: &str, message: &str) -> Failure {
    Failure { kind: kind.into(), message: message.into(), last_log: Vec::new() }
}

async fn run(order: Order, starter: Option<Starter>) -> ExitCode {
    match supervised(&order.task).await {
        Ok(supervised) => supervise(order, supervised, starter).await,
        Err(failure) => {
            let _ = Report::Failed(failure).send(io::stdout());
            ExitCode::FAILURE
        }
    }
}

async fn supervised(task: &Task) -> Result<Supervised, Failure> {
    match task {
        Task::Launch { launch, tap } => {
            // Firecracker opens its own, which belongs to its uid.
            let tap = tap.as_deref().filter(|_| launch.program.kind() == VmmKind::Qemu);
            let tap = tap.map(open_tap).transpose();
            let tap = tap.map_err(|error| failure("tap", &error.to_string()))?;
            let started = supervisor::start(launch, tap, &Trampoline::this_program(CONFINE)).await;
            started.map_err(|error| Failure::from(&error))
        }
        Task::TakeOver { run_dir } => {
            supervisor::take_over(run_dir).map_err(|error| failure("take-over", &error.to_string()))
        }
    }
}

async fn supervise(order: Order, vm: Supervised, starter: Option<Starter>) -> ExitCode {
    let relay = match relay(order.task.run_dir()).await {
        Ok(relay) => relay,
        Err(error) => {
            // Without a way to the guest the instance is of no use: the driver ends the VM.
            return refuse("relay", &error.to_string());
        }
    };
    if vm.has_unit()
        && let Err(error) = unit::stand_by(&vm)
    {
        eprintln!("a stop of the VM's unit will look like its failure: {error}");
    }
    if let Some(starter) = starter {
        starter.vm_is_up();
    }
    let _ = Report::Started(vm.process().clone()).send(io::stdout());
    let ended = vm.wait().await;
    relay.abort();
    if let Err(error) = ended {
        eprintln!("cannot record how the VM ended: {error}");
    }
    note(&order).await;
    ExitCode::SUCCESS
}

/// Serves the guest's clients for as long as the VM lives.
async fn relay(run_dir: &Path) -> io::Result<JoinHandle<()>> {
    let running = RunningRecord::load(run_dir)?;
    let jail = running.and_then(|running| running.jail);
    match jail {
        None => {
            let guest = qemu::connect_in(run_dir, qemu::AGENT_SOCKET).await?;
            let listener = crate::socket::listen_in(run_dir, GUEST_SOCKET)?;
            Ok(tokio::spawn(async move { drop(relay::serve(guest, listener).await) }))
        }
        Some(jail) => {
            let listener = crate::socket::listen_in(run_dir, GUEST_SOCKET)?;
            Ok(tokio::spawn(crate::guest::vsock::serve(jail.root, listener)))
        }
    }
}

/// Writes down what became of the instance, unless somebody is changing it.
async fn note(order: &Order) {
    let Ok(path) = order.instance.parse() else { return };
    if let Ok(service) =
        Service::open(order.dirs.clone(), "/proc/self/exe".into(), "the VM's supervisor".into())
    {
        service.note_exit(&path).await;
    }
    nudge(&order.dirs.run).await;
}

/// Has the agent look, if there is one: what it is to do about it is its plan's.
async fn nudge(run: &Path) {
    if let Found::Agent(agent) = Client::find(run) {
        let nudged = agent.call(&Nudge {}, |_| (), std::future::pending());
        // An agent that does not answer looks at its next round.
        let _ = tokio::time::timeout(NUDGE, nudged).await;
    }
}
