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
pub struct Args {}

/// Runs it.
pub fn run(_: Args) -> ExitCode {
    as_root("stop", Form::People, stop)
}

async fn stop(context: Context) -> Result<ExitCode> {
    let path = dev::instance();
    match context.service.instance(&path) {
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
    output::line(outcome.already.unwrap_or("dev microVM stopped; its data is kept"))?;
    Ok(ExitCode::SUCCESS)
}
