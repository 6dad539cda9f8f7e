//! `mvm pool build`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::image::BuildPool;
use mvm_api::pool::{Info, View};
use mvm_model::PoolPath;
use mvm_model::image::BuilderChoice;
use serde::Serialize;

use crate::command::{bootstrap, in_session_with_guest};
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    /// Who builds it this time: auto, nix or embedded [default: as the pool was created]
    #[arg(long, env = "MVM_BUILDER", value_name = "BUILDER")]
    builder: Option<BuilderChoice>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Print JSON: the pool, as in 'pool info', and a note
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session_with_guest("pool build", args.json.into(), |session| build(session, args))
}

/// What a program is told: the pool as it is now.
#[derive(Serialize)]
struct BuiltPool {
    #[serde(flatten)]
    pool: View,
    note: Option<String>,
}

async fn build(session: Session, args: Args) -> Result<ExitCode> {
    session.call(Info { pool: args.pool.clone() }).await?;
    if let Some(context) = session.context() {
        bootstrap::packages(&context, args.yes.into()).await?;
    }
    let step = Step::start(&format!("building the image of {}", args.pool));
    let call = BuildPool { pool: args.pool.clone(), builder: args.builder };
    let built = session.call_showing(call, &step).await?;
    let took = step.done();
    if session.form == Form::Json {
        let pool = session.call(Info { pool: args.pool }).await?;
        return output::json(&BuiltPool { pool, note: built.note }).map(|()| ExitCode::SUCCESS);
    }
    if let Some(note) = &built.note {
        talk::say(format_args!("note: {note}"));
    }
    let by = built.builder.map_or_else(String::new, |builder| format!("builder: {builder}, "));
    output::line(&format!(
        "pool {} uses revision {} ({by}{})",
        args.pool,
        built.digest.short(),
        output::duration(took)
    ))?;
    Ok(ExitCode::SUCCESS)
}
