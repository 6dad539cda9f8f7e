//! `mvm tenant list`

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::Result;
use mvm_api::tenant::{List, View};

use crate::command::in_session;
use crate::output;
use crate::runtime::Form;
use crate::session::{Session, warn_of};

/// Arguments.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "DISK is what counts against the tenant's quota: data drives at full size and \
                        snapshots. Images are shared; 'mvm node disk' shows them."
)]
pub struct Args {
    /// Also show tenants that are part of mvm (dev)
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    in_session("tenant list", form, |session| list(session, args))
}

async fn list(session: Session, args: Args) -> Result<ExitCode> {
    let listed = session.call(List {}).await?;
    warn_of(&listed.unreadable);
    let hidden = listed.tenants.iter().any(|view| view.record.builtin) && !args.all;
    let shown = |view: &View| args.all || !view.record.builtin;
    let views: Vec<_> = listed.tenants.into_iter().filter(shown).collect();
    if session.form == Form::Json {
        return output::json(&views).map(|()| ExitCode::SUCCESS);
    }
    let rows = views.iter().map(|view| {
        let network = view.record.network;
        vec![
            view.record.tenant_id.to_string(),
            network.tenant_net_id.to_string(),
            network.ipv4_subnet.to_string(),
            view.pools.to_string(),
            view.instances.to_string(),
            view.usage.running.to_string(),
            output::bytes(view.disk_claim.total()),
        ]
    });
    let header = ["tenant", "net id", "subnet", "pools", "instances", "running", "disk"];
    let nothing = match hidden {
        true => "no tenants but mvm's own (--all); 'mvm tenant create NAME' makes one",
        false => "no tenants; 'mvm tenant create NAME' makes one",
    };
    output::table(&header, rows.collect(), nothing)?;
    Ok(ExitCode::SUCCESS)
}
