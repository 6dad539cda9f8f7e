//! `mvm pool rollback`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::image::Rollback;
use mvm_model::PoolPath;

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    /// The revision to go back to, or the start of its digest [default: the previous one]
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("pool rollback", Form::from(args.json), |session| rollback(session, args))
}

async fn rollback(session: Session, args: Args) -> Result<ExitCode> {
    let back = session.call(Rollback { pool: args.pool.clone(), to: args.to }).await?;
    if session.form == Form::Json {
        return output::json(&back).map(|()| ExitCode::SUCCESS);
    }
    let from =
        back.from.as_ref().map_or_else(String::new, |from| format!(" instead of {}", from.short()));
    output::line(&format!("pool {} uses revision {}{from}", args.pool, back.to.short()))?;
    match back.keeping {
        0 => {}
        1 => talk::say("note: 1 instance keeps its revision until its next cold start"),
        many => talk::say(format_args!(
            "note: {many} instances keep their revision until their next cold start"
        )),
    }
    Ok(ExitCode::SUCCESS)
}
