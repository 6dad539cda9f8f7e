//! systemd, asked over D-Bus to run a VM's supervisor and VMM as a unit of their own.
//!
//! ```text
//! StartTransientUnit ─▶ ExecStart: mvm __shim     order on stdin, report on stdout
//!                         └ forks: parent ends when the VMM is up; child supervises, in the unit
//!                       PIDFile: vmm.pid          the VMM is the unit's main process
//! ```
//!
//! The unit ends when the VMM does: systemd then signals what is left of it, the supervisor,
//! which is writing down how it ended. A stop of the unit (its tenant's slice, the host's
//! shutdown) reaches the VMM through its supervisor, because a VMM that is the first process of
//! its namespace never sees a SIGTERM.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_model::vm::ProcessId;
use mvm_model::{InstanceId, NetId};
use serde::Serialize;
use zbus::{Connection, Fd, Message, OwnedObjectPath, OwnedVariant, Type, Variant};

use crate::placement::{Limits, slice_name, unit_name};
use crate::spec::VmSpec;
use crate::supervisor::{ExitKind, PID_FILE};

/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(20);
/// How long an older unit of the same name may take to vanish.
const VANISH: Duration = Duration::from_secs(15);
/// Pause between looks for that.
const LOOK: Duration = Duration::from_millis(10);
/// Given by systemd to a unit whose supervisor does not end with its VM, microseconds.
const STOP_USEC: u64 = 5_000_000;
/// A start that takes longer has failed, microseconds.
const START_USEC: u64 = 60_000_000;
/// Descriptors of a supervisor with all its clients.
const FILES: u64 = 4096;

/// systemd on the bus.
const SERVICE: &str = "org.freedesktop.systemd1";
/// Its root object.
const ROOT: &str = "/org/freedesktop/systemd1";

/// Why systemd did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// It cannot be reached.
    #[error("failed to reach systemd")]
    Connect(#[source] zbus::Error),
    /// It refused.
    #[error("systemd refused to {doing} {unit}")]
    Refused {
        /// A verb.
        doing: &'static str,
        /// The unit.
        unit: String,
        /// Its words.
        #[source]
        source: zbus::Error,
    },
    /// It did not answer, or a unit does not go away.
    #[error("systemd did not {doing} {unit} in time")]
    Late {
        /// A verb.
        doing: &'static str,
        /// The unit.
        unit: String,
    },
    /// The programs' descriptors cannot be passed.
    #[error("failed to prepare {0}")]
    Prepare(String),
}

/// A connection to the system's manager.
#[derive(Debug)]
pub struct Systemd {
    connection: Connection,
}

/// A supervisor to be run as a unit.
#[derive(Debug)]
pub struct Supervisor<'a> {
    /// The VM it will start.
    pub spec: &'a VmSpec,
    /// Whose slice it belongs into.
    pub net: NetId,
    /// The program with its arguments.
    pub command: &'a [String],
    /// Where its order comes from.
    pub stdin: OwnedFd,
    /// Where its report goes.
    pub stdout: OwnedFd,
}

/// A VM's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmUnit {
    /// The instance its name holds.
    pub instance: InstanceId,
    /// Its name.
    pub name: String,
    /// Where its pid is written: in the run directory of who started it.
    pub pid_file: PathBuf,
}

/// What all of them are called.
const UNITS: &str = "mvm-vm-*.service";

/// Name, description, load state, active state, sub state, followed unit, path, job, its type and
/// its path.
type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// The instance a unit is named after, when it is one of a VM's.
fn instance_of_unit(name: &str) -> Option<InstanceId> {
    let instance = name.strip_prefix("mvm-vm-")?.strip_suffix(".service")?.parse().ok()?;
    (unit_name(instance) == name).then_some(instance)
}

/// Whether systemd runs this system; whether it listens to us is seen by [`Systemd::connect`].
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

