//! `mvm instance start|stop|sleep|wake|warm`: one transition.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_model::InstancePath;
use mvm_model::state::Verb;

use crate::command::as_root;
use crate::output;
use crate::progress::Step;
use crate::runtime::{Context, Form};

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args, verb: Verb) -> ExitCode {
    let form = Form::from(args.json);
    as_root(&format!("instance {verb}"), form, |context| change(context, args, verb))
}

fn doing(verb: Verb) -> &'static str {
    match verb {
        Verb::Start => "starting",
        Verb::Warm => "pausing",
        Verb::Sleep => "putting to sleep",
        Verb::Wake => "waking",
        Verb::Stop => "stopping",
        Verb::Destroy => "destroying",
    }
}

async fn change(context: Context, args: Args, verb: Verb) -> Result<ExitCode> {
    let step = Step::start(&format!("{} {}", doing(verb), args.instance));
    let outcome = context.service.change(&args.instance, verb, &context.cancel).await?;
    let took = step.done();
    let view = context.service.view(&outcome.record);
    if context.form == Form::Json {
        return output::json(&view).map(|()| ExitCode::SUCCESS);
    }
    let status = view.status.capitalised();
    output::line(&match outcome.already {
        Some(already) => format!("{}: {already}", args.instance),
        None => format!("{}: {status} ({})", args.instance, output::duration(took)),
    })?;
    if let Some(note) = &outcome.record.note {
        eprintln!("note: {note}");
    }
    Ok(ExitCode::SUCCESS)
}
