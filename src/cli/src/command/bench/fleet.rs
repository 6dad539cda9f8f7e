//! A fleet of pretended VMs: what looking at hundreds of instances costs.
//!
//! ```text
//!  mvm bench ── mvm __fleet (namespaces of its own) ─┬─ 200 instances: real bridges, taps and
//!                                                    │  rules, a sleeping process each: reconcile,
//!                                                    │  and an agent killed and started again
//!                                                    └─ 1,000 records: `mvm instance list`
//! ```
//!
//! The processes are no VMs and answer nobody: looking at instances is what is measured, never
//! starting them. Directories and namespaces go with the process.

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mvm_agent::error::{About, Error, Kind, Result};
use mvm_agent::pool::{NewPool, Scale};
use mvm_agent::reconcile::Options;
use mvm_agent::tenant::NewTenant;
use mvm_agent::{Dirs, Service};
use mvm_host::net::{Isolation, Port};
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::record::{InstanceRecord, TenantRecord};
use mvm_model::resources::{Quotas, Resources};
use mvm_model::state::{State, VmRef};
use mvm_model::vm::{Accel, Vmm, VmmKind};
use mvm_model::{Digest, PoolPath};
use mvm_vmm::process;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::series::Series;

/// The hidden half of `mvm` that is this benchmark.
pub const SUBCOMMAND: &str = "__fleet";

/// Instances that are reconciled.
const RECONCILED: usize = 200;
/// Instances that are listed.
const LISTED: usize = 1000;
/// Instances of one pool.
const PER_POOL: usize = 25;
const GIVEN: Resources = Resources { vcpus: 1, mem_mib: 128, data_disk_mib: 0 };

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// Instances that were reconciled: running, with taps and rules.
    pub reconciled: usize,
    /// A reconcile that finds nothing to do, milliseconds.
    pub reconcile_noop_ms: Series,
    /// CPU one takes, its `nft` included, milliseconds.
    pub reconcile_cpu_ms: Series,
    /// Resident memory after them, KiB.
    pub resident_kib: u64,
    /// From the start of an agent, after one that was killed, until all instances were known to
    /// run as before, milliseconds.
    pub adopted_ms: Series,
    /// Instances that were listed.
    pub listed: usize,
    /// `mvm instance list --json`, from start to end, milliseconds.
    pub list_ms: Series,
}

/// Measures in a process of its own.
///
/// # Errors
/// What that process said.
pub async fn measure(exe: &Path, rounds: u32) -> Result<Figures> {
    let failed = |error: std::io::Error| {
        Error::new(Kind::Failed, "", "cannot measure a pretended fleet").because(error)
    };
    let mut command = tokio::process::Command::new(exe);
    command.arg(SUBCOMMAND).arg(rounds.to_string()).stdin(Stdio::null());
    let output = command.kill_on_drop(true).output().await.map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::new(Kind::Failed, "", "cannot measure a pretended fleet").because(said));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.into()))
}

/// The hidden half: leaves the machine's namespaces, measures, prints [`Figures`] as JSON.
pub fn main(mut args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let rounds = args.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(5);
    let figures = leave().and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(async {
            let root = tempfile::tempdir().map_err(|error| error.to_string())?;
            run(root.path(), rounds).await.map_err(|error| error.chain())
        })
    });
    match figures {
        Ok(figures) => {
            println!("{}", serde_json::to_string(&figures).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Network and mounts of our own.
pub(super) fn leave() -> Result<(), String> {
    let none: Option<&str> = None;
    let set = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, set, none))
        .and_then(|()| mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none))
        .map_err(|error| format!("cannot have namespaces of our own: {error}"))
}

async fn run(root: &Path, rounds: u32) -> Result<Figures> {
    let sleepers = Sleepers::start(RECONCILED)?;
    let service = service(&root.join("reconciled"))?;
    populate(&service, RECONCILED, &sleepers, Network::Real).await?;
    let (mut walls, mut cpus) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (cpu, started) = (cpu_time(), Instant::now());
        noop(&service).await?;
        // The first one fills caches.
        if round > 0 {
            walls.push(millis(started.elapsed()));
            cpus.push(millis(cpu_time().saturating_sub(cpu)));
        }
    }
    let resident_kib = resident_kib();
    let adopted = super::adopt::measure(&service, rounds)?;
    let listed = self::service(&root.join("listed"))?;
    populate(&listed, LISTED, &sleepers, Network::Recorded).await?;
    Ok(Figures {
        reconciled: RECONCILED,
        reconcile_noop_ms: Series::of(walls),
        reconcile_cpu_ms: Series::of(cpus),
        resident_kib,
        adopted_ms: Series::of(adopted),
        listed: LISTED,
        list_ms: Series::of(list(&listed, rounds)?),
    })
}

fn service(root: &Path) -> Result<Service> {
    let base = root.to_owned();
    let exe = std::env::current_exe().map_err(|error| {
        Error::new(Kind::Failed, "", "cannot find the mvm binary").because(error)
    })?;
    let dirs = Dirs::from_env(move |name| Some(base.join(name).into()));
    Service::open(dirs, exe, "mvm bench".into())
}

/// What of a pretended fleet's network is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// Bridges, taps and rules.
    Real,
    /// Records only.
    Recorded,
}