impl Systemd {
    /// Connects to the system bus.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect() -> Result<Self, SystemdError> {
        let connecting = tokio::time::timeout(ANSWER, Connection::system());
        let connection = connecting.await.map_err(|_| late("answer", "the system bus"))?;
        Ok(Self { connection: connection.map_err(SystemdError::Connect)? })
    }

    async fn call<B>(
        &self,
        doing: &'static str,
        unit: &str,
        (path, interface, method): (&str, &str, &str),
        body: &B,
    ) -> Result<Message, SystemdError>
    where
        B: Serialize + Type + Sync,
    {
        let call = self.connection.call_method(Some(SERVICE), path, Some(interface), method, body);
        match tokio::time::timeout(ANSWER, call).await {
            Ok(answer) => answer.map_err(|source| SystemdError::Refused {
                doing,
                unit: unit.to_owned(),
                source,
            }),
            Err(_) => Err(late(doing, unit)),
        }
    }

    async fn manage<B: Serialize + Type + Sync>(
        &self,
        doing: &'static str,
        unit: &str,
        method: &str,
        body: &B,
    ) -> Result<Message, SystemdError> {
        let manager = (ROOT, "org.freedesktop.systemd1.Manager", method);
        self.call(doing, unit, manager, body).await
    }

    /// Starts a supervisor as a unit; its report says what became of it. A unit an earlier VM of
    /// the instance left is waited for.
    ///
    /// # Errors
    /// [`SystemdError`]; nothing runs then.
    pub async fn start(&self, supervisor: Supervisor<'_>) -> Result<(), SystemdError> {
        let unit = unit_name(supervisor.spec.instance);
        self.vanished(&unit).await?;
        let properties = properties(&supervisor)?;
        let beside: [(&str, Vec<(&str, Variant<'_>)>); 0] = [];
        let body = (unit.as_str(), "fail", properties, &beside[..]);
        self.manage("start", &unit, "StartTransientUnit", &body).await.map(drop)
    }

    /// Ends the unit of an instance and waits until it is gone; one that is gone is fine.
    ///
    /// # Errors
    /// When it stays.
    pub async fn end(&self, instance: InstanceId) -> Result<(), SystemdError> {
        self.vanished(&unit_name(instance)).await
    }

    async fn vanished(&self, unit: &str) -> Result<(), SystemdError> {
        let give_up = tokio::time::Instant::now() + VANISH;
        while self.manage("look for", unit, "GetUnit", &unit).await.is_ok() {
            if tokio::time::Instant::now() > give_up {
                return Err(late("end", unit));
            }
            // An error means that it ends by itself just now, or failed and is forgotten next.
            let _ = self.manage("stop", unit, "StopUnit", &(unit, "replace")).await;
            let _ = self.manage("forget", unit, "ResetFailedUnit", &unit).await;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The units of VMs that systemd knows, whoever's they are.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn vm_units(&self) -> Result<Vec<VmUnit>, SystemdError> {
        let any: [&str; 0] = [];
        let body = (&any[..], &[UNITS][..]);
        let listed = self.manage("list", UNITS, "ListUnitsByPatterns", &body).await?;
        let listed: Vec<ListedUnit> = listed.body().deserialize().map_err(|source| {
            SystemdError::Refused { doing: "list", unit: UNITS.into(), source }
        })?;
        let mut units = Vec::new();
        for unit in listed {
            let (name, path) = (unit.0, unit.6);
            let Some(instance) = instance_of_unit(&name) else { continue };
            // One that ended meanwhile is none.
            let Some(pid_file) = self.pid_file(&name, &path).await else { continue };
            units.push(VmUnit { instance, name, pid_file });
        }
        Ok(units)
    }

    async fn pid_file(&self, unit: &str, path: &OwnedObjectPath) -> Option<PathBuf> {
        let get_all = (path.as_str(), "org.freedesktop.DBus.Properties", "GetAll");
        let service = "org.freedesktop.systemd1.Service";
        let all = self.call("describe", unit, get_all, &service).await.ok()?;
        let all: HashMap<String, OwnedVariant> = all.body().deserialize().ok()?;
        String::try_from(all.get("PIDFile")?.clone()).ok().map(PathBuf::from)
    }

    /// How the main process of an instance's unit ended, while its supervisor still keeps the
    /// unit; `None` when systemd does not know.
    pub async fn how_it_ended(
        &self,
        instance: InstanceId,
        process: &ProcessId,
    ) -> Option<ExitKind> {
        let unit = unit_name(instance);
        let found = self.manage("look for", &unit, "GetUnit", &unit.as_str()).await.ok()?;
        let path: OwnedObjectPath = found.body().deserialize().ok()?;
        let get_all = (path.as_str(), "org.freedesktop.DBus.Properties", "GetAll");
        let service = "org.freedesktop.systemd1.Service";
        let all = self.call("describe", &unit, get_all, &service).await.ok()?;
        let all: HashMap<String, OwnedVariant> = all.body().deserialize().ok()?;
        let number = |name: &str| i32::try_from(all.get(name)?).ok();
        let pid = u32::try_from(all.get("ExecMainPID")?).ok()?;
        // CLD_EXITED; CLD_KILLED and CLD_DUMPED.
        match (pid == process.pid, number("ExecMainCode")?) {
            (true, 1) => number("ExecMainStatus").map(ExitKind::Code),
            (true, 2 | 3) => number("ExecMainStatus").map(ExitKind::Signal),
            _ => None,
        }
    }
}

fn late(doing: &'static str, unit: &str) -> SystemdError {
    SystemdError::Late { doing, unit: unit.to_owned() }
}

/// The unit. `OOMPolicy=stop` and not `kill`: the kernel ends the largest process, which is the
/// VMM, and the supervisor lives to write that down.
fn properties<'a>(
    supervisor: &'a Supervisor<'_>,
) -> Result<Vec<(&'static str, Variant<'a>)>, SystemdError> {
    let Supervisor { spec, net, command, stdin, stdout } = supervisor;
    let limits = Limits::of(spec);
    let program = command.first().ok_or_else(|| SystemdError::Prepare("no program".into()))?;
    let pid_file: PathBuf = spec.run_dir.join(PID_FILE);
    let pid_file = pid_file.to_str().map(str::to_owned);
    let pid_file = pid_file.ok_or_else(|| SystemdError::Prepare("the pid file's path".into()))?;
    let duplicate = |fd: &OwnedFd| {
        let fd = fd.try_clone().map_err(|error| SystemdError::Prepare(error.to_string()))?;
        Ok::<_, SystemdError>(Variant::Fd(Fd::from(fd)))
    };
    let devices: Vec<(&str, &str)> =
        ["/dev/kvm", "/dev/net/tun", "/dev/urandom", "/dev/userfaultfd"]
            .map(|device| (device, "rwm"))
            .into();
    Ok(vec![
        ("Description", format!("mvm: the VM of {}", spec.instance).into()),
        ("Type", "forking".into()),
        ("ExecStart", Variant::from(vec![(program.as_str(), command.to_vec(), false)])),
        ("PIDFile", pid_file.into()),
        ("StandardInputFileDescriptor", duplicate(stdin)?),
        ("StandardOutputFileDescriptor", duplicate(stdout)?),
        ("Slice", slice_name(*net).into()),
        ("Restart", "no".into()),
        ("CollectMode", "inactive-or-failed".into()),
        ("KillMode", "control-group".into()),
        ("KillSignal", 15_i32.into()),
        ("TimeoutStartUSec", START_USEC.into()),
        ("TimeoutStopUSec", STOP_USEC.into()),
        ("MemoryAccounting", true.into()),
        ("MemoryMax", limits.memory.into()),
        ("MemorySwapMax", 0_u64.into()),
        ("OOMPolicy", "stop".into()),
        ("CPUAccounting", true.into()),
        ("CPUQuotaPerSecUSec", (limits.cpu_percent * 10_000).into()),
        ("CPUWeight", limits.cpu_weight.into()),
        ("TasksAccounting", true.into()),
        ("TasksMax", limits.tasks.into()),
        ("IOAccounting", true.into()),
        ("IOWeight", limits.cpu_weight.into()),
        ("LimitCORE", 0_u64.into()),
        ("LimitNOFILE", FILES.into()),
        ("NoNewPrivileges", true.into()),
        ("DevicePolicy", "closed".into()),
        ("DeviceAllow", Variant::from(devices)),
        ("Environment", Variant::from(vec![ENVIRONMENT])),
    ])
}

/// All a supervisor needs of the environment.
const ENVIRONMENT: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn a_units_name_leads_to_its_instance_and_no_other_name_does() {
        let instance = InstanceId::from_bits(0xbeef);
        assert_eq!(instance_of_unit(&unit_name(instance)), Some(instance));
        for other in ["mvm-vm-i-0000beef.scope", "mvm-vm-.service", "mvm-vm-web.service"] {
            assert_eq!(instance_of_unit(other), None);
        }
    }

    #[test]
    fn a_unit_has_the_limits_of_its_vm_and_nothing_restarts_it() {
        let (read, write) = std::io::pipe().unwrap();
        let spec = example();
        let supervisor = Supervisor {
            spec: &spec,
            net: NetId::new(7).unwrap(),
            command: &["/usr/bin/mvm".into(), "__shim".into()],
            stdin: read.into(),
            stdout: write.into(),
        };
        let properties: HashMap<_, _> = properties(&supervisor).unwrap().into_iter().collect();
        assert_eq!(properties["MemoryMax"], Variant::from((256_u64 + 128) << 20));
        assert_eq!(properties["CPUQuotaPerSecUSec"], Variant::from(2_250_000_u64));
        assert_eq!(properties["Slice"], Variant::from("mvm-t7.slice"));
        assert_eq!(properties["PIDFile"], Variant::from("/run/mvm/i-0000beef/vmm.pid"));
        assert_eq!(properties["Restart"], Variant::from("no"));
    }
}
