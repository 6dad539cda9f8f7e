//! `mvm pool update`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_api::update::{PoolUpdate, Setting, UpdatePool};
use mvm_model::image::{ImageSource, Profile};
use mvm_model::{PoolPath, ProfileName};

use super::create::reference;
use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::Session;
use crate::talk;

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(after_help = "cpus, mem and data disk reach an instance at its next cold boot; a data \
                        drive grows and never shrinks.\nTimes are in seconds; 'never' takes one \
                        away.")]
pub struct Args {
    /// The pool: <tenant>/<pool>
    pool: PoolPath,
    /// vCPUs of each instance
    #[arg(long)]
    cpus: Option<u32>,
    /// Memory of each instance, MiB
    #[arg(long, value_name = "MIB")]
    mem: Option<u64>,
    /// Size of each instance's data drive, MiB
    #[arg(long, value_name = "MIB")]
    data_disk: Option<u64>,
    /// The flake its image is built from
    #[arg(long, value_name = "REF", requires = "profile")]
    flake: Option<String>,
    /// What the image holds; without --flake one of mvm's own
    #[arg(long)]
    profile: Option<ProfileName>,
    /// A running instance idle for so long is paused
    #[arg(long, value_name = "SECONDS", value_parser = time)]
    warm_after: Option<Setting<u64>>,
    /// An instance idle for so long is put to sleep
    #[arg(long, value_name = "SECONDS", value_parser = time)]
    sleep_after: Option<Setting<u64>>,
    /// So many keep running however idle they are
    #[arg(long, value_name = "COUNT")]
    keep_running: Option<u32>,
    /// So many parked ones stay warm however idle they are
    #[arg(long, value_name = "COUNT")]
    keep_warm: Option<u32>,
    /// It runs at least so long before it is parked
    #[arg(long, value_name = "SECONDS")]
    min_running: Option<u64>,
    /// It is warm at least so long before it is put to sleep
    #[arg(long, value_name = "SECONDS")]
    min_warm: Option<u64>,
    /// What people have open in a guest may go on for so long before the agent takes it down
    #[arg(long, value_name = "SECONDS")]
    drain_timeout: Option<u64>,
    /// A guest may take so long to turn itself off; then its VM is ended
    #[arg(long, value_name = "SECONDS")]
    graceful_shutdown: Option<u64>,
    /// Whether its instances stay in memory
    #[arg(long)]
    pinned: Option<bool>,
    /// Whether its instances are never taken down
    #[arg(long)]
    critical: Option<bool>,
    /// The secrets its instances see, by name or its beginning (slack for SLACK_TOKEN), with commas
    /// between; 'all' for every one
    #[arg(long, value_name = "NAMES", value_parser = scopes)]
    secret_scopes: Option<Setting<Vec<String>>>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<Setting<u64>, String> {
    match text {
        "never" => Ok(Setting::Clear),
        number => number.parse().map(Setting::Set).map_err(|_| "write seconds, or never".into()),
    }
}

fn scopes(text: &str) -> Result<Setting<Vec<String>>, String> {
    Ok(match text {
        "all" => Setting::Clear,
        names => {
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            Setting::Set(names.map(str::to_owned).collect())
        }
    })
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("pool update", form, |session| update(session, args))
}

async fn update(session: Session, args: Args) -> Result<ExitCode> {
    let change = PoolUpdate {
        image: image(&args)?,
        vcpus: args.cpus,
        mem_mib: args.mem,
        data_disk_mib: args.data_disk,
        warm_after_seconds: args.warm_after.unwrap_or_default(),
        sleep_after_seconds: args.sleep_after.unwrap_or_default(),
        keep_running: args.keep_running,
        keep_warm: args.keep_warm,
        min_running_seconds: args.min_running,
        min_warm_seconds: args.min_warm,
        drain_timeout_seconds: args.drain_timeout,
        graceful_shutdown_seconds: args.graceful_shutdown,
        pinned: args.pinned,
        critical: args.critical,
        secret_scopes: args.secret_scopes.unwrap_or_default(),
    };
    if change == PoolUpdate::default() {
        return Err(Error::new(Kind::Invalid, &args.pool, "nothing to change was given")
            .hint("see 'mvm pool update --help'"));
    }
    let updated = session.call(UpdatePool { pool: args.pool, update: change }).await?;
    match session.form {
        Form::Json => output::json(&updated)?,
        Form::People => {
            output::line(&format!("pool {} updated", updated.record.path()))?;
            updated.notes.iter().for_each(|note| talk::say(format_args!("note: {note}")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where its image comes from now, if that is to change.
fn image(args: &Args) -> Result<Option<ImageSource>> {
    let Some(profile) = &args.profile else { return Ok(None) };
    match &args.flake {
        Some(typed) => {
            let (kept, _) = reference(typed).map_err(|error| error.of(&args.pool))?;
            Ok(Some(ImageSource::flake(kept, profile.clone())))
        }
        None => match profile.as_str().parse::<Profile>() {
            Ok(profile) => Ok(Some(ImageSource::embedded(profile))),
            Err(error) => Err(Error::new(Kind::Invalid, &args.pool, error.to_string())
                .hint("choose one of them, or name the flake that has it: --flake REF")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_can_be_taken_away() {
        assert_eq!(time("never"), Ok(Setting::Clear));
        assert_eq!(time("90"), Ok(Setting::Set(90)));
        assert!(time("soon").is_err());
    }

    #[test]
    fn scopes_are_all_some_or_none() {
        assert_eq!(scopes("all"), Ok(Setting::Clear));
        assert_eq!(scopes("slack, pg"), Ok(Setting::Set(vec!["slack".into(), "pg".into()])));
        assert_eq!(scopes(""), Ok(Setting::Set(vec![])));
    }
}
