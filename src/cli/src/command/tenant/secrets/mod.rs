//! `mvm tenant secrets …`
//!
//! Values come in on stdin, from a file or from a terminal without echo, never as arguments, and
//! no command prints one.

mod input;
mod list;
mod remove;
mod rotate;
mod set;

use std::process::ExitCode;

use clap::Subcommand;
use mvm_agent::error::{Error, Kind, Result};
use mvm_api::secret::{Changed, Delivered, Delivery};
use mvm_model::TenantName;
use mvm_model::secret::{BadSecret, SecretName};

use crate::output;
use crate::runtime::Form;
use crate::talk;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set secrets, from stdin or a file, and deliver them
    Set(set::Args),
    /// Encrypt all anew under the next epoch and deliver them again
    Rotate(rotate::Args),
    /// List names, sizes and times; never values
    List(list::Args),
    /// Remove secrets, also from the instances that have them
    Remove(remove::Args),
}

/// Runs a verb.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Set(args) => set::run(args),
        Command::Rotate(args) => rotate::run(args),
        Command::List(args) => list::run(args),
        Command::Remove(args) => remove::run(args),
    }
}

/// A secret's name among the arguments. One with a value is refused without repeating it.
fn name(tenant: &TenantName, text: &str) -> Result<SecretName> {
    text.parse().map_err(|error| match error {
        BadSecret::NameWithValue => value_on_command_line(tenant),
        other => Error::new(Kind::Invalid, tenant, other.to_string()),
    })
}

/// The refusal of a value among the arguments, where every process of this host can read it.
fn value_on_command_line(tenant: &TenantName) -> Error {
    Error::new(
        Kind::Invalid,
        tenant,
        "a value on the command line is seen by every process of this host; nothing was set",
    )
    .hint(format!(
        "take that value as known to others, and pipe the new one: mvm tenant secrets set {tenant} NAME < FILE"
    ))
}

/// Prints what a change did and who has it when.
fn show(changed: &Changed, form: Form, done: &str) -> Result<()> {
    if form == Form::Json {
        return output::json(changed);
    }
    output::line(&format!("secrets of {}: {done}, epoch {}", changed.tenant_id, changed.epoch))?;
    let rows = changed.instances.iter().map(|it| vec![it.instance.to_string(), when(&it.delivery)]);
    let nothing = "no instances yet; each gets them when it starts";
    output::table(&["instance", "has them"], rows.collect(), nothing)?;
    if changed.instances.iter().any(is_late) {
        talk::say(format_args!(
            "next: let go of the old ones in those guests, or stop and start them; then mvm tenant secrets rotate {}",
            changed.tenant_id
        ));
    }
    Ok(())
}

fn is_late(delivered: &Delivered) -> bool {
    matches!(delivered.delivery, Delivery::NotYet { .. })
}

fn when(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Now => "now".into(),
        Delivery::AtResume => "when it resumes".into(),
        Delivery::AtWake => "at its wake (ready)".into(),
        Delivery::AtStart => "at its next start".into(),
        Delivery::NotYet { why } => format!("not yet: {why}"),
    }
}
