//! Before a sleep and after a wake.
//!
//! ```text
//!  prepare: drain hook ─► checkpoint hook ─► sync ─► unmount secrets, config ─► drop caches
//!  wake:    clock ─► generator ─► mount secrets, config anew ─► configuration ─► wake hook
//! ```
//!
//! A prepare that fails undoes what it unmounted: the guest goes on as it was. A sleep that is
//! called off is followed by a wake as well. One of the two runs at a time.

use std::fs;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mvm_guest_proto::config::{Hook, Hooks};
use mvm_guest_proto::message::{
    ErrorKind, ExecExit, Failure, Hooked, SleepPrep, SleepPrepared, Wake, Woken,
};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use super::status::clock_ms;
use crate::drives::{Drive, Mounted, UnmountError};
use crate::guest::{Guest, Place};
use crate::program::{self, Program, Terminal};
use crate::{init, network, reaper, sys, workload};

/// Longest a hook may take, whatever its configuration says.
const LONGEST_HOOK_MS: u64 = 600_000;
/// How long who uses the secrets has to finish.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
/// Least random bytes a wake brings.
const LEAST_ENTROPY: usize = 32;

/// Whether the machine is ours to put to sleep, wake or give other secrets.
pub(super) fn owns_machine(guest: &Guest) -> Result<(), Failure> {
    match guest.place {
        Place::Init | Place::Service { .. } => Ok(()),
        Place::Lodger => {
            let why = "this agent must not put its machine to sleep";
            Err(Failure::new(ErrorKind::Refused, why))
        }
    }
}

/// Gets ready to be put to sleep.
pub(super) fn prepare(guest: &Arc<Guest>, request: &SleepPrep) -> Result<SleepPrepared, Failure> {
    owns_machine(guest)?;
    let _turn = guest.sleep.lock().unwrap_or_else(PoisonError::into_inner);
    let mut prepared = SleepPrepared::default();
    let hooks = hooks(guest);
    let deadline = request.hooks_ms.map(|millis| Instant::now() + Duration::from_millis(millis));
    for (name, hook) in [("drain", hooks.drain), ("checkpoint", hooks.checkpoint)] {
        let Some(hook) = hook else {
            continue;
        };
        let hooked = run_hook(guest, name, &hook, deadline);
        if let (Some(error), false) = (&hooked.error, request.force) {
            let why = format!("the {name} hook failed: {error}");
            return Err(Failure::new(ErrorKind::Refused, why));
        }
        prepared.overridden.extend(hooked.error.clone());
        prepared.hooks.push(hooked);
    }
    nix::unistd::sync();
    unmount(guest, request.force, &mut prepared)?;
    // Pages of the secrets must not be in the snapshot; fewer pages make it smaller, too.
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
    guest.life().prepared_to_sleep = true;
    Ok(prepared)
}

fn unmount(guest: &Guest, force: bool, prepared: &mut SleepPrepared) -> Result<(), Failure> {
    for drive in [Drive::Secrets, Drive::Config] {
        let Err(error) = unmount_patiently(drive) else {
            continue;
        };
        let why = format!("cannot unmount {}: {error}", drive.mount_point());
        if !force {
            remount_after_refusal(guest);
            return Err(Failure::new(ErrorKind::Refused, why));
        }
        if let Err(error) = drive.detach() {
            let why = format!("cannot detach {}: {error}", drive.mount_point());
            return Err(Failure::new(ErrorKind::Failed, why));
        }
        prepared.overridden.push(why);
    }
    guest.life().secrets_epoch = 0;
    Ok(())
}