async fn populate(
    service: &Service,
    count: usize,
    sleepers: &Sleepers,
    network: Network,
) -> Result<()> {
    let mut place = 0;
    for tenant in 0..count / PER_POOL {
        let tenant = add_tenant(service, tenant, network).await?;
        let path = add_pool(service, &tenant).await?;
        for mut record in service.records.instances(&path).records {
            record.state = State::Running { vm: sleepers.vm(place)? };
            record.revision = Some(Digest::of(b"pretended"));
            service.records.put_instance(&record)?;
            if network == Network::Real {
                let port = port(&tenant, &record);
                service.net().await?.ensure_port(&port).await.about(record.path(), "make a tap")?;
            }
            place += 1;
        }
    }
    Ok(())
}

async fn add_tenant(service: &Service, number: usize, network: Network) -> Result<TenantRecord> {
    let name = format!("tenant-{number}");
    let bad = |error: String| Error::new(Kind::Invalid, "mvm bench", error);
    let quotas = Quotas { max_running: 1000, max_vcpus: 1000, ..Quotas::default() };
    let new = NewTenant {
        quotas,
        ..NewTenant::named(name.parse().map_err(|error| bad(format!("{error}")))?)
    };
    match network {
        Network::Real => service.create_tenant(new).await,
        Network::Recorded => {
            let id = u16::try_from(number + 1).unwrap_or(u16::MAX);
            let id = mvm_model::NetId::new(id).map_err(|error| bad(error.to_string()))?;
            let subnet = id.default_subnet();
            let json = serde_json::json!({ "schema_version": 1, "tenant_id": new.name,
                "quotas": quotas, "created_at": 1,
                "network": { "tenant_net_id": id, "ipv4_subnet": subnet } });
            let record = serde_json::from_value(json).map_err(|error| bad(error.to_string()))?;
            service.records.put_tenant(&record).map(|()| record)
        }
    }
}

async fn add_pool(service: &Service, tenant: &TenantRecord) -> Result<PoolPath> {
    let pool = "workers".parse().map_err(|error: mvm_model::name::BadName| {
        Error::new(Kind::Invalid, "mvm bench", error.to_string())
    })?;
    let path = PoolPath { tenant: tenant.tenant_id.clone(), pool };
    let image = ImageSource::embedded(Profile::Minimal);
    let new = NewPool { path: path.clone(), image, role: Role::Worker, resources: GIVEN };
    service.create_pool(new).await?;
    let running = u32::try_from(PER_POOL).ok();
    service.scale_pool(&path, Scale { running, ..Scale::default() }).await?;
    let mut record = service.pool(&path)?;
    record.current = Some(Digest::of(b"pretended"));
    service.records.put_pool(&record)?;
    Ok(path)
}

fn port(tenant: &TenantRecord, record: &InstanceRecord) -> Port {
    Port {
        net_id: record.net_id,
        subnet: tenant.network.ipv4_subnet,
        offset: record.offset,
        owner_uid: Some(record.uid),
        isolation: Isolation::Shared,
    }
}

async fn noop(service: &Service) -> Result<()> {
    let silent: mvm_agent::build::SharedSink = Arc::new(|_| ());
    let report = service.reconcile(None, Options::default(), &silent, &Arc::default()).await?;
    if report.converged && report.done.is_empty() {
        return Ok(());
    }
    let text = format!("there was something to do: {report:?}");
    Err(Error::new(Kind::Failed, "mvm bench", text))
}

fn list(service: &Service, rounds: u32) -> Result<Vec<f64>> {
    let failed = |text: String| Error::new(Kind::Failed, "mvm bench", text);
    let mut times = Vec::new();
    for round in 0..=rounds {
        let mut command = Command::new(&service.exe);
        command.args(["instance", "list", "--json"]).stdin(Stdio::null());
        command.env("MVM_STATE_DIR", &service.dirs.state).env("MVM_RUN_DIR", &service.dirs.run);
        let started = Instant::now();
        let output = command.output().map_err(|error| failed(error.to_string()))?;
        let took = millis(started.elapsed());
        let rows: Vec<serde_json::Value> =
            serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
        if rows.len() != LISTED {
            return Err(failed(format!("{} of {LISTED} instances were listed", rows.len())));
        }
        if round > 0 {
            times.push(took);
        }
    }
    Ok(times)
}

/// Processes that stand for VMs.
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn start(count: usize) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(Kind::Failed, "mvm bench", "cannot start processes").because(error)
        };
        let mut sleepers = Self(Vec::new());
        for _ in 0..count {
            // They end by themselves, should nobody end them.
            let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn();
            sleepers.0.push(child.map_err(failed)?);
        }
        Ok(sleepers)
    }

    /// The pretended VM at a place; places beyond the processes share them.
    fn vm(&self, place: usize) -> Result<VmRef> {
        let child = &self.0[place % self.0.len()];
        let process = process::identify(child.id()).map_err(|error| {
            Error::new(Kind::Failed, "mvm bench", "a process ended").because(error)
        })?;
        let vmm = Vmm { kind: VmmKind::Qemu, accel: Accel::Tcg, version: "pretended".into() };
        Ok(VmRef { process, vmm, resumed_from: None })
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// CPU this process and those it waited for took so far.
fn cpu_time() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let of = |who| {
        let usage = getrusage(who).ok()?;
        let spent = usage.user_time() + usage.system_time();
        u64::try_from(spent.num_microseconds()).ok()
    };
    let spent = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].into_iter().filter_map(of);
    Duration::from_micros(spent.sum())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
