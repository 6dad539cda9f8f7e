//! `mvm bench`: what boot, warm, sleep and wake take on this host, phase by phase, beside a bare
//! `qemu-system` started with the same kernel, initrd, root and command line.
//!
//! A tenant of its own is made and destroyed. Product and bare boots alternate, so that a
//! machine whose speed drifts slows both; times are medians with minimum and maximum, and what
//! depends on the machine is given as a ratio.

mod bare;
pub mod fleet;
mod series;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::pool::NewPool;
use mvm_agent::tenant::NewTenant;
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::record::InstanceRecord;
use mvm_model::resources::Resources;
use mvm_model::state::Verb;
use mvm_model::{PoolPath, TenantName};
use serde::Serialize;

use crate::command::dev::exists_already;
use crate::command::{as_root_with_guest, bootstrap};
use crate::output;
use crate::progress::Step;
use crate::runtime::{Context, Form};
use series::Series;

/// The benchmark's tenant.
const TENANT: &str = "mvm-bench";
/// Small, so that a slow machine can run it; the figures say so.
const GUEST: Resources = Resources { vcpus: 1, mem_mib: 128, data_disk_mib: 64 };

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How often each is measured, after one round that is not counted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Figures {
    machine: String,
    vmm: String,
    guest: String,
    rounds: u32,
    /// Milliseconds by name.
    times_ms: BTreeMap<String, Series>,
    /// Pairwise, without unit.
    boot_ratio_to_bare: Series,
    guest_agent_bytes: u64,
    guest_agent_resident_kib: u64,
    guest_ready_after_ms: Option<u64>,
    /// Looking at many instances: pretended VMs.
    fleet: fleet::Figures,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    as_root_with_guest("bench", form, |context| bench(context, args))
}

