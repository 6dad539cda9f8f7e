//! The thing to compare with: the same guest under a plain `qemu-system` command, without
//! confinement, network, supervision or records.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mvm_agent::error::{About, Error, Kind, Result};
use mvm_agent::guest::{GuestClient, Transport, connect_unix};
use mvm_guest_proto::config::{self, GuestConfig, Hooks};
use mvm_host::drive;
use mvm_host::image::find_guest;
use mvm_host::packages::{Arch, Control};
use mvm_model::record::InstanceRecord;

use super::GUEST;
use crate::runtime::Context;

/// How long a bare guest may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A bare guest to be booted.
pub struct Bare {
    dir: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    rootfs: PathBuf,
    accel: String,
    program: String,
    cmdline: String,
}

fn failed(doing: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Failed, "bench", format!("cannot {doing}")).because(error)
}

impl Bare {
    /// What a running instance is, without everything mvm does around it. The kernel's command
    /// line is read from its VMM, so that both guests are told the same.
    pub async fn like(context: &Context, record: &InstanceRecord) -> Result<Self> {
        let service = &context.service;
        let record = service.instance(&record.path())?;
        let pid = record.state.vm().map(|vm| vm.process.pid).unwrap_or_default();
        let raw = fs::read(format!("/proc/{pid}/cmdline"))
            .map_err(|error| failed("read the VMM's arguments", error))?;
        let args: Vec<_> = raw
            .split(|byte| *byte == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        let value = |name: &str| {
            let at = args.iter().position(|arg| arg == name);
            at.and_then(|at| args.get(at + 1)).cloned().unwrap_or_default()
        };
        let revision = service.dirs.pool(&record.pool_path()).join("artifacts/current");
        let dir = service.dirs.run.join("bench");
        mvm_host::file::create_dir(&dir).about("bench", "make a directory")?;
        let accel = value("-accel").split(',').next().unwrap_or("tcg").to_owned();
        let file = |name: &str| revision.join(name);
        Ok(Self {
            kernel: file("kernel"),
            initrd: file("initrd"),
            rootfs: file("rootfs"),
            accel,
            program: args.first().cloned().unwrap_or_default(),
            cmdline: value("-append"),
            dir,
        })
    }

    /// Boots it once; returns the time from the command to a ready guest agent.
    pub async fn boot(&self) -> Result<Duration> {
        self.make_drives()?;
        let socket = self.dir.join("agent.sock");
        let started = Instant::now();
        let mut child = self.start(&socket)?;
        let ready = tokio::time::timeout(LIMIT, ready(&socket)).await;
        let took = started.elapsed();
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_dir_all(&self.dir);
        match ready {
            Ok(()) => Ok(took),
            Err(late) => Err(failed("boot a bare guest", late)),
        }
    }

    fn make_drives(&self) -> Result<()> {
        let guest = GuestConfig {
            schema: config::SCHEMA,
            instance: "i-00000000".into(),
            hostname: "bare".into(),
            tenant: "bare".into(),
            pool: "bare".into(),
            role: "worker".into(),
            network: None,
            workload: None,
            secrets_epoch: 0,
            config_epoch: 0,
            hooks: Hooks::default(),
        };
        let make = || {
            drive::ensure_data(
                &self.dir.join("data.img"),
                GUEST.data_disk_mib,
                drive::Missing::Make,
            )?;
            drive::write_small(&self.dir.join("secrets.img"), &[])?;
            drive::write_small(&self.dir.join("config.img"), &[(config::FILE, &guest.to_bytes())])
        };
        make().about("bench", "make drives")
    }

    fn start(&self, socket: &Path) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.args([
            "-M",
            &format!("microvm,accel={}", self.accel),
            "-cpu",
            "max",
            "-m",
            &GUEST.mem_mib.to_string(),
        ]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "null",
        ]);
        command
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", &self.cmdline]);
        let own = |name: &str| self.dir.join(name);
        let drives = [
            (self.rootfs.clone(), "on"),
            (own("data.img"), "off"),
            (own("secrets.img"), "on"),
            (own("config.img"), "on"),
        ];
        for (index, (path, read_only)) in drives.iter().enumerate() {
            let drive = format!(
                "id=d{index},file={},format=raw,if=none,readonly={read_only}",
                path.display()
            );
            command.args([
                "-drive",
                &drive,
                "-device",
                &format!("virtio-blk-device,drive=d{index}"),
            ]);
        }
        command.args(["-device", "virtio-rng-device", "-device", "virtio-serial-device"]);
        command.args([
            "-chardev",
            &format!("socket,id=agent,path={},server=on,wait=off", socket.display()),
        ]);
        command.args(["-device", "virtserialport,chardev=agent,name=mvm.agent"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(|error| failed("start a bare qemu", error))
    }
}

/// Asks until the guest agent says that it is ready.
async fn ready(socket: &Path) {
    let attempt = Duration::from_secs(2);
    loop {
        if let Ok(stream) = connect_unix(socket, attempt).await
            && let Ok(client) = GuestClient::connect(stream, Transport::Lasting, attempt).await
        {
            while let Ok(status) = client.status(attempt).await {
                if status.ready {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The size of the guest agent's program.
pub fn guest_agent_bytes(context: &Context) -> Result<u64> {
    let silent = |_| ();
    let found = find_guest(Arch::HOST, Control::new(&silent, &context.cancel));
    let guest =
        found.map_err(mvm_host::image::ImageError::from).about("bench", "find the guest agent")?;
    fs::metadata(&guest.path)
        .map(|meta| meta.len())
        .map_err(|error| failed("measure the guest agent", error))
}
