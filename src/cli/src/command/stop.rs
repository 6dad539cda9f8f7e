//! `mvm stop`: turns the dev microVM off.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Kind, Result};
use mvm_model::state::Verb;

use crate::command::{as_root, dev};
use crate::output;
use crate::progress::Step;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Print JSON: the dev microVM, as in 'instance list'; null when there is none
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    as_root("stop", args.json.into(), stop)
}

async fn stop(context: Context) -> Result<ExitCode> {
    let path = dev::instance();
    match context.service.instance(&path) {
        Err(error) if error.kind == Kind::NotFound && context.form == Form::Json => {
            output::json(&None::<()>)?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) if error.kind == Kind::NotFound => {
            output::line("there is no dev microVM; 'mvm dev' makes one")?;
            return Ok(ExitCode::SUCCESS);
        }
        other => other?,
    };
    let step = Step::start("stopping the dev microVM");
    let outcome = context.service.change(&path, Verb::Stop, &context.cancel).await?;
    context.service.park_network(&path.pool.tenant).await?;
    step.done();
    if context.form == Form::Json {
        let record = context.service.instance(&path)?;
        return output::json(&context.service.view(&record)).map(|()| ExitCode::SUCCESS);
    }
    output::line(outcome.already.unwrap_or("dev microVM stopped; its data is kept"))?;
    Ok(ExitCode::SUCCESS)
}
