//! `mvm agent operations`: what the agent was asked to change, and following one of it.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_agent::service::now;
use mvm_api::agent::{Ended, ListOperations, Operation};

use crate::command::in_session;
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::{Session, interrupted};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Follow this operation to its end; Ctrl-C only stops following
    #[arg(long, value_name = "ID")]
    watch: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("agent operations", args.json.into(), |session| async move {
        match &args.watch {
            Some(id) => watch(&session, id).await,
            None => list(&session).await,
        }
    })
}

async fn list(session: &Session) -> Result<ExitCode> {
    let operations = session.call(ListOperations {}).await?;
    if session.form == Form::Json {
        return output::json(&operations).map(|()| ExitCode::SUCCESS);
    }
    let rows = operations.iter().map(|one: &Operation| {
        let how = match &one.ended {
            None => "on its way".to_owned(),
            Some(Ended::Done { .. }) => "done".to_owned(),
            Some(Ended::Failed { message, .. }) => format!("failed: {message}"),
        };
        let noun = one.name.split('/').next().unwrap_or_default();
        vec![
            one.id.clone(),
            format!("{noun} {}", one.verb),
            one.object.clone(),
            one.by.to_string(),
            output::ago(one.started_at, now()),
            how,
        ]
    });
    let header = ["id", "operation", "object", "uid", "since", "how"];
    output::table(&header, rows.collect(), "nothing was asked for yet")?;
    Ok(ExitCode::SUCCESS)
}

async fn watch(session: &Session, id: &str) -> Result<ExitCode> {
    let Some(agent) = session.agent() else {
        // Says that there is none.
        session.call(ListOperations {}).await?;
        return Ok(ExitCode::FAILURE);
    };
    let step = Step::start(&format!("following {id}"));
    let show = |sign: mvm_api::wire::Progress| {
        step.show(&mvm_host::progress::Progress {
            what: sign.what,
            done: sign.done,
            total: sign.total,
        });
    };
    let reply = agent.watch(id, show, interrupted(&session.cancel)).await?;
    step.clone().done();
    output::json(&reply)?;
    Ok(ExitCode::SUCCESS)
}
