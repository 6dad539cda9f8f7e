//! The host these tests are about, and the words they say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::POOL;
use crate::common::World;
use crate::common::harness::Place;
use crate::common::world::{Images, cache_dir, told};

/// A world whose VMM is the fake, in the real jail of the real jailer.
pub struct Host(World);

impl std::ops::Deref for Host {
    type Target = World;
    fn deref(&self) -> &World {
        &self.0
    }
}

impl Place for Host {
    fn enter(name: &str) -> Result<Self, String> {
        let (fake, jailer) = (fake()?, jailer()?);
        let world = World::enter(name, Images::Shared)?;
        let bin = world.path("state/bin");
        let put = || {
            fs::create_dir_all(&bin)?;
            fs::create_dir_all(world.path("etc"))?;
            fs::copy(fake, bin.join("firecracker"))?;
            fs::copy(jailer, bin.join("jailer"))?;
            for program in ["firecracker", "jailer"] {
                fs::set_permissions(bin.join(program), fs::Permissions::from_mode(0o755))?;
            }
            let settings = r#"{ "vmm": "firecracker", "limits": "none" }"#;
            fs::write(world.path("etc/host.json"), settings)
        };
        put().map_err(|error: std::io::Error| error.to_string())?;
        Ok(Self(world))
    }

    fn leave(self) -> Vec<String> {
        self.0.leave()
    }
}

fn fake() -> Result<PathBuf, String> {
    let built = || {
        let target = Path::new(env!("CARGO_BIN_EXE_mvm")).parent()?.parent()?;
        let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        Some(target.join(triple).join("debug/mvm-fake-firecracker"))
    };
    let named = std::env::var_os("MVM_FAKE_FIRECRACKER").map(PathBuf::from);
    named.or_else(built).filter(|path| path.is_file()).ok_or_else(|| "the fake is not built".into())
}

fn jailer() -> Result<PathBuf, String> {
    let named = std::env::var_os("MVM_JAILER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join("jailer"));
    let all = named.into_iter().chain(in_path).chain([cache_dir().join("bin/jailer")]);
    if !Path::new("/dev/kvm").exists() {
        return Err("there is no /dev/kvm".into());
    }
    all.into_iter().find(|path| path.is_file()).ok_or_else(|| "jailer is not installed".into())
}

impl Host {
    pub fn list(&self) -> Vec<Value> {
        self.json(&["instance", "list"]).as_array().cloned().unwrap_or_default()
    }

    /// The processes of all running VMs, by instance.
    pub fn vms(&self) -> Vec<(String, u64)> {
        let running = self.list().into_iter().filter(|row| row["status"] == "running");
        let mut vms: Vec<_> = running
            .map(|row| {
                let id = row["instance_id"].as_str().expect("an id").to_owned();
                (id, row["pid"].as_u64().expect("a pid"))
            })
            .collect();
        vms.sort();
        vms
    }

    pub fn first(&self) -> String {
        self.members(POOL).remove(0)
    }

    pub fn record(&self, instance: &str) -> PathBuf {
        let (_, id) = instance.rsplit_once('/').expect("a path");
        self.path("state/tenants/acme/pools/workers/instances").join(id).join("instance.json")
    }

    pub fn run_dir(&self, instance: &str) -> PathBuf {
        let (_, id) = instance.rsplit_once('/').expect("a path");
        self.path("run/vm").join(id)
    }

    pub fn pid(&self, instance: &str) -> i32 {
        let pid = self.instance(instance)["pid"].as_i64().expect("a pid");
        i32::try_from(pid).expect("a pid")
    }

    /// `doctor --repair` of everything, however young; its answer and whether all is clean.
    pub fn repair(&self) -> (Value, bool) {
        self.repair_with(&["--older-than", "0"])
    }

    pub fn repair_with(&self, more: &[&str]) -> (Value, bool) {
        let args = [&["doctor", "--repair", "--json"], more].concat();
        let output = self.run(&args);
        let told_us = told(&output);
        let answer = serde_json::from_slice(&output.stdout);
        (answer.unwrap_or_else(|_| panic!("no JSON: {told_us}")), output.status.success())
    }

    /// Repairs, after which all must be clean and another repair find nothing.
    pub fn repaired(&self) -> Value {
        let (answer, clean) = self.repair();
        assert!(clean, "not clean: {answer:#}");
        let (again, clean) = self.repair();
        assert!(clean && again["handled"].as_array().is_some_and(Vec::is_empty), "{again:#}");
        answer
    }

    pub fn doctor(&self) -> String {
        told(&self.run(&["doctor"]))
    }

    pub fn strays(&self) -> String {
        let doctor = self.doctor();
        doctor.lines().filter(|line| line.contains(" stray ")).collect::<Vec<_>>().join("\n")
    }
}

/// The one handled object whose name holds this.
pub fn handled<'a>(answer: &'a Value, object: &str) -> &'a Value {
    let all = answer["handled"].as_array().expect("handled");
    let found = all.iter().find(|one| one["object"].as_str().is_some_and(|it| it.contains(object)));
    found.unwrap_or_else(|| panic!("nothing was done about {object}: {answer:#}"))
}

pub fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut document: Value =
        serde_json::from_slice(&fs::read(path).expect("a document")).expect("JSON");
    change(&mut document);
    fs::write(path, serde_json::to_vec(&document).expect("JSON")).expect("written");
}

pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Somebody else's process, which must not be harmed.
pub struct Bystander(Child);

impl Bystander {
    pub fn start() -> Self {
        Self(Command::new("sleep").arg("300").stdin(Stdio::null()).spawn().expect("sleep starts"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn is_unharmed(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|ended| ended.is_none())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
