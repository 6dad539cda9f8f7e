//! `mvm dev`: your own microVM. Created if absent, started if not, then a shell.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Kind, Result};
use mvm_agent::pool::NewPool;
use mvm_agent::tenant::NewTenant;
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::resources::Resources;
use mvm_model::state::Verb;
use mvm_model::{InstancePath, PoolPath};

use crate::command::instance::{exec, shell};
use crate::command::{as_root, as_root_with_guest, bootstrap, tell_destroyed};
use crate::output;
use crate::progress::Step;
use crate::runtime::{Context, Form};
use crate::session::Session;

/// What the dev microVM is given.
const RESOURCES: Resources = Resources { vcpus: 1, mem_mib: 512, data_disk_mib: 2048 };

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(
    override_usage = "mvm dev [--yes] [-- COMMAND...]\n       mvm dev --rm",
    after_help = "What is kept when it stops is in /data; everything else is memory.\nA command goes after --: mvm dev -- uname -a"
)]
pub struct Args {
    /// Destroy the dev microVM with its data
    #[arg(long, conflicts_with = "command")]
    rm: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Run this in it instead of a shell
    #[arg(last = true)]
    command: Vec<String>,
    /// Start it, open no shell, and print JSON: the instance, as in 'instance list'
    #[arg(long, conflicts_with = "command")]
    json: bool,
}

/// The dev microVM: instance `dev` of pool `vm` of the built-in tenant `dev`.
#[expect(clippy::expect_used, reason = "a constant that a test parses")]
pub fn instance() -> InstancePath {
    "dev/vm/dev".parse().expect("a valid path")
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    if args.rm {
        return as_root("dev", args.json.into(), |context| async move {
            remove(&context, &instance()).await
        });
    }
    as_root_with_guest("dev", args.json.into(), |context| dev(context, args))
}

async fn dev(context: Context, args: Args) -> Result<ExitCode> {
    let path = instance();
    ensure_running(&context, &path, args.yes).await?;
    if context.form == Form::Json {
        let record = context.service.instance(&path)?;
        return output::json(&context.service.view(&record)).map(|()| ExitCode::SUCCESS);
    }
    if args.command.is_empty() {
        shell::open(&Session::from(&context), &path).await
    } else {
        exec::execute(&Session::from(&context), &path, args.command).await
    }
}

async fn remove(context: &Context, path: &InstancePath) -> Result<ExitCode> {
    match context.service.destroy_tenant(&path.pool.tenant).await {
        Ok(()) if context.form == Form::Json => tell_destroyed(Form::Json, "", path),
        Ok(()) => output::line("dev microVM destroyed").map(|()| ExitCode::SUCCESS),
        Err(error) if error.kind == Kind::NotFound && context.form == Form::Json => {
            output::json(&None::<()>).map(|()| ExitCode::SUCCESS)
        }
        Err(error) if error.kind == Kind::NotFound => {
            output::line("there is no dev microVM").map(|()| ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
    }
}

async fn ensure_running(context: &Context, path: &InstancePath, yes: bool) -> Result<()> {
    let service = &context.service;
    if service.is_running(path) {
        return Ok(());
    }
    bootstrap::prepare(context, yes.into()).await?;
    create(context, path).await?;
    let step = Step::start("starting the dev microVM");
    service.change(path, Verb::Start, &context.cancel).await?;
    step.done();
    Ok(())
}

async fn create(context: &Context, path: &InstancePath) -> Result<()> {
    let service = &context.service;
    let PoolPath { tenant, .. } = &path.pool;
    exists_already(
        service
            .create_tenant(NewTenant { builtin: true, ..NewTenant::named(tenant.clone()) })
            .await,
    )?;
    let image = ImageSource::embedded(Profile::Minimal);
    let new = NewPool { path: path.pool.clone(), image, role: Role::Worker, resources: RESOURCES };
    exists_already(service.create_pool(new).await)?;
    let step = Step::start("preparing the image");
    service.build_pool(&path.pool, step.sink(), context.cancel.clone()).await?;
    step.done();
    if let mvm_model::id::InstanceRef::Name(name) = &path.instance {
        exists_already(service.create_instance(&path.pool, Some(name.clone())).await)?;
    }
    Ok(())
}

/// Takes "exists already" as done.
pub fn exists_already<T>(result: Result<T>) -> Result<()> {
    match result {
        Err(error) if error.kind == Kind::Conflict && error.message.contains("exists already") => {
            Ok(())
        }
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_dev_instance_has_a_valid_path() {
        assert_eq!(super::instance().to_string(), "dev/vm/dev");
    }
}