/// Gives who is just reading a moment to finish.
pub(super) fn unmount_patiently(drive: Drive) -> Result<(), UnmountError> {
    let end = Instant::now() + BUSY_PATIENCE;
    loop {
        match drive.unmount() {
            Err(UnmountError::Busy(_)) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

/// Nothing changed on the drives: what was mounted is mounted again.
fn remount_after_refusal(guest: &Guest) {
    for drive in [Drive::Secrets, Drive::Config].into_iter().filter(|it| !it.is_mounted()) {
        if let Err(error) = guest.mount(drive) {
            guest.problem(error);
        }
    }
}

fn hooks(guest: &Guest) -> Hooks {
    guest.life().config.as_ref().map(|config| config.hooks.clone()).unwrap_or_default()
}

/// Takes up life after a wake.
pub(super) fn wake(guest: &Arc<Guest>, request: &Wake) -> Result<Woken, Failure> {
    owns_machine(guest)?;
    let entropy = from_hex(&request.entropy)
        .filter(|bytes| (LEAST_ENTROPY..=sys::MAX_ENTROPY).contains(&bytes.len()))
        .ok_or_else(|| Failure::new(ErrorKind::Invalid, "entropy is 32 to 256 bytes in hex"))?;
    let _turn = guest.sleep.lock().unwrap_or_else(PoisonError::into_inner);
    let began = Instant::now();
    let mut woken = Woken::default();
    let failed = |what: &str, error: io::Error| {
        Failure::new(ErrorKind::Failed, format!("cannot {what}: {}", sys::describe(&error)))
    };
    sys::reseed(&entropy).map_err(|error| failed("reseed the generator", error))?;
    woken.clock_step_ms = request.clock_ns / 1_000_000 - clock_ms();
    set_clock(request.clock_ns).map_err(|error| failed("set the clock", error.into()))?;
    mount_anew(guest, request, &mut woken);
    init::apply_config(guest);
    check_epochs(guest, request, &mut woken);
    if let Some(hostname) = request.identity.as_ref().and_then(|it| it.hostname.as_ref())
        && let Err(error) = network::set_hostname(hostname)
    {
        woken.problems.push(format!("cannot set the host name: {}", error.desc()));
    }
    guest.life().prepared_to_sleep = false;
    if let Some(hook) = hooks(guest).wake {
        woken.hooks.push(run_hook(guest, "wake", &hook, None));
    }
    woken.millis = began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    Ok(woken)
}

/// Mounts what is on the drives *now*. A drive that is still mounted though it changed (the
/// guest was paused without being prepared) is unmounted first; one that did not change stays.
fn mount_anew(guest: &Guest, request: &Wake, woken: &mut Woken) {
    let (secrets_epoch, config_epoch) = {
        let life = guest.life();
        (life.secrets_epoch, life.config.as_ref().map_or(0, |config| config.config_epoch))
    };
    let drives = [
        (Drive::Secrets, secrets_epoch == request.secrets_epoch),
        (Drive::Config, config_epoch == request.config_epoch),
    ];
    for (drive, is_same) in drives {
        if is_same && drive.is_mounted() {
            continue;
        }
        let mounted = match drive.unmount() {
            Ok(()) => guest.mount(drive),
            Err(error) => Err(format!("{} keeps its old content: {error}", drive.mount_point())),
        };
        match mounted {
            Ok(Mounted::Yes | Mounted::Placeholder) => {}
            Err(problem) => {
                guest.note(&problem);
                woken.problems.push(problem);
            }
        }
    }
}

fn check_epochs(guest: &Guest, request: &Wake, woken: &mut Woken) {
    let mut life = guest.life();
    let config_epoch = life.config.as_ref().map_or(0, |config| config.config_epoch);
    if config_epoch != request.config_epoch {
        let wanted = request.config_epoch;
        woken.problems.push(format!("config.json is of epoch {config_epoch}, not {wanted}"));
    }
    if Drive::Secrets.is_mounted() {
        life.secrets_epoch = request.secrets_epoch;
    } else if request.secrets_epoch != 0 {
        woken.problems.push("no secrets are mounted".into());
    }
}

fn set_clock(nanoseconds: i64) -> nix::Result<()> {
    const SECOND: i64 = 1_000_000_000;
    let time = TimeSpec::new(nanoseconds.div_euclid(SECOND), nanoseconds.rem_euclid(SECOND));
    clock_settime(ClockId::CLOCK_REALTIME, time)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(byte).collect()
}

/// Runs a hook to its end or deadline; its output goes to the agent's log.
fn run_hook(guest: &Guest, name: &str, hook: &Hook, deadline: Option<Instant>) -> Hooked {
    let began = Instant::now();
    let error = try_hook(guest, hook, deadline).err();
    if let Some(error) = &error {
        guest.note(&format!("{name} hook: {error}"));
    }
    let millis = began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    Hooked { hook: name.to_owned(), millis, error }
}

fn try_hook(guest: &Guest, hook: &Hook, deadline: Option<Instant>) -> Result<(), String> {
    let user = program::user(None).map_err(|failure| failure.message)?;
    let program = Program {
        argv: &hook.argv,
        env: &Default::default(),
        cwd: Some("/"),
        user: &user,
        terminal: Terminal::None,
    };
    let (output, input) = io::pipe().map_err(|error| error.to_string())?;
    let mut command = program.command().map_err(|failure| failure.message)?;
    let errors = input.try_clone().map_err(|error| error.to_string())?;
    command.stdin(Stdio::null()).stdout(input).stderr(errors);
    let spawned = guest.reaper.spawn(&mut command);
    let (child, exit) = spawned.map_err(|error| program.failure(&error).message)?;
    drop(command);
    let own_end = Instant::now() + Duration::from_millis(hook.timeout_ms.min(LONGEST_HOOK_MS));
    let end = deadline.map_or(own_end, |deadline| deadline.min(own_end));
    std::thread::scope(|scope| {
        scope.spawn(|| workload::capture(output, &exit, &guest.log));
        let status = loop {
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            let status = exit.wait(u64::try_from(left).unwrap_or(u64::MAX));
            if status.is_some() || left == 0 {
                break status;
            }
        };
        match status {
            Some(ExecExit::Code(0)) => Ok(()),
            Some(ExecExit::Code(code)) => Err(format!("it exited with {code}")),
            Some(ExecExit::Signal(signal)) => Err(format!("it was ended by signal {signal}")),
            None => {
                reaper::end_session(child.id() as i32, Signal::SIGTERM, 500, &exit);
                Err("it took too long".into())
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_read_from_hexadecimal() {
        assert_eq!(from_hex("00ff10"), Some(vec![0, 255, 16]));
        for bad in ["0", "zz", "é1", "+1"] {
            assert_eq!(from_hex(bad).filter(|bytes| bytes != &[1]), None, "{bad}");
        }
    }
}
