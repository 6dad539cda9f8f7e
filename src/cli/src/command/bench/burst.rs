//! Many wakes: fifty at once, and a thousand one after another, through the whole product but for
//! the guest. VMMs are fakes in the real jail of the real jailer, on real bridges, taps and rules.
//!
//! ```text
//!  mvm bench ── mvm __wakes (namespaces of its own) ── 5 tenants of 10 ─┬─ one alone, again and again
//!                                                                       ├─ all 50 at once
//!                                                                       └─ cycles: nothing piles up
//! ```
//!
//! What a fake takes says nothing about Firecracker; what is measured is everything around it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use mvm_agent::driver::Outcome;
use mvm_agent::error::{Error, Kind, Result};
use mvm_agent::pool::{NewPool, Scale};
use mvm_agent::tenant::NewTenant;
use mvm_agent::{Dirs, Service};
use mvm_model::image::{ImageSource, Profile, Role};
use mvm_model::resources::{Quotas, Resources};
use mvm_model::state::Verb;
use mvm_model::{InstancePath, PoolPath, TenantName};
use serde::{Deserialize, Serialize};

use super::fleet::{leave, millis};
use super::series::Series;

/// The hidden half of `mvm` that is this benchmark.
pub const SUBCOMMAND: &str = "__wakes";

const TENANTS: usize = 5;
const PER_TENANT: u32 = 10;
const GIVEN: Resources = Resources { vcpus: 1, mem_mib: 128, data_disk_mib: 16 };
/// How many are brought up or put to sleep at once where that is not what is measured.
const LANES: usize = 4;
/// How often one alone is woken for each round.
const ALONE: u32 = 10;
/// As many VMMs wait as there are instances.
const SETTINGS: &str = r#"{"vmm": "firecracker", "limits": "none",
    "prespawn": {"most": 64, "mem_percent": 50}}"#;

/// What was measured, or why it was not.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wakes {
    /// It was.
    Measured(Box<Figures>),
    /// It cannot be measured here.
    NotMeasured(String),
}

/// Many wakes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// A wake of one alone, milliseconds.
    pub one_ms: Series,
    /// Warm to running, without the VMM's own resume and the guest's answer.
    pub unwarm_ms: Series,
    /// So many at once.
    pub at_once: usize,
    /// How many of them came about, in all rounds.
    pub succeeded: usize,
    /// How many were asked for, in all rounds.
    pub asked: usize,
    /// From the request of all to each one's end, milliseconds.
    pub burst_ms: Series,
    /// 99 of 100 were done by then.
    pub burst_p99_ms: f64,
    /// The same from each one's turn on.
    pub admitted_p99_ms: f64,
    /// `burst_p99_ms` to `one_ms.median`.
    pub burst_ratio: f64,
    /// `admitted_p99_ms` to `one_ms.median`.
    pub admitted_ratio: f64,
    /// How many of the burst's were slow for another reason than their turn.
    pub slow: usize,
    /// What many cycles leave.
    pub cycles: Cycles,
}

/// Sleep and wake, again and again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cycles {
    /// How often.
    pub count: u32,
    /// A whole cycle, milliseconds.
    pub cycle_ms: Series,
    /// Before the first.
    pub before: Held,
    /// After the last.
    pub after: Held,
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Open descriptors of this process.
    pub descriptors: usize,
    /// Its resident memory, KiB.
    pub resident_kib: u64,
    /// Processes of VMs: supervisors and VMMs.
    pub processes: usize,
    /// Jails.
    pub jails: usize,
    /// Bytes allocated below the state directory, MiB.
    pub state_mib: u64,
}

fn failed(doing: &str, error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Failed, "bench", format!("cannot {doing}")).because(error.to_string())
}

/// Measures in a process of its own.
///
/// # Errors
/// What that process said.
pub async fn measure(service: &Service, rounds: u32, cycles: u32) -> Result<Wakes> {
    let programs = match programs(&service.exe) {
        Ok(programs) => programs,
        Err(reason) => return Ok(Wakes::NotMeasured(reason)),
    };
    let plan = Plan { programs, cache: service.dirs.cache.clone(), rounds, cycles };
    let plan = serde_json::to_string(&plan).map_err(|error| failed("say what to do", error))?;
    let mut command = tokio::process::Command::new(&service.exe);
    command.arg(SUBCOMMAND).arg(plan).stdin(Stdio::null());
    let output = command.output().await.map_err(|error| failed("start it", error))?;
    if !output.status.success() {
        return Err(failed("wake many", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed("read what it measured", error))
}

/// What the hidden half is told.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    programs: (PathBuf, PathBuf),
    cache: PathBuf,
    rounds: u32,
    cycles: u32,
}

/// The fake, built in a checkout, and a jailer.
fn programs(exe: &Path) -> std::result::Result<(PathBuf, PathBuf), String> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let fake = var("MVM_FAKE_FIRECRACKER").or_else(|| {
        let target = exe.parent()?.parent()?;
        let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        Some(target.join(triple).join("debug/mvm-fake-firecracker"))
    });
    let cache = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    let jailer = var("MVM_JAILER").or_else(|| Some(cache?.join("mvm-test/bin/jailer")));
    let there = |path: Option<PathBuf>, hint: &str| {
        path.filter(|path| path.is_file()).ok_or_else(|| hint.to_owned())
    };
    let fake = there(
        fake,
        "no fake is built (cargo build -p mvm-fake --target <arch>-unknown-linux-musl)",
    )?;
    Ok((fake, there(jailer, "Firecracker's jailer is not installed")?))
}

