//! One module per command; nouns with several verbs are directories.
//!
//! Each has the same shape: `Args` (clap), `run(args) -> ExitCode` that becomes root if it must,
//! opens a [`Context`](crate::runtime::Context) and calls the service.

pub mod add;
pub mod agent;
pub mod bench;
pub mod bootstrap;
pub mod check_config;
pub mod completions;
pub mod connect;
pub mod demo;
pub mod dev;
pub mod doctor;
pub mod events;
pub mod image;
pub mod instance;
pub mod net;
pub mod new;
pub mod node;
mod owner;
pub mod pool;
pub mod status;
pub mod stop;
pub mod tenant;

use std::process::ExitCode;

use mvm_agent::error::Result;

use crate::elevate::ensure_root;
use crate::error::report;
use crate::output;
use crate::runtime::{self, Context, Form};
use crate::session::Session;

/// Runs a command that changes the host: as root, with the service open.
pub fn as_root<F>(name: &str, form: Form, command: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = Result<ExitCode>>,
{
    let context = ensure_root(&format!("mvm {name}")).and_then(|()| Context::open(name, form));
    match context {
        Ok(context) => {
            let cancel = context.cancel.clone();
            runtime::run(form, cancel, command(context))
        }
        Err(error) => report(form, &error),
    }
}

/// What is asked for when something would destroy data.
#[derive(Debug, clap::Args)]
pub struct Force {
    /// Really destroy it with its data
    #[arg(long)]
    pub force: bool,
}

impl Force {
    /// Refuses when `--force` is missing.
    ///
    /// # Errors
    /// [`Kind::Refused`](mvm_agent::error::Kind::Refused), saying what would be lost.
    pub fn check(&self, object: impl std::fmt::Display, lost: &str) -> Result<()> {
        use mvm_agent::error::{Error, Kind};
        if self.force {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, &object, format!("this destroys {object} with {lost}"))
            .hint("repeat it with --force if that is what you want"))
    }
}

/// Says that an object is gone, with its data.
///
/// # Errors
/// When stdout is gone.
pub fn tell_destroyed(form: Form, what: &str, path: impl std::fmt::Display) -> Result<ExitCode> {
    match form {
        Form::Json => output::json(&serde_json::json!({ "destroyed": path.to_string() }))?,
        Form::People => output::line(&format!("{what} {path} destroyed"))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command against the agent, or as root in this process when there is none.
pub fn in_session<F>(name: &str, form: Form, command: impl FnOnce(Session) -> F) -> ExitCode
where
    F: Future<Output = Result<ExitCode>>,
{
    match Session::open(name, form) {
        Ok(session) => {
            let cancel = session.cancel.clone();
            runtime::run(form, cancel, command(session))
        }
        Err(error) => report(form, &error),
    }
}

/// Like [`in_session`], for commands that build images: the guest agent is built first, as whoever
/// called, so that no file in a checkout becomes root's.
pub fn in_session_with_guest<F>(
    name: &str,
    form: Form,
    command: impl FnOnce(Session) -> F,
) -> ExitCode
where
    F: Future<Output = Result<ExitCode>>,
{
    match crate::elevate::build_guest_first() {
        Ok(()) => in_session(name, form, command),
        Err(error) => report(form, &error),
    }
}

/// Like [`as_root`], for commands that build images: the guest agent is built first, as whoever
/// called, so that no file in a checkout becomes root's.
pub fn as_root_with_guest<F>(name: &str, form: Form, command: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = Result<ExitCode>>,
{
    match crate::elevate::build_guest_first() {
        Ok(()) => as_root(name, form, command),
        Err(error) => report(form, &error),
    }
}
