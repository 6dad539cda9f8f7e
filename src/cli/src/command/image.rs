//! `mvm image …`: the revisions in the image store.

use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};
use mvm_agent::error::{About, Result};
use mvm_host::packages::Control;

use crate::command::as_root;
use crate::output;
use crate::runtime::{Context, Form};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List image revisions
    List(ListArgs),
    /// Remove revisions no pool and no instance needs
    Gc(GcArgs),
}

/// Arguments of `list`.
#[derive(Debug, ClapArgs)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `gc`.
#[derive(Debug, ClapArgs)]
pub struct GcArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a verb.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::List(args) => as_root("image list", args.json.into(), list),
        Command::Gc(args) => as_root("image gc", args.json.into(), gc),
    }
}

async fn list(context: Context) -> Result<ExitCode> {
    let revisions = context.service.images()?.list().about("", "list image revisions")?;
    let needed = context.service.needed_revisions();
    if context.form == Form::Json {
        let row = |revision: &mvm_host::image::Revision| {
            serde_json::json!({
                "digest": revision.digest,
                "manifest": revision.manifest,
                "needed": needed.contains(&revision.digest),
            })
        };
        output::json(&revisions.iter().map(row).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = revisions.iter().map(|revision| {
        let manifest = &revision.manifest;
        let files = manifest.arch.values().next();
        let size =
            files.map_or(0, |files| files.kernel.size + files.initrd.size + files.rootfs.size);
        vec![
            revision.digest.short().to_owned(),
            manifest.profile.to_string(),
            manifest.role.to_string(),
            manifest.builder.clone(),
            files.map_or_else(String::new, |files| files.kernel_release.clone()),
            output::bytes(size),
            if needed.contains(&revision.digest) { "in use".into() } else { "free".into() },
        ]
    });
    let header = ["revision", "profile", "role", "builder", "kernel", "size", "use"];
    output::table(&header, rows.collect(), "no images; 'mvm pool build' makes one")?;
    Ok(ExitCode::SUCCESS)
}

async fn gc(context: Context) -> Result<ExitCode> {
    let keep = context.service.needed_revisions();
    let silent = |_| ();
    let freed = context
        .service
        .images()?
        .gc(&keep, Control::new(&silent, &context.cancel))
        .about("", "remove unneeded image revisions")?;
    match context.form {
        Form::Json => output::json(
            &serde_json::json!({ "revisions": freed.revisions, "bytes": freed.bytes }),
        )?,
        Form::People => {
            output::line(&format!(
                "{} revisions removed, {} freed",
                freed.revisions.len(),
                output::bytes(freed.bytes)
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
