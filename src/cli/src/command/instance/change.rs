//! `mvm instance start|stop|sleep|wake|warm`: one transition.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::instance::{Change, Changed, Phase, View};
use mvm_model::InstancePath;
use mvm_model::state::Verb;
use serde::Serialize;

use crate::command::in_session;
use crate::output;
use crate::progress::Step;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
    /// Also say how long each part took
    #[arg(long)]
    timings: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args, verb: Verb) -> ExitCode {
    let form = Form::from(args.json);
    in_session(&format!("instance {verb}"), form, |session| change(session, args, verb))
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

async fn change(session: Session, args: Args, verb: Verb) -> Result<ExitCode> {
    let step = Step::start(&format!("{} {}", doing(verb), args.instance));
    let changed = session.call(Change { instance: args.instance.clone(), verb }).await?;
    let took = step.done();
    let view = &changed.view;
    if session.form == Form::Json {
        return print_json(&changed, args.timings).map(|()| ExitCode::SUCCESS);
    }
    let status = view.status.capitalised();
    output::line(&match &changed.already {
        Some(already) => format!("{}: {already}", args.instance),
        None => format!("{}: {status} ({})", args.instance, output::duration(took)),
    })?;
    if let Some(note) = &changed.note {
        talk::say(format_args!("note: {note}"));
    }
    if !changed.slow.is_empty() {
        talk::say(format_args!("slow: {}", changed.slow.join("; ")));
    }
    if args.timings {
        let row = |phase: &Phase| vec![phase.name.to_string(), format!("{:.1}", phase.ms)];
        let rows = changed.phases.iter().map(row).collect();
        output::table(&["Phase", "Milliseconds"], rows, "nothing was done")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_json(changed: &Changed, timings: bool) -> Result<()> {
    #[derive(Serialize)]
    struct Timed<'a> {
        #[serde(flatten)]
        view: &'a View,
        slow: &'a [String],
        phases: &'a [Phase],
    }
    let Changed { view, slow, phases, .. } = changed;
    match timings {
        true => output::json(&Timed { view, slow, phases }),
        false => output::json(view),
    }
}