/// The hidden half: leaves the machine's namespaces, measures, prints [`Wakes`] as JSON.
pub fn main(mut args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    match run(&args.next().unwrap_or_default().to_string_lossy()) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &str) -> std::result::Result<String, String> {
    let plan = serde_json::from_str(plan).map_err(|error| error.to_string())?;
    leave()?;
    // As many threads as an agent has.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build();
    let measured = runtime.map_err(|error| error.to_string())?.block_on(measure_here(plan))?;
    serde_json::to_string(&measured).map_err(|error| error.to_string())
}

async fn measure_here(plan: Plan) -> std::result::Result<Wakes, String> {
    let root = tempfile::tempdir_in("/var/tmp").map_err(|error| error.to_string())?;
    // Records and sockets are in memory, as a host's are.
    let run = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(root.path()));
    let run = run.map_err(|error| error.to_string())?;
    let fleet = Fleet::open(root.path(), run.path(), &plan).map_err(|error| error.chain())?;
    let measured = match fleet.populate().await {
        Ok(()) => fleet.measure(&plan).await,
        Err(error) => Err(error),
    };
    // Also after a failure: what runs would run on.
    for tenant in fleet.service.records.tenants().records {
        fleet.service.destroy_tenant(&tenant.tenant_id).await.map_err(|error| error.chain())?;
    }
    measured.map(|figures| Wakes::Measured(Box::new(figures))).map_err(|error| error.chain())
}

struct Fleet {
    service: Service,
}

impl Fleet {
    fn open(root: &Path, run: &Path, plan: &Plan) -> Result<Self> {
        let (base, run, cache) = (root.to_owned(), run.to_owned(), plan.cache.clone());
        let dirs = Dirs::from_env(move |name| match name {
            "MVM_CACHE_DIR" => Some(cache.clone().into()),
            "MVM_RUN_DIR" => Some(run.clone().into()),
            name => Some(base.join(name).into()),
        });
        let set_up = || {
            fs::create_dir_all(&dirs.config)?;
            fs::write(dirs.config.join("host.json"), SETTINGS)?;
            fs::create_dir_all(dirs.bin())?;
            fs::copy(&plan.programs.0, dirs.bin().join("firecracker"))?;
            fs::copy(&plan.programs.1, dirs.bin().join("jailer"))
        };
        set_up().map_err(|error| failed("prepare a host", error))?;
        let exe = std::env::current_exe().map_err(|error| failed("find mvm", error))?;
        Ok(Self { service: Service::open(dirs, exe, "mvm bench".into())? })
    }

    async fn populate(&self) -> Result<()> {
        let bad = |error: mvm_model::name::BadName| failed("name it", error);
        for number in 0..TENANTS {
            let name: TenantName = format!("tenant-{number}").parse().map_err(bad)?;
            let quotas = Quotas { max_running: 100, max_vcpus: 100, ..Quotas::default() };
            let new = NewTenant { quotas, ..NewTenant::named(name.clone()) };
            self.service.create_tenant(new).await?;
            let path = PoolPath { tenant: name, pool: "workers".parse().map_err(bad)? };
            let image = ImageSource::embedded(Profile::Minimal);
            let new = NewPool { path: path.clone(), image, role: Role::Worker, resources: GIVEN };
            self.service.create_pool(new).await?;
            self.service.build_pool(&path, Arc::new(|_| ()), Arc::default()).await?;
            let running = Some(PER_TENANT);
            self.service.scale_pool(&path, Scale { running, ..Scale::default() }).await?;
        }
        self.all(Verb::Start, LANES).await.map(drop)
    }

    fn instances(&self) -> Vec<InstancePath> {
        // One of each tenant, then the next of each: as requests come.
        let mut all = self.service.records.all_instances().records;
        all.sort_by_key(|record| (record.offset, record.net_id));
        all.iter().map(|record| record.path()).collect()
    }