async fn bench(context: Context, args: Args) -> Result<ExitCode> {
    bootstrap::prepare(&context, bootstrap::Consent::Ask).await?;
    let measured = create_and_measure(&context, args.rounds).await;
    let tenant: TenantName =
        TENANT.parse().map_err(|error| Error::new(Kind::Invalid, TENANT, format!("{error}")))?;
    let removed = context.service.destroy_tenant(&tenant).await;
    let figures = measured?;
    removed?;
    match context.form {
        Form::Json => output::json(&figures)?,
        Form::People => print(&figures)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create_and_measure(context: &Context, rounds: u32) -> Result<Figures> {
    let record = create(context).await?;
    let step = Step::start("measuring a pretended fleet");
    let fleet = fleet::measure(&context.service.exe, rounds).await?;
    step.done();
    let step = Step::start("measuring");
    let figures = measure(context, &record, rounds, fleet).await;
    step.done();
    figures
}

async fn create(context: &Context) -> Result<InstanceRecord> {
    let invalid =
        |error: mvm_model::name::BadName| Error::new(Kind::Invalid, TENANT, error.to_string());
    let tenant: TenantName = TENANT.parse().map_err(invalid)?;
    let path = PoolPath { tenant: tenant.clone(), pool: "workers".parse().map_err(invalid)? };
    exists_already(context.service.create_tenant(NewTenant::named(tenant)).await)?;
    let image = ImageSource::embedded(Profile::Minimal);
    exists_already(
        context
            .service
            .create_pool(NewPool {
                path: path.clone(),
                image,
                role: Role::Worker,
                resources: GUEST,
            })
            .await,
    )?;
    let step = Step::start("preparing the image");
    context.service.build_pool(&path, step.sink(), context.cancel.clone()).await?;
    step.done();
    context.service.create_instance(&path, None).await
}

/// The times so far, by name.
#[derive(Default)]
struct Times(BTreeMap<String, Vec<f64>>);

impl Times {
    fn add(&mut self, name: impl Into<String>, took: Duration) {
        self.0.entry(name.into()).or_default().push(took.as_secs_f64() * 1000.0);
    }
}

async fn measure(
    context: &Context,
    record: &InstanceRecord,
    rounds: u32,
    fleet: fleet::Figures,
) -> Result<Figures> {
    let (mut times, mut ratios) = (Times::default(), Vec::new());
    let mut found = None;
    for round in 0..=rounds {
        let mut now = Times::default();
        let product = transition(context, record, Verb::Start, "boot", &mut now).await?;
        found = Some(guest_facts(context, record).await?);
        let bare = bare::Bare::like(context, record).await?;
        for (verb, name) in [
            (Verb::Warm, "warm"),
            (Verb::Wake, "unwarm"),
            (Verb::Sleep, "sleep"),
            (Verb::Wake, "wake"),
        ] {
            transition(context, record, verb, name, &mut now).await?;
        }
        transition(context, record, Verb::Stop, "stop", &mut now).await?;
        let bare = bare.boot().await?;
        now.add("boot, bare qemu", bare);
        if round > 0 {
            ratios.push(product.as_secs_f64() / bare.as_secs_f64());
            for (name, values) in now.0 {
                times.0.entry(name).or_default().extend(values);
            }
        }
    }
    let (guest_agent_resident_kib, guest_ready_after_ms, vmm) = found.unwrap_or_default();
    let facts = mvm_host::facts::Facts::read();
    Ok(Figures {
        machine: format!(
            "{}, {} CPUs, {} MiB, Linux {}",
            facts.cpu_class, facts.cpus, facts.mem_mib, facts.kernel
        ),
        vmm,
        guest: format!("{} vCPU, {} MiB", GUEST.vcpus, GUEST.mem_mib),
        rounds,
        times_ms: times.0.into_iter().map(|(name, values)| (name, Series::of(values))).collect(),
        boot_ratio_to_bare: Series::of(ratios),
        guest_agent_bytes: bare::guest_agent_bytes(context)?,
        guest_agent_resident_kib,
        guest_ready_after_ms,
        fleet,
    })
}

/// One transition; returns how long it took from the VM's start to its end.
async fn transition(
    context: &Context,
    record: &InstanceRecord,
    verb: Verb,
    name: &str,
    times: &mut Times,
) -> Result<Duration> {
    let started = Instant::now();
    let outcome = context.service.change(&record.path(), verb, &context.cancel).await?;
    times.add(name, started.elapsed());
    for phase in &outcome.phases {
        times.add(format!("{name}: {}", phase.name), phase.took);
    }
    let vm = outcome.phases.iter().filter(|phase| matches!(phase.name, "spawn" | "guest"));
    Ok(vm.map(|phase| phase.took).sum())
}

async fn guest_facts(
    context: &Context,
    record: &InstanceRecord,
) -> Result<(u64, Option<u64>, String)> {
    use mvm_agent::error::About;
    let client = context.service.guest(&record.path()).await?;
    let status =
        client.status(Duration::from_secs(10)).await.about(record.path(), "ask the guest")?;
    let vmm =
        context.service.view(&context.service.instance(&record.path())?).vmm.unwrap_or_default();
    Ok((status.agent_kib, status.ready_after_ms, vmm))
}

fn print(figures: &Figures) -> Result<()> {
    output::pairs(&[
        ("Machine", figures.machine.clone()),
        ("VMM", figures.vmm.clone()),
        ("Guest", figures.guest.clone()),
        ("Rounds", figures.rounds.to_string()),
        (
            "Guest agent",
            format!(
                "{}, {} KiB resident",
                output::bytes(figures.guest_agent_bytes),
                figures.guest_agent_resident_kib
            ),
        ),
        (
            "PID 1 to ready",
            figures.guest_ready_after_ms.map_or("unknown".into(), |ms| format!("{ms} ms")),
        ),
        ("Boot / bare qemu", figures.boot_ratio_to_bare.to_string()),
    ])?;
    print_fleet(&figures.fleet)?;
    output::line("")?;
    let cell = |value: f64| format!("{value:.1}");
    let row = |(name, series): (&String, &Series)| {
        vec![name.clone(), cell(series.min), cell(series.median), cell(series.max)]
    };
    let header = ["milliseconds", "min", "median", "max"];
    output::table(&header, figures.times_ms.iter().map(row).collect(), "nothing was measured")
}

fn print_fleet(fleet: &fleet::Figures) -> Result<()> {
    output::pairs(&[
        (
            "No-op reconcile",
            format!(
                "{} ms of {} pretended instances (CPU {} ms, {} KiB resident)",
                fleet.reconcile_noop_ms,
                fleet.reconciled,
                fleet.reconcile_cpu_ms,
                fleet.resident_kib
            ),
        ),
        ("Instance list", format!("{} ms of {} instances", fleet.list_ms, fleet.listed)),
    ])
}
