//! Arms failpoints from the environment: in debug builds, for tests. A release build knows neither
//! variable.
//!
//! ```text
//! MVM_FAILPOINT=<what>@<process>/<failpoint>#<n>   at the n-th time this process comes there:
//!                                                  error, panic, kill (-9) or hold (SIGSTOP);
//!                                                  several with a comma between them
//! MVM_FAILPOINT_LOG=<file>                         a line for each failpoint a process comes to
//! ```
//!
//! `<process>` is `mvm` (a command or the agent) or `supervisor` (of a VM that such a process
//! starts). Places are in [`mvm_model::failpoint`].

use std::fmt::Display;
use std::future::Future;
use std::io;

use mvm_model::failpoint::{Effect, after, before};

use crate::error::{Error, Kind, Result};

/// An effect with its two failpoints. After the second one it has happened, whatever this says.
pub(crate) async fn around<T>(
    effect: Effect,
    object: impl Display,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    at(before(effect), &object)?;
    let done = work.await?;
    at(after(effect), &object)?;
    Ok(done)
}

/// What a failpoint said, as an error about `object`.
pub(crate) fn at(said: io::Result<()>, object: impl Display) -> Result<()> {
    said.map_err(|error| Error::new(Kind::Failed, object, "cannot go on").because(error))
}

#[cfg(debug_assertions)]
pub(crate) use armed::{arm, environment};

/// Arms nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn arm(_: &'static str) {}

/// Nothing for a process we start.
#[cfg(not(debug_assertions))]
pub(crate) fn environment() -> [(&'static str, String); 0] {
    []
}

#[cfg(debug_assertions)]
mod armed {
    use std::collections::BTreeMap;
    use std::fs::OpenOptions;
    use std::io::{self, Write};
    use std::sync::{Mutex, OnceLock, PoisonError};

    use mvm_model::failpoint::{self, Failpoint};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    const POINT: &str = "MVM_FAILPOINT";
    const LOG: &str = "MVM_FAILPOINT_LOG";

    /// What happens at a failpoint.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Mode {
        Error,
        Panic,
        Signal(Signal),
    }

    /// One failpoint, the n-th time.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Armed {
        mode: Mode,
        process: String,
        failpoint: Failpoint,
        time: u32,
    }

    struct State {
        process: &'static str,
        armed: Vec<Armed>,
        log: Option<std::path::PathBuf>,
        times: Mutex<BTreeMap<Failpoint, u32>>,
    }

    static STATE: OnceLock<State> = OnceLock::new();

    /// Arms what the environment names; once per process, which says what it is.
    pub(crate) fn arm(process: &'static str) {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (point, log) = (var(POINT), var(LOG).map(Into::into));
        if point.is_none() && log.is_none() {
            return;
        }
        let point = point.unwrap_or_default();
        let armed = point
            .split(',')
            .filter(|text| !text.is_empty())
            .map(|text| parse(text).unwrap_or_else(|| panic!("{POINT}={text} is not understood")));
        let armed = armed.collect();
        let state = State { process, armed, log, times: Mutex::default() };
        if STATE.set(state).is_ok() {
            failpoint::install(come_to);
        }
    }

    /// What a process we start is to know.
    pub(crate) fn environment() -> Vec<(&'static str, String)> {
        let var = |name| std::env::var(name).ok().map(|value| (name, value));
        [POINT, LOG].into_iter().filter_map(var).collect()
    }

    fn parse(text: &str) -> Option<Armed> {
        let (mode, rest) = text.split_once('@')?;
        let (process, rest) = rest.split_once('/')?;
        let (failpoint, time) = rest.split_once('#')?;
        let mode = match mode {
            "error" => Mode::Error,
            "panic" => Mode::Panic,
            "kill" => Mode::Signal(Signal::SIGKILL),
            "hold" => Mode::Signal(Signal::SIGSTOP),
            _ => return None,
        };
        let (failpoint, time) = (failpoint.parse().ok()?, time.parse().ok()?);
        Some(Armed { mode, process: process.into(), failpoint, time })
    }

    fn come_to(failpoint: Failpoint) -> io::Result<()> {
        let Some(state) = STATE.get() else { return Ok(()) };
        let time = {
            let mut times = state.times.lock().unwrap_or_else(PoisonError::into_inner);
            let time = times.entry(failpoint).or_default();
            *time += 1;
            *time
        };
        let line = format!("{}/{failpoint}#{time}", state.process);
        let is_here = |armed: &&Armed| {
            armed.process == state.process && armed.failpoint == failpoint && armed.time == time
        };
        match state.armed.iter().find(is_here) {
            None => {
                state.note(&line);
                Ok(())
            }
            Some(armed) => {
                state.note(&format!("{line} {:?}", armed.mode));
                act(armed.mode, &line)
            }
        }
    }

    fn act(mode: Mode, place: &str) -> io::Result<()> {
        match mode {
            Mode::Error => Err(io::Error::other(format!("failpoint {place}"))),
            Mode::Panic => panic!("failpoint {place}"),
            Mode::Signal(signal) => kill(Pid::this(), signal).map_err(Into::into),
        }
    }

    impl State {
        /// A log that cannot be written shows nothing, and the test that wants it fails.
        fn note(&self, line: &str) {
            let Some(path) = &self.log else { return };
            let log = OpenOptions::new().create(true).append(true).open(path);
            let _ = log.and_then(|mut log| log.write_all(format!("{line}\n").as_bytes()));
        }
    }

    #[cfg(test)]
    mod tests {
        use mvm_model::failpoint::{Effect, Moment};

        use super::*;

        #[test]
        fn a_place_is_read_whole_or_not_at_all() {
            let armed = Armed {
                mode: Mode::Panic,
                process: "mvm".into(),
                failpoint: Failpoint { effect: Effect::PauseVm, moment: Moment::After },
                time: 2,
            };
            assert_eq!(parse("panic@mvm/after:pause-vm#2"), Some(armed));
            for bad in ["", "kill@mvm/after:pause-vm", "kill@mvm/pause-vm#1", "die@mvm/x#1"] {
                assert_eq!(parse(bad), None, "{bad}");
            }
        }
    }
}
