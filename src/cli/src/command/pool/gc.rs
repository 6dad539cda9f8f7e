//! `mvm pool gc`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::image::PoolGc;
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("pool gc", Form::from(args.json), |session| gc(session, args))
}

async fn gc(session: Session, args: Args) -> Result<ExitCode> {
    let collected = session.call(PoolGc { pool: args.pool.clone() }).await?;
    if session.form == Form::Json {
        return output::json(&collected).map(|()| ExitCode::SUCCESS);
    }
    for kept in &collected.kept {
        talk::say(format_args!("kept: {} ({})", kept.digest.short(), kept.why));
    }
    output::line(&format!(
        "pool {}: {} removed, {} freed",
        args.pool,
        output::count(collected.revisions.len(), "revision"),
        output::bytes(collected.bytes)
    ))?;
    if !collected.revisions.is_empty() {
        talk::say("next: mvm image gc  (the image store keeps a copy until then)");
    }
    Ok(ExitCode::SUCCESS)
}
