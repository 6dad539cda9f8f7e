//! What a VM is started as: the specification its VMM gets, made from record, image and host.

use std::path::PathBuf;

use mvm_host::facts::Facts;
use mvm_host::file::FileError;
use mvm_host::image::BootFiles;
use mvm_host::secrets::Secrets;
use mvm_model::image::Manifest;
use mvm_model::network::MTU;
use mvm_model::record::InstanceRecord;
use mvm_model::snapshot::Platform;
use mvm_model::vm::{Vmm, VmmKind};
use mvm_model::{Digest, Mac, NetId};
use mvm_vmm::{Access, Drive, Launch, Net, Placement, StartMode, VmSpec};
use serde::Serialize;

use crate::dirs::Dirs;
use crate::error::{About, Result};
use crate::prove::Proven;
use crate::service::Service;

/// The layout of drives and devices; a snapshot of another layout is not resumed. Count it up
/// with every change a running guest would notice.
const LAYOUT: u32 = 1;

/// What a VM is started as.
#[derive(Debug, Clone)]
pub struct Blueprint {
    spec: VmSpec,
    proven: Proven,
    dirs: Dirs,
    net: NetId,
}

/// Everything a resumed guest takes for granted, for its digest.
#[derive(Serialize)]
struct Granted<'a> {
    layout: u32,
    vcpus: u32,
    mem_mib: u64,
    data_disk_mib: u64,
    mac: Mac,
    revision: &'a Option<Digest>,
}

/// The digest of what an instance's VM is started with, for its snapshots.
pub fn spec_hash(record: &InstanceRecord) -> Digest {
    let resources = record.resources;
    let granted = Granted {
        layout: LAYOUT,
        vcpus: resources.vcpus,
        mem_mib: resources.mem_mib,
        data_disk_mib: resources.data_disk_mib,
        mac: record.mac(),
        revision: &record.revision,
    };
    // Cannot fail: numbers and strings only.
    Digest::of(&serde_json::to_vec(&granted).unwrap_or_default())
}

/// Where a snapshot taken now on this VMM can be resumed.
///
/// # Errors
/// When this host does not say what it is.
pub fn platform(vmm: &Vmm) -> Result<Platform, FileError> {
    let facts = Facts::all()?;
    Ok(Platform {
        vmm: vmm.clone(),
        machine: match (vmm.kind, facts.arch.as_str()) {
            (VmmKind::Firecracker, _) => "mmio".into(),
            (VmmKind::Qemu, "aarch64") => "virt".into(),
            (VmmKind::Qemu, _) => "microvm".into(),
        },
        cpu_class: facts.cpu_class,
        host_kernel: facts.kernel,
        arch: facts.arch,
    })
}

impl Blueprint {
    /// Draws the blueprint of an instance booting from an image's files.
    ///
    /// # Errors
    /// When the secrets directory cannot be opened.
    pub fn draw(
        service: &Service,
        record: &InstanceRecord,
        files: &BootFiles,
        manifest: &Manifest,
        proven: Proven,
    ) -> Result<Self> {
        let spec = VmSpec {
            instance: record.instance_id,
            vmm: proven.vmm.kind,
            accel: proven.vmm.accel,
            vcpus: record.resources.vcpus,
            mem_mib: record.resources.mem_mib,
            kernel: proven.found.kernel(files).to_owned(),
            initrd: files.initrd.clone(),
            cmdline: cmdline(manifest),
            drives: drives(service, record, files)?,
            net: Some(Net { tap: record.tap(), mac: record.mac(), mtu: MTU }),
            uid: record.uid,
            gid: record.uid,
            run_dir: service.dirs.vm(record.instance_id),
        };
        Ok(Self { spec, proven, dirs: service.dirs.clone(), net: record.net_id })
    }

    /// The VMM it is for.
    pub fn vmm(&self) -> &Vmm {
        &self.proven.vmm
    }

    /// Whose tenant's VM it is.
    pub fn net(&self) -> NetId {
        self.net
    }

    /// The order to launch it, in that control group.
    pub fn launch(&self, mode: StartMode, placement: Placement) -> Launch {
        let program = self.proven.found.program(&self.dirs, placement);
        Launch { spec: self.spec.clone(), mode, program }
    }
}

/// What the kernel is told beside what the VMM adds for console, machine and memory.
fn cmdline(manifest: &Manifest) -> String {
    let rootfs =
        manifest.arch.get(std::env::consts::ARCH).map_or("erofs", |files| &files.rootfs_type);
    format!("rootfstype={rootfs}")
}

fn drives(service: &Service, record: &InstanceRecord, files: &BootFiles) -> Result<Vec<Drive>> {
    let dir = service.instance_dir(record);
    let secrets = Secrets::open(&service.dirs.run).about(record.path(), "find its secrets")?;
    let data =
        if record.resources.data_disk_mib > 0 { Access::ReadWrite } else { Access::ReadOnly };
    let drive = |path: PathBuf, access| Drive { path, access };
    Ok(vec![
        drive(files.rootfs.clone(), Access::ReadOnly),
        drive(dir.join("data.img"), data),
        drive(secrets.image(record.instance_id), Access::ReadOnly),
        drive(dir.join("config.img"), Access::ReadOnly),
    ])
}
