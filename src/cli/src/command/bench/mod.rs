//! `mvm bench`: what boot, warm, sleep and wake take on this host, phase by phase, beside the same
//! done without mvm, and what many of them at once take.
//!
//! ```text
//!  guest   real guests: each transition, beside a bare qemu-system; several wakes at once
//!  vmm     a real Firecracker below the guest: a wake beside a script's
//!  wakes   fifty wakes at once and cycles without end, VMMs are fakes
//!  fleet   looking at hundreds of instances, VMs are pretended
//! ```
//!
//! Ours and theirs take turns, so that a machine whose speed drifts slows both; times are medians
//! with minimum and maximum, and what depends on the machine is given as a ratio. `--check` holds
//! the ratios against a recorded run.

mod adopt;
mod bare;
pub mod burst;
mod check;
pub mod fleet;
mod guest;
mod print;
mod series;
mod vmm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};
use mvm_agent::error::{Error, Kind, Result};
use mvm_model::TenantName;
use mvm_model::resources::Resources;
use serde::Serialize;

use crate::command::{as_root, as_root_with_guest, bootstrap};
use crate::output;
use crate::progress::Step;
use crate::runtime::{Context, Form};

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
    /// Measure only this part; all of them without
    #[arg(long)]
    part: Vec<Part>,
    /// How many sleeps and wakes follow each other before it is looked what they left
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    cycles: u32,
    /// How many guests are woken at once
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    guests: u32,
    /// Fail when a ratio is more than a fifth worse than in this file (from `mvm bench --json`)
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    fn measures(&self, part: Part) -> bool {
        self.part.is_empty() || self.part.contains(&part)
    }

    /// Many wakes build theirs where there is no network: all it is made of must be here.
    fn needs_image(&self) -> bool {
        self.measures(Part::Guest) || self.measures(Part::Wakes)
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Real guests
    Guest,
    /// A real Firecracker below the guest
    Vmm,
    /// Many wakes
    Wakes,
    /// Many instances
    Fleet,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Figures {
    machine: String,
    rounds: u32,
    /// What is held against a recorded run.
    ratios: check::Ratios,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    guest: Option<guest::Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vmm_wake: Option<vmm::Wake>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wakes: Option<burst::Wakes>,
    /// Looking at many instances: pretended VMs.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<fleet::Figures>,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    let form = Form::from(args.json);
    match args.needs_image() {
        true => as_root_with_guest("bench", form, |context| bench(context, args)),
        false => as_root("bench", form, |context| bench(context, args)),
    }
}

async fn bench(context: Context, args: Args) -> Result<ExitCode> {
    if args.needs_image() {
        bootstrap::prepare(&context, bootstrap::Consent::Ask).await?;
    }
    let figures = measure(&context, &args).await?;
    match context.form {
        Form::Json => output::json(&figures)?,
        Form::People => print::print(&figures)?,
    }
    args.check.map_or(Ok(()), |file| check::check(&file, &figures.ratios))?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(context: &Context, args: &Args) -> Result<Figures> {
    let facts = mvm_host::facts::Facts::read();
    let mut figures = Figures {
        machine: format!(
            "{}, {} CPUs, {} MiB, Linux {}",
            facts.cpu_class, facts.cpus, facts.mem_mib, facts.kernel
        ),
        rounds: args.rounds,
        ratios: check::Ratios::new(),
        guest: None,
        vmm_wake: None,
        wakes: None,
        fleet: None,
    };
    let service = &context.service;
    if args.measures(Part::Fleet) {
        let step = Step::start("measuring a pretended fleet");
        figures.fleet = Some(fleet::measure(&service.exe, args.rounds).await?);
        step.done();
    }
    if args.measures(Part::Vmm) {
        let step = Step::start("measuring Firecracker below the guest");
        figures.vmm_wake = Some(vmm::measure(&service.exe, args.rounds * 4).await?);
        step.done();
    }
    if args.measures(Part::Wakes) {
        let step = Step::start("measuring many wakes");
        figures.wakes = Some(burst::measure(service, args.rounds, args.cycles).await?);
        step.done();
    }
    if args.measures(Part::Guest) {
        figures.guest = Some(measure_guests(context, args).await?);
    }
    figures.ratios = ratios(&figures);
    Ok(figures)
}

async fn measure_guests(context: &Context, args: &Args) -> Result<guest::Figures> {
    let made = guest::create_pool(context).await;
    let step = Step::start("measuring guests");
    let measured = match made {
        Ok(pool) => guest::measure(context, &pool, args.rounds, args.guests as usize).await,
        Err(error) => Err(error),
    };
    step.done();
    let tenant: TenantName =
        TENANT.parse().map_err(|error| Error::new(Kind::Invalid, TENANT, format!("{error}")))?;
    let removed = context.service.destroy_tenant(&tenant).await;
    measured.and_then(|figures| removed.map(|()| figures))
}

fn ratios(figures: &Figures) -> check::Ratios {
    let mut ratios = check::Ratios::new();
    let mut add = |name: &str, value: f64| {
        ratios.insert(name.to_owned(), value);
    };
    if let Some(guest) = &figures.guest {
        add("boot, to a bare qemu", guest.boot_ratio_to_bare.median);
    }
    if let Some(vmm::Wake::Measured(wake)) = &figures.vmm_wake {
        add("wake in a fresh Firecracker, to a script", wake.fresh_ratio);
        add("wake in a Firecracker that waited, to a script", wake.waited_ratio);
    }
    if let Some(burst::Wakes::Measured(wakes)) = &figures.wakes {
        add("wakes at once, p99 to one alone", wakes.burst_ratio);
        add("wakes at once from their turn on, p99 to one alone", wakes.admitted_ratio);
    }
    ratios
}
