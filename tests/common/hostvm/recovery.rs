//! What breaks by itself in a processor that is emulated and emulates another, and how a scenario
//! gets a whole place again.
//!
//! QEMU's emulation of AMD's virtualization loses its way now and then, most when a guest leaves
//! it often: the machine's kernel panics, the machine stops altogether, or a guest's processor
//! shuts down, also of guests that never slept. Only what says so itself counts: anything else is
//! the product's doing.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use super::HostVm;
use super::disk::PowerCut;

/// How long a machine that is not broken may take for what is asked here.
const LIMIT: Duration = Duration::from_secs(120);
/// How long it may take for next to nothing.
const GLANCE: Duration = Duration::from_secs(30);

impl HostVm {
    /// What broke under the last scenario, when something did; it is whole again then.
    pub(super) fn recover(&self) -> Option<String> {
        self.running.borrow().as_ref()?;
        let broke = match self.machine_broke() {
            Some(broke) => {
                self.cut_power_and_boot(PowerCut::KeepsUnflushed);
                broke
            }
            None => self.instances().iter().find_map(crash_of)?,
        };
        for instance in self.instances() {
            let verb = match instance["status"].as_str() {
                Some("running" | "warm") => continue,
                Some("sleeping") => "wake",
                _ => "start",
            };
            self.ask(&["mvm", "instance", verb, &path_of(&instance)]);
        }
        Some(broke)
    }

    fn machine_broke(&self) -> Option<String> {
        let panics = self.console().matches("Kernel panic - not syncing").count();
        if panics != self.panics.replace(panics) {
            return Some("the kernel of the host VM panicked".into());
        }
        // What answers needs nothing of mvm's.
        self.ask_within(GLANCE, &["true"])
            .is_none()
            .then(|| "the host VM stopped altogether".into())
    }

    fn ask(&self, command: &[&str]) -> Option<Output> {
        self.ask_within(LIMIT, command)
    }

    fn ask_within(&self, limit: Duration, command: &[&str]) -> Option<Output> {
        self.channel(|channel| channel.run(command, &[], limit)).ok()
    }

    fn instances(&self) -> Vec<Value> {
        let list = self.ask(&["mvm", "instance", "list", "--json"]);
        let list = list.and_then(|list| serde_json::from_slice(&list.stdout).ok());
        list.and_then(|list: Value| list.as_array().cloned()).unwrap_or_default()
    }
}

/// How an instance's guest was lost to the emulator, when it was.
fn crash_of(instance: &Value) -> Option<String> {
    let reason = instance["reason"].as_str()?;
    let is_lost = instance["status"] == "failed" && reason.contains("processor shut down");
    is_lost.then(|| format!("{}: {reason}", path_of(instance)))
}

fn path_of(instance: &Value) -> String {
    let field = |name: &str| instance[name].as_str().unwrap_or_default();
    [field("tenant_id"), field("pool_id"), field("instance_id")].join("/")
}
