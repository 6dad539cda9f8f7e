//! How a VM's shim comes to life: as a unit of systemd's where a VM has limits, else as a child.
//!
//! ```text
//! Firecracker   systemd and controllers  in_unit: mvm-vm-<instance>.service in its tenant's slice
//!               cgroup v2 controllers    as_child; the jailer makes the control group
//!               no such controllers      refused, unless this host's settings say `limits: none`
//! QEMU          development              as_child, without limits
//! ```
//!
//! Either way the shim reads its order from stdin, says one line on stdout and outlives us.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use mvm_model::NetId;
use mvm_model::vm::VmmKind;
use mvm_vmm::systemd::{self, Supervisor, Systemd};
use mvm_vmm::{Placement, Report};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use crate::blueprint::Blueprint;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::service::Service;
use crate::settings::LimitsPolicy;
use crate::shim::{Order, SUBCOMMAND, Task};

/// How long a shim may take until its VMM answers.
pub(crate) const START: Duration = Duration::from_secs(45);
/// The controllers a VM's limits need.
pub(crate) const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

impl Service {
    /// The control group a VM is put in.
    ///
    /// # Errors
    /// [`Kind::Refused`] where none can hold its limits.
    pub(crate) fn placement(&self, blueprint: &Blueprint) -> Result<Placement> {
        let net = blueprint.net();
        match (blueprint.vmm().kind, self.settings()?.limits) {
            (VmmKind::Qemu, _) => Ok(Placement::Unlimited),
            (VmmKind::Firecracker, LimitsPolicy::None) => {
                tracing::warn!("a VM is started without limits: this host's settings say so");
                Ok(Placement::Unlimited)
            }
            (VmmKind::Firecracker, LimitsPolicy::Required) => {
                let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
                limited(net, systemd::is_running(), &controllers.unwrap_or_default())
            }
        }
    }
}

fn limited(net: NetId, systemd: bool, controllers: &str) -> Result<Placement> {
    let has = |name: &&str| controllers.split_whitespace().any(|have| have == *name);
    match (systemd, CONTROLLERS.iter().all(has)) {
        (true, true) => Ok(Placement::Unit(net)),
        (false, true) => Ok(Placement::Group(net)),
        // systemd would start a unit all the same, and leave out what it cannot limit.
        (_, false) => Err(Error::new(
            Kind::Refused,
            "",
            "this host cannot limit what a VM uses: cgroup v2 has no cpu, memory or pids controller",
        )
        .hint(
            "boot with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable=; \
             for development MVM_LIMITS=none",
        )),
    }
}

/// Starts a shim as our child and reads its report. One that started a VM outlives us; one that
/// says nothing in time is ended.
pub(crate) async fn as_child(exe: &Path, log: File, order: &Order) -> io::Result<Report> {
    let mut child = tokio::process::Command::new(exe)
        .arg(SUBCOMMAND)
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin")
        .envs(failpoint::environment())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(io::Error::other("no pipe to the shim"));
    };
    stdin.write_all(&serde_json::to_vec(order)?).await?;
    drop(stdin);
    let report = Report::receive_within(stdout, START).await;
    if !matches!(report, Ok(Report::Started(_))) {
        let _ = child.kill().await;
    }
    report
}

/// Lets systemd start a shim as a unit and reads its report.
pub(crate) async fn in_unit(exe: &Path, order: &Order, net: NetId) -> io::Result<Report> {
    let Task::Launch { launch, .. } = &order.task else {
        return Err(io::Error::other("only a launch makes a unit"));
    };
    let systemd = Systemd::connect().await.map_err(io::Error::other)?;
    let (stdin, mut orders) = io::pipe()?;
    let (reports, stdout) = io::pipe()?;
    let command = [exe.to_string_lossy().into_owned(), SUBCOMMAND.to_owned()];
    // Smaller than a pipe holds, so this does not wait for its reader.
    orders.write_all(&serde_json::to_vec(order)?)?;
    drop(orders);
    let supervisor = Supervisor {
        spec: &launch.spec,
        net,
        command: &command,
        stdin: stdin.into(),
        stdout: stdout.into(),
    };
    systemd.start(supervisor).await.map_err(io::Error::other)?;
    let reports = pipe::Receiver::from_owned_fd(reports.into())?;
    let report = Report::receive_within(reports, START).await;
    if !matches!(report, Ok(Report::Started(_))) {
        // It ends by itself, unless it hangs.
        let _ = systemd.end(launch.spec.instance).await;
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_way_to_limit_it_no_vm_is_started() {
        let net = NetId::new(7).unwrap();
        let all = "cpuset cpu io memory pids\n";
        assert_eq!(limited(net, true, all).unwrap(), Placement::Unit(net));
        assert_eq!(limited(net, false, all).unwrap(), Placement::Group(net));
        for lacking in ["", "hugetlb", "cpu memory", "cpuset cpu io pids"] {
            for systemd in [true, false] {
                assert_eq!(limited(net, systemd, lacking).unwrap_err().kind, Kind::Refused);
            }
        }
    }
}
