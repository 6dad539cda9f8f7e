//! What every command starts from: the service, a cancel flag that Ctrl-C raises, and whether
//! the output is for a person or a program.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::{Dirs, Service};

use crate::error::report;
use crate::talk;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Tables and sentences.
    People,
    /// JSON.
    Json,
}

impl From<bool> for Form {
    fn from(json: bool) -> Self {
        if json { Self::Json } else { Self::People }
    }
}

/// What a command works with.
#[derive(Clone)]
pub struct Context {
    /// The agent's service.
    pub service: Service,
    /// Raised by Ctrl-C.
    pub cancel: Arc<AtomicBool>,
    /// The form of the output.
    pub form: Form,
}

impl Context {
    /// Opens the service. `command` names us in lock files.
    ///
    /// # Errors
    /// When mvm's directories cannot be used.
    pub fn open(command: &str, form: Form) -> Result<Self> {
        let exe = std::env::current_exe().map_err(|error| {
            Error::new(Kind::Failed, "", "cannot find the mvm binary").because(error)
        })?;
        let dirs = Dirs::from_env(|name| std::env::var_os(name));
        let service = Service::open(dirs, exe, format!("mvm {command}"))?;
        Ok(Self { service, cancel: Arc::new(AtomicBool::new(false)), form })
    }
}

/// Runs a command to its end or to Ctrl-C, and turns its outcome into an exit code.
///
/// The first Ctrl-C asks the command to stop (it undoes or completes the step it is in); a
/// second one ends the process at once, which every step survives.
pub fn run<F>(form: Form, cancel: Arc<AtomicBool>, command: F) -> ExitCode
where
    F: Future<Output = Result<ExitCode>>,
{
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return report(form, &Error::new(Kind::Failed, "", "cannot start").because(error));
            }
        };
    let outcome = runtime.block_on(async {
        tokio::spawn(watch_interrupt(cancel));
        command.await
    });
    // Blocking readers of a terminal must not keep the process.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| report(form, &error))
}

async fn watch_interrupt(cancel: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut hup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return;
    };
    loop {
        tokio::select! {
            pressed = tokio::signal::ctrl_c() => if pressed.is_err() { return },
            _ = term.recv() => {}
            _ = hup.recv() => {}
        }
        if cancel.swap(true, Ordering::SeqCst) {
            std::process::exit(Kind::Interrupted.exit_code().into());
        }
        talk::say("\nstopping (once more to leave at once)");
    }
}

impl Context {
    /// Runs `work` until it ends or Ctrl-C is pressed; for streams, which undo nothing.
    ///
    /// # Errors
    /// What the work says, or [`Kind::Interrupted`].
    pub async fn until_interrupted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        crate::session::Session::from(self).until_interrupted(work).await
    }
}
