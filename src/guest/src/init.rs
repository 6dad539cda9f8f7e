//! PID 1 in the root: everything a guest needs before and around its agent.
//!
//! ```text
//!  mounts ─► agent answers (not ready) ─► drives ─► config ─► network, host name ─► ready
//!                                                                     └─► workload
//! ```
//!
//! The agent answers before the configuration is applied, so that a guest whose drives are
//! broken can say so. Nothing that goes wrong ends PID 1; it becomes a problem in the status.

use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::drives::{Drive, Mounted};
use crate::guest::{Guest, Place};
use crate::initrd::Took;
use crate::{config, mounts, network, power, transport, workload};

/// Grace processes have when a signal turns the machine off.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the stage and then reaps until the machine ends.
pub(crate) fn run(took: Took) -> ! {
    let signals = block_signals();
    let mut problems = mounts::kernel();
    problems.extend(mounts::root());
    std::env::set_current_dir("/").ok();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let Ok(root) = std::fs::File::options().read(true).custom_flags(libc::O_DIRECTORY).open("/")
    else {
        eprintln!("mvm-guest: cannot open /");
        power::end_machine();
    };
    let guest = Guest::new(Place::Init, root.into(), took);
    problems.into_iter().for_each(|problem| guest.problem(problem));
    if let Err(error) = network::set_up_loopback() {
        guest.problem(error.to_string());
    }
    transport::serve_all(&guest);
    mount_drives(&guest);
    apply_config(&guest);
    guest.now_ready();
    workload::start(&guest);
    reap_forever(&guest, &signals)
}

/// Signals PID 1 waits for instead of being interrupted by. Before any thread starts, so that
/// all of them inherit it.
pub(crate) fn block_signals() -> SigSet {
    let mut signals = SigSet::empty();
    // USR1 and USR2 are what busybox's `halt` and `poweroff` send, TERM its `reboot`.
    let off = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR, Signal::SIGUSR1, Signal::SIGUSR2];
    for signal in off.into_iter().chain([Signal::SIGCHLD]) {
        signals.add(signal);
    }
    // Cannot fail with valid signals.
    let _ = signals.thread_block();
    signals
}

fn reap_forever(guest: &Arc<Guest>, signals: &SigSet) -> ! {
    loop {
        guest.reaper.reap();
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(_) => power::power_off(guest, GRACE),
        }
    }
}

fn mount_drives(guest: &Arc<Guest>) {
    match guest.mount(Drive::Data) {
        Ok(Mounted::Yes) => {}
        Ok(Mounted::Placeholder) => {
            mounts::data_in_memory().into_iter().for_each(|problem| guest.problem(problem));
        }
        // Not replaced by memory: what is written there would be lost without a word.
        Err(error) => guest.problem(error),
    }
    for drive in [Drive::Secrets, Drive::Config] {
        if let Err(error) = guest.mount(drive) {
            guest.problem(error);
        }
    }
}

/// Reads the configuration and makes it true. Also after a wake, when it may be another.
pub(crate) fn apply_config(guest: &Arc<Guest>) {
    if !Drive::Config.is_mounted() {
        return guest.problem("there is no config drive".into());
    }
    let config = match config::read() {
        Ok(config) => config,
        Err(error) => return guest.problem(error),
    };
    let before = guest.life().config.clone();
    let hostname_differs = before.as_ref().is_none_or(|it| it.hostname != config.hostname);
    if hostname_differs && let Err(error) = network::set_hostname(&config.hostname) {
        guest.problem(format!("cannot set the host name: {}", error.desc()));
    }
    let network_differs = before.as_ref().is_none_or(|it| it.network != config.network);
    if let (true, Some(wanted)) = (network_differs, &config.network)
        && let Err(error) = network::set_up_interface(wanted)
    {
        guest.problem(error.to_string());
    }
    let mut life = guest.life();
    life.secrets_epoch = if Drive::Secrets.is_mounted() { config.secrets_epoch } else { 0 };
    life.config = Some(config);
}
