//! `mvm demo`: the whole story in one command.
//!
//! ```text
//! packages → images → proof → tenants demo, demo-b → boot → exec → network → sleep, wake → table
//! ```
//!
//! Each act checks what it shows; the first that is not as promised fails the demo. What is
//! right already is left as it is, so a second run is quick.

mod acts;
mod report;

use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_model::TenantName;

use crate::command::{as_root, as_root_with_guest, bootstrap};
use crate::runtime::{Context, Form};
use crate::talk;
use report::Report;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Remove what the demo made; packages and the image cache stay
    #[arg(long)]
    rm: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// The two tenants, which must not see each other.
const TENANTS: [&str; 2] = ["demo", "demo-b"];

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    if args.rm {
        return as_root("demo", Form::People, |context| async move { remove(&context).await });
    }
    as_root_with_guest("demo", Form::People, |context| demo(context, args))
}

async fn demo(context: Context, args: Args) -> Result<ExitCode> {
    let mut report = Report::default();
    report.act("host", prepare(&context, args.yes)).await?;
    let cast = report.act("tenants", acts::create(&context)).await?;
    report.act("boot", acts::boot(&context, &cast)).await?;
    report.act("exec", acts::exec(&context, &cast)).await?;
    report.act("within a tenant", acts::within(&context, &cast)).await?;
    report.act("across tenants", acts::across(&context, &cast)).await?;
    report.act("to the host", acts::to_host(&context, &cast)).await?;
    let marker = report.act("before sleep", acts::leave_marks(&context, &cast)).await?;
    report.act("sleep", acts::sleep(&context, &cast)).await?;
    report.act("wake", acts::wake(&context, &cast)).await?;
    report.act("after wake", acts::check_marks(&context, &cast, &marker)).await?;
    report.print()?;
    acts::what_next(&cast);
    Ok(ExitCode::SUCCESS)
}

async fn prepare(context: &Context, yes: bool) -> Result<report::Done<()>> {
    let verdicts = bootstrap::prepare(context, yes.into()).await?;
    // Why the better ones are not used belongs above the table, not into it.
    for refused in verdicts.iter().filter(|verdict| !verdict.is_proven()) {
        talk::say(format_args!("note: {refused}"));
    }
    let text = verdicts.iter().find(|verdict| verdict.is_proven()).map(ToString::to_string);
    Ok(report::Done::new((), text.unwrap_or_default()))
}

async fn remove(context: &Context) -> Result<ExitCode> {
    for name in tenants() {
        refuse_a_persons(context, &name)?;
        match context.service.destroy_tenant(&name).await {
            Ok(()) => println!("tenant {name} destroyed"),
            Err(error) if error.kind == Kind::NotFound => println!("tenant {name} was not there"),
            Err(error) => return Err(error),
        }
    }
    println!(
        "installed packages and the image cache ({}) stay",
        context.service.dirs.cache.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// A tenant of that name with other pools than ours was made by a person: it is not ours to
/// destroy.
fn refuse_a_persons(context: &Context, name: &TenantName) -> Result<()> {
    let pools = context.service.records.pools(name).records;
    match pools.iter().find(|pool| !acts::POOLS.contains(&pool.pool_id.as_str())) {
        None => Ok(()),
        Some(other) => {
            Err(Error::new(Kind::Refused, name, format!("{} is not the demo's", other.path()))
                .hint(format!("mvm tenant destroy {name} --force")))
        }
    }
}

#[expect(clippy::expect_used, reason = "constants that a test parses")]
fn tenants() -> [TenantName; 2] {
    TENANTS.map(|name| name.parse().expect("a valid name"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_demo_tenants_have_valid_names() {
        assert_eq!(super::tenants().map(|name| name.to_string()), super::TENANTS);
    }
}
