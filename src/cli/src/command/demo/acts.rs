//! The acts of the demo. Each does one thing through the service, as any user would, and checks
//! what it claims.

use std::time::Duration;

use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::guest::Captured;
use mvm_agent::pool::{NewPool, Scale};
use mvm_agent::tenant::NewTenant;
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::record::InstanceRecord;
use mvm_model::resources::Resources;
use mvm_model::state::Verb;
use mvm_model::{PoolPath, TenantName};

use super::report::Done;
use super::tenants;
use crate::command::dev::exists_already;
use crate::output;
use crate::progress::Step;
use crate::runtime::Context;

const GATEWAY: Resources = Resources { vcpus: 1, mem_mib: 128, data_disk_mib: 0 };
const WORKER: Resources = Resources { vcpus: 1, mem_mib: 128, data_disk_mib: 64 };

/// The pools of each tenant.
pub const POOLS: [&str; 2] = ["gateways", "workers"];
/// How long one command in a guest may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who plays: the instances of both tenants.
pub struct Cast {
    /// Everyone, in boot order.
    all: Vec<InstanceRecord>,
    /// A worker of `demo`, which sleeps and wakes.
    first: InstanceRecord,
    /// Another worker of `demo`.
    second: InstanceRecord,
    /// A worker of `demo-b`.
    stranger: InstanceRecord,
}

/// Creates both tenants with a gateway and a worker pool each.
pub async fn create(context: &Context) -> Result<Done<Cast>> {
    let mut all = Vec::new();
    for (tenant, workers) in tenants().into_iter().zip([2, 1]) {
        exists_already(context.service.create_tenant(NewTenant::named(tenant.clone())).await)?;
        all.extend(pool(context, &tenant, POOLS[0], Role::Gateway, GATEWAY, 1).await?);
        all.extend(pool(context, &tenant, POOLS[1], Role::Worker, WORKER, workers).await?);
    }
    let nets: Vec<_> =
        tenants().iter().filter_map(|name| context.service.tenant(name).ok()).collect();
    let text = nets.iter().map(|net| format!("{} on {}", net.tenant_id, net.network.ipv4_subnet));
    let text = text.collect::<Vec<_>>().join(", ");
    let [_, first, second, _, stranger] = &all[..] else {
        return Err(
            Error::new(Kind::Failed, "demo", "the demo's pools were changed").hint("mvm demo --rm")
        );
    };
    let cast =
        Cast { first: first.clone(), second: second.clone(), stranger: stranger.clone(), all };
    Ok(Done::new(cast, text))
}

async fn pool(
    context: &Context,
    tenant: &TenantName,
    name: &str,
    role: Role,
    resources: Resources,
    count: u32,
) -> Result<Vec<InstanceRecord>> {
    let service = &context.service;
    let pool = name.parse().map_err(|error| Error::new(Kind::Invalid, name, format!("{error}")))?;
    let path = PoolPath { tenant: tenant.clone(), pool };
    let image = ImageSource::embedded(Profile::Minimal);
    exists_already(
        service.create_pool(NewPool { path: path.clone(), image, role, resources }).await,
    )?;
    let step = Step::start(&format!("preparing the image of {path}"));
    service.build_pool(&path, step.sink(), context.cancel.clone()).await?;
    step.done();
    service.scale_pool(&path, Scale { running: Some(count), ..Scale::default() }).await?;
    Ok(service.records.instances(&path).records.into_iter().take(count as usize).collect())
}

/// Boots everyone who does not run, two at a time.
pub async fn boot(context: &Context, cast: &Cast) -> Result<Done<()>> {
    let waiting: Vec<_> =
        cast.all.iter().filter(|record| !context.service.is_running(&record.path())).collect();
    let step = Step::start(&format!("booting {} microVMs", waiting.len()));
    for (index, pair) in waiting.chunks(2).enumerate() {
        let done = index * 2;
        step.show(&mvm_host::progress::Progress {
            what: "booting microVMs".into(),
            done: done as u64,
            total: Some(waiting.len() as u64),
        });
        let start = |record: &InstanceRecord| {
            let (service, path, cancel) =
                (context.service.clone(), record.path(), context.cancel.clone());
            async move { service.change(&path, Verb::Start, &cancel).await }
        };
        match pair {
            [one, two] => {
                let (one, two) = tokio::join!(start(one), start(two));
                one.and(two)?;
            }
            _ => {
                for record in pair {
                    start(record).await?;
                }
            }
        }
    }
    step.done();
    Ok(Done::new(
        (),
        format!("{} booted, {} ran already", waiting.len(), cast.all.len() - waiting.len()),
    ))
}

async fn run(context: &Context, record: &InstanceRecord, command: &[&str]) -> Result<Captured> {
    let path = record.path();
    context.until_interrupted(context.service.exec_captured(&path, command, PATIENCE)).await
}

fn succeeded(output: &Captured) -> bool {
    output.exit.shell_code() == 0
}

/// Everything it printed, as text.
fn text(output: &Captured) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn expect(holds: bool, object: &InstanceRecord, what: &str, output: &Captured) -> Result<()> {
    if holds {
        return Ok(());
    }
    let said = text(output);
    Err(Error::new(
        Kind::Failed,
        object.path(),
        format!("expected {what}; the guest said: {}", said.trim()),
    ))
}