    /// Takes all of them through a transition, so many at once; each one's time and outcome.
    async fn all(&self, verb: Verb, lanes: usize) -> Result<Vec<(Duration, Outcome)>> {
        let began = Instant::now();
        let lanes = Arc::new(tokio::sync::Semaphore::new(lanes));
        let tasks = self.instances().into_iter().map(|path| {
            let (service, lanes) = (self.service.clone(), lanes.clone());
            tokio::spawn(async move {
                let _lane = lanes.acquire().await;
                let outcome = change(&service, &path, verb).await?;
                Ok::<_, Error>((began.elapsed(), outcome))
            })
        });
        let mut done = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            done.push(task.await.map_err(|error| failed("wait for it", error))??);
        }
        Ok(done)
    }

    async fn measure(&self, plan: &Plan) -> Result<Figures> {
        let (mut one, mut unwarm) = (Vec::new(), Vec::new());
        let (mut burst, mut admitted, mut slow, mut asked) = (Vec::new(), Vec::new(), 0, 0);
        let first = self.instances().into_iter().next();
        let first = first.ok_or_else(|| failed("find an instance", "there is none"))?;
        for _ in 0..plan.rounds.min(3) {
            for _ in 0..ALONE {
                self.alone(&first, &mut one, &mut unwarm).await?;
            }
            self.all(Verb::Sleep, LANES).await?;
            asked += self.instances().len();
            for (took, outcome) in self.all(Verb::Wake, usize::MAX >> 4).await? {
                burst.push(millis(took));
                admitted.push(millis(took.saturating_sub(turn(&outcome))));
                slow += usize::from(outcome.slow.iter().any(|reason| !reason.contains("turn")));
            }
        }
        let one_ms = Series::of(one);
        let (burst_p99_ms, admitted_p99_ms) = (p99(&burst), p99(&admitted));
        Ok(Figures {
            at_once: TENANTS * PER_TENANT as usize,
            succeeded: burst.len(),
            asked,
            burst_p99_ms,
            admitted_p99_ms,
            burst_ratio: burst_p99_ms / one_ms.median,
            admitted_ratio: admitted_p99_ms / one_ms.median,
            unwarm_ms: Series::of(unwarm),
            burst_ms: Series::of(burst),
            one_ms,
            slow,
            cycles: self.cycles(plan.cycles).await?,
        })
    }

    async fn alone(
        &self,
        path: &InstancePath,
        one: &mut Vec<f64>,
        unwarm: &mut Vec<f64>,
    ) -> Result<()> {
        change(&self.service, path, Verb::Warm).await?;
        let began = Instant::now();
        let outcome = change(&self.service, path, Verb::Wake).await?;
        let others = outcome.phases.iter().filter(|phase| matches!(phase.name, "resume" | "guest"));
        let others: Duration = others.map(|phase| phase.took).sum();
        unwarm.push(millis(began.elapsed().saturating_sub(others)));
        change(&self.service, path, Verb::Sleep).await?;
        let began = Instant::now();
        change(&self.service, path, Verb::Wake).await?;
        one.push(millis(began.elapsed()));
        Ok(())
    }

    /// Sleep and wake until there were so many, a few at once; what is held before and after.
    async fn cycles(&self, count: u32) -> Result<Cycles> {
        let all: Vec<_> = self.instances().into_iter().take(LANES).collect();
        let mut times = Vec::new();
        // Caches and pools of threads are filled by then.
        self.turn_of_cycles(&all, &mut Vec::new()).await?;
        let before = self.held();
        while times.len() < count as usize {
            self.turn_of_cycles(&all, &mut times).await?;
        }
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
        Ok(Cycles { count, cycle_ms: Series::of(times), before, after: self.held() })
    }

    async fn turn_of_cycles(&self, all: &[InstancePath], times: &mut Vec<f64>) -> Result<()> {
        let cycle = |path: &InstancePath| {
            let (service, path) = (self.service.clone(), path.clone());
            tokio::spawn(async move {
                let began = Instant::now();
                change(&service, &path, Verb::Sleep).await?;
                change(&service, &path, Verb::Wake).await?;
                Ok::<_, Error>(millis(began.elapsed()))
            })
        };
        for task in all.iter().map(cycle).collect::<Vec<_>>() {
            times.push(task.await.map_err(|error| failed("wait for it", error))??);
        }
        Ok(())
    }

    fn held(&self) -> Held {
        let count = |dir: &Path| fs::read_dir(dir).into_iter().flatten().count();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        let jails = self.service.dirs.jails().join("firecracker");
        let state_mib = mvm_host::file::allocated_bytes(&self.service.dirs.tenants()) >> 20;
        Held {
            descriptors: count(Path::new("/proc/self/fd")),
            resident_kib: resident.unwrap_or(0),
            processes: processes(&self.service.dirs.run, &jails),
            jails: count(&jails),
            state_mib,
        }
    }
}

/// Processes of this fleet's VMs, which name nothing: a supervisor has its log open below the run
/// directory, a VMM its own in its jail.
fn processes(run: &Path, jails: &Path) -> usize {
    let of_ours = |pid: &Path| {
        let log = fs::read_link(pid.join("fd/2")).unwrap_or_default();
        log.starts_with(run) || log.starts_with(jails)
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter(|entry| of_ours(&entry.path())).count()
}

async fn change(service: &Service, path: &InstancePath, verb: Verb) -> Result<Outcome> {
    static NEVER: AtomicBool = AtomicBool::new(false);
    service.change(path, verb, &NEVER).await
}

fn turn(outcome: &Outcome) -> Duration {
    let turns = outcome.phases.iter().filter(|phase| phase.name == "turn");
    turns.map(|phase| phase.took).sum()
}

/// 99 of 100 are not larger.
fn p99(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_the_second_largest_is_p99() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(p99(&hundred), 99.0);
        assert_eq!(p99(&hundred[..50]), 50.0);
        assert_eq!(p99(&[]), 0.0);
    }
}
