//! What breaks by itself in a processor that is emulated and emulates another, and how a scenario
//! gets a whole place again.
//!
//! QEMU's emulation of AMD's virtualization loses its way now and then, most when a guest leaves
//! it often: the machine's kernel panics, or a guest's processor shuts down, also of guests that
//! never slept. Only what says so itself counts: anything else is the product's doing.

use serde_json::Value;

use super::HostVm;
use super::disk::PowerCut;

impl HostVm {
    /// What broke under the last scenario, when something did; it is whole again then.
    pub(super) fn recover(&self) -> Option<String> {
        let panics = self.console().matches("Kernel panic - not syncing").count();
        self.running.borrow().as_ref()?;
        let broke = if panics == self.panics.replace(panics) {
            let broke = self.instances().iter().find_map(|instance| self.crash_of(instance))?;
            Some(broke)
        } else {
            self.cut_power_and_boot(PowerCut::KeepsUnflushed);
            Some("the kernel of the host VM panicked".into())
        };
        for instance in self.instances() {
            match instance["status"].as_str() {
                Some("sleeping") => {
                    drop(self.run(&["mvm", "instance", "wake", &path_of(&instance)]))
                }
                Some("running" | "warm") => {}
                _ => drop(self.run(&["mvm", "instance", "start", &path_of(&instance)])),
            }
        }
        broke
    }

    fn instances(&self) -> Vec<Value> {
        self.mvm_json(&["instance", "list"]).as_array().cloned().unwrap_or_default()
    }

    /// How an instance's guest was lost to the emulator, when it was.
    fn crash_of(&self, instance: &Value) -> Option<String> {
        if matches!(instance["status"].as_str(), Some("running" | "warm" | "sleeping")) {
            return None;
        }
        let path = path_of(instance);
        let log = self.run(&["mvm", "instance", "logs", &path, "--vmm"]);
        let reason = instance["reason"].as_str().unwrap_or_default();
        let said = String::from_utf8_lossy(&log.stdout);
        let last = said.rsplit("another VM of this instance begins").next().unwrap_or_default();
        let shut_down = last.contains("vcpu run: Shutdown");
        let panicked = reason.contains("kernel panicked");
        (shut_down || panicked).then(|| format!("{path}: {reason}"))
    }
}

fn path_of(instance: &Value) -> String {
    let field = |name: &str| instance[name].as_str().unwrap_or_default();
    [field("tenant_id"), field("pool_id"), field("instance_id")].join("/")
}
