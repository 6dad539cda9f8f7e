//! Real guests: each transition phase by phase, beside a bare QEMU, and several wakes at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::pool::NewPool;
use mvm_agent::tenant::NewTenant;
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::record::InstanceRecord;
use mvm_model::resources::Quotas;
use mvm_model::state::Verb;
use mvm_model::{PoolPath, TenantName};
use serde::{Deserialize, Serialize};

use super::bare;
use super::series::Series;
use super::{GUEST, TENANT};
use crate::command::dev::exists_already;
use crate::progress::Step;
use crate::runtime::Context;

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// VMM and accelerator.
    pub vmm: String,
    /// What a guest is given.
    pub guest: String,
    /// Milliseconds by name.
    pub times_ms: BTreeMap<String, Series>,
    /// Pairwise, without unit.
    pub boot_ratio_to_bare: Series,
    /// Size of the guest agent's program.
    pub guest_agent_bytes: u64,
    /// Its resident memory.
    pub guest_agent_resident_kib: u64,
    /// From its start as PID 1.
    pub guest_ready_after_ms: Option<u64>,
    /// Several wakes at once.
    pub at_once: AtOnce,
}

/// Wakes of several guests at the same time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AtOnce {
    /// How many were asked for.
    pub guests: usize,
    /// How many came about.
    pub succeeded: usize,
    /// From the request of all to each one's end, milliseconds.
    pub wake_ms: Series,
}

/// The benchmark's pool, with its image.
pub async fn create_pool(context: &Context) -> Result<PoolPath> {
    let invalid =
        |error: mvm_model::name::BadName| Error::new(Kind::Invalid, TENANT, error.to_string());
    let name: TenantName = TENANT.parse().map_err(invalid)?;
    let path = PoolPath { tenant: name.clone(), pool: "workers".parse().map_err(invalid)? };
    let quotas = Quotas { max_running: 64, max_vcpus: 64, ..Quotas::default() };
    let tenant = NewTenant { quotas, ..NewTenant::named(name) };
    exists_already(context.service.create_tenant(tenant).await)?;
    let image = ImageSource::embedded(Profile::Minimal);
    let pool = NewPool { path: path.clone(), image, role: Role::Worker, resources: GUEST };
    exists_already(context.service.create_pool(pool).await)?;
    let step = Step::start("preparing the image");
    context.service.build_pool(&path, step.sink(), context.cancel.clone()).await?;
    step.done();
    Ok(path)
}

/// Several guests are woken at once.
async fn at_once(context: &Context, pool: &PoolPath, guests: usize) -> Result<AtOnce> {
    let mut all = Vec::new();
    for _ in 0..guests {
        let record = context.service.create_instance(pool, None).await?;
        for verb in [Verb::Start, Verb::Sleep] {
            context.service.change(&record.path(), verb, &context.cancel).await?;
        }
        all.push(record);
    }
    let began = Instant::now();
    let wakes = all.iter().map(|record| {
        let (service, path, cancel) =
            (context.service.clone(), record.path(), context.cancel.clone());
        tokio::spawn(async move {
            let woken = service.change(&path, Verb::Wake, &cancel).await;
            woken.map(|_| began.elapsed().as_secs_f64() * 1000.0)
        })
    });
    let mut times = Vec::new();
    for wake in wakes.collect::<Vec<_>>() {
        match wake.await {
            Ok(Ok(took)) => times.push(took),
            Ok(Err(error)) => eprintln!("a wake failed: {}", error.chain()),
            Err(error) => eprintln!("a wake failed: {error}"),
        }
    }
    for record in all {
        context.service.destroy_instance(&record.path()).await?;
    }
    Ok(AtOnce { guests, succeeded: times.len(), wake_ms: Series::of(times) })
}

/// The times so far, by name.
#[derive(Default)]
struct Times(BTreeMap<String, Vec<f64>>);

impl Times {
    fn add(&mut self, name: impl Into<String>, took: Duration) {
        self.0.entry(name.into()).or_default().push(took.as_secs_f64() * 1000.0);
    }
}

/// Measures so many rounds, and so many guests at once.
///
/// # Errors
/// When a transition fails.
pub async fn measure(
    context: &Context,
    pool: &PoolPath,
    rounds: u32,
    guests: usize,
) -> Result<Figures> {
    let record = &context.service.create_instance(pool, None).await?;
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
    Ok(Figures {
        vmm,
        guest: format!("{} vCPU, {} MiB", GUEST.vcpus, GUEST.mem_mib),
        times_ms: times.0.into_iter().map(|(name, values)| (name, Series::of(values))).collect(),
        boot_ratio_to_bare: Series::of(ratios),
        guest_agent_bytes: bare::guest_agent_bytes(context)?,
        guest_agent_resident_kib,
        guest_ready_after_ms,
        at_once: at_once(context, pool, guests).await?,
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
