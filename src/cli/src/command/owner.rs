//! What the three `adopt` commands share.

use std::process::ExitCode;

use clap::ValueEnum;
use mvm_agent::error::Result;
use mvm_api::update::Adopted;
use mvm_model::record::ManagedBy;

use crate::output;
use crate::runtime::Form;
use crate::talk;

/// Whom something is given to.
#[derive(Debug, clap::Args)]
pub struct To {
    /// Its new owner: you and others on this host (local), or the NixOS configuration (nix)
    #[arg(long, value_enum, default_value_t = Owner::Local)]
    to: Owner,
}

/// Owners a person can name.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Owner {
    Local,
    Nix,
}

impl To {
    /// The owner.
    pub fn owner(&self) -> ManagedBy {
        match self.to {
            Owner::Local => ManagedBy::Local,
            Owner::Nix => ManagedBy::Nix,
        }
    }
}

fn word(owner: ManagedBy) -> &'static str {
    match owner {
        ManagedBy::Local => "local",
        ManagedBy::Nix => "nix",
        ManagedBy::Coordinator => "coordinator",
    }
}

/// Says what became of an object.
///
/// # Errors
/// When stdout is gone.
pub fn tell(form: Form, object: &str, adopted: Adopted) -> Result<ExitCode> {
    if form == Form::Json {
        let Adopted { before, now } = adopted;
        output::json(&serde_json::json!({ "object": object, "before": before, "now": now }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (before, now) = (word(adopted.before), word(adopted.now));
    let text = match before == now {
        true => format!("{object} is managed by {now} already"),
        false => format!("{object} is managed by {now} now (before: {before})"),
    };
    output::line(&text)?;
    if adopted.before == ManagedBy::Nix && adopted.now == ManagedBy::Local {
        talk::say(
            "note: take it out of the NixOS configuration too, or its next switch is refused",
        );
    }
    Ok(ExitCode::SUCCESS)
}