/// Runs a command in a guest.
pub async fn exec(context: &Context, cast: &Cast) -> Result<Done<()>> {
    let output = run(context, &cast.first, &["uname", "-a"]).await?;
    expect(
        succeeded(&output) && text(&output).contains("Linux"),
        &cast.first,
        "uname to answer",
        &output,
    )?;
    Ok(Done::new((), text(&output).trim().to_owned()))
}

fn address(context: &Context, record: &InstanceRecord) -> Result<String> {
    let subnet = context.service.tenant(&record.tenant_id)?.network.ipv4_subnet;
    let address = record
        .address(subnet)
        .map_err(|error| Error::new(Kind::Corrupt, record.path(), error.to_string()))?;
    Ok(address.to_string())
}

async fn ping(context: &Context, from: &InstanceRecord, to: &str) -> Result<Captured> {
    run(context, from, &["ping", "-c", "2", "-W", "2", to]).await
}

/// A worker reaches its neighbour, by address and by name.
pub async fn within(context: &Context, cast: &Cast) -> Result<Done<()>> {
    let (from, to) = (&cast.first, address(context, &cast.second)?);
    let output = ping(context, from, &to).await?;
    expect(succeeded(&output), from, "its neighbour to answer", &output)?;
    let name =
        format!("{}.{}.{}.mvm", cast.second.hostname(), cast.second.pool_id, cast.second.tenant_id);
    let output = ping(context, from, &name).await?;
    expect(succeeded(&output), from, "its neighbour to answer by name", &output)?;
    Ok(Done::new((), format!("{to} answers, also as {name}")))
}

/// A worker does not reach the other tenant, nor its names.
pub async fn across(context: &Context, cast: &Cast) -> Result<Done<()>> {
    let (from, to) = (&cast.first, address(context, &cast.stranger)?);
    let output = ping(context, from, &to).await?;
    expect(!succeeded(&output), from, "the other tenant to be out of reach", &output)?;
    let name = format!(
        "{}.{}.{}.mvm",
        cast.stranger.hostname(),
        cast.stranger.pool_id,
        cast.stranger.tenant_id
    );
    let output = run(context, from, &["nslookup", &name]).await?;
    expect(!text(&output).contains(&to), from, "the other tenant's names to be unknown", &output)?;
    Ok(Done::new((), format!("{to} refused, its name unknown")))
}

/// A worker does not reach the host.
pub async fn to_host(context: &Context, cast: &Cast) -> Result<Done<()>> {
    let gateway =
        context.service.tenant(&cast.first.tenant_id)?.network.ipv4_subnet.gateway().to_string();
    let output = ping(context, &cast.first, &gateway).await?;
    expect(!succeeded(&output), &cast.first, "the host to be out of reach", &output)?;
    Ok(Done::new((), format!("{gateway} refused, but for DNS")))
}

/// Leaves a mark in memory and one on the data drive.
pub async fn leave_marks(context: &Context, cast: &Cast) -> Result<Done<String>> {
    let marker = format!("{:016x}", mvm_agent::service::random::<u64>());
    let script = format!("echo {marker} > /dev/shm/marker && echo {marker} > /data/marker && sync");
    let output = run(context, &cast.first, &["sh", "-c", &script]).await?;
    expect(succeeded(&output), &cast.first, "the marks to be written", &output)?;
    Ok(Done::new(marker.clone(), format!("wrote {marker} to memory and to /data")))
}

async fn change(
    context: &Context,
    record: &InstanceRecord,
    verb: Verb,
    what: &str,
) -> Result<String> {
    let step = Step::start(&format!("{what} {}", record.path()));
    let outcome = context.service.change(&record.path(), verb, &context.cancel).await?;
    step.done();
    let phases = outcome
        .phases
        .iter()
        .map(|phase| format!("{} {}", phase.name, output::duration(phase.took)));
    Ok(phases.collect::<Vec<_>>().join(", "))
}

/// Puts a worker to sleep.
pub async fn sleep(context: &Context, cast: &Cast) -> Result<Done<()>> {
    let phases = change(context, &cast.first, Verb::Sleep, "putting to sleep").await?;
    Ok(Done::new((), phases))
}

/// Wakes it.
pub async fn wake(context: &Context, cast: &Cast) -> Result<Done<()>> {
    let phases = change(context, &cast.first, Verb::Wake, "waking").await?;
    Ok(Done::new((), phases))
}

/// Finds memory, data and address as they were.
pub async fn check_marks(context: &Context, cast: &Cast, marker: &str) -> Result<Done<()>> {
    let output = run(context, &cast.first, &["cat", "/dev/shm/marker", "/data/marker"]).await?;
    expect(
        text(&output).matches(marker).count() == 2,
        &cast.first,
        "both marks to be there",
        &output,
    )?;
    let ip = address(context, &cast.first)?;
    let output = ping(context, &cast.second, &ip).await?;
    expect(succeeded(&output), &cast.first, "its address to be kept", &output)?;
    Ok(Done::new((), format!("memory and /data intact, still {ip}")))
}

/// What to try next.
pub fn what_next(cast: &Cast) {
    let path = cast.first.path();
    println!("\nTry next:");
    for (command, what) in [
        (format!("mvm instance shell {path}"), "a shell in a worker"),
        ("mvm instance list".into(), "everything that runs"),
        (format!("mvm instance sleep {path}"), "put it to sleep; 'wake' brings it back"),
        ("mvm net verify".into(), "prove the isolation again"),
        ("mvm dev".into(), "your own microVM"),
        ("mvm demo --rm".into(), "remove all this"),
    ] {
        println!("  {command:55} {what}");
    }
}
