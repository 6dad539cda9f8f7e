//! The snapshot manifest (version 1) and the rules that make a snapshot unusable.
//!
//! A sleep snapshot is a one-shot capability bound to its drives: it is resumed at most once, by
//! the instance it was taken of, on the same VMM, CPU and kernel, and only while its data drive
//! is as it was left. Any doubt is a cold boot with the data drive kept.

use serde::{Deserialize, Serialize};

use crate::id::{Digest, InstanceId};
use crate::vm::Vmm;

/// What a snapshot may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Resumed once, by its own instance.
    Sleep,
}

/// What identifies a file cheaply: while these hold, its content is what was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time, nanoseconds since the epoch; cannot be set from user space.
    pub ctime_ns: i64,
}

/// The data drive as the sleeping guest left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveStamp {
    /// The drive's file. Its ctime is not compared: a backup may link or chmod it.
    pub file: FileStamp,
}

/// What the host and the VMM must still be for a resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// VMM, accelerator and version.
    pub vmm: Vmm,
    /// The VMM's machine type.
    pub machine: String,
    /// CPU model and flags class of the host.
    pub cpu_class: String,
    /// `uname -r` of the host.
    pub host_kernel: String,
    /// Architecture.
    pub arch: String,
}

/// The snapshot manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this document, 1.
    pub schema_version: u32,
    /// What it may be used for.
    pub kind: Kind,
    /// Whose it is.
    pub instance: InstanceId,
    /// Counts the instance's snapshots.
    pub generation: u64,
    /// Where it can be resumed.
    pub platform: Platform,
    /// Digest of what the VM was started with (resources, revision, drives, network).
    pub spec_hash: Digest,
    /// The data drive, when the instance has one.
    pub data_drive: Option<DriveStamp>,
    /// The memory file.
    pub memory: FileStamp,
    /// SHA-256 of the memory file.
    pub memory_digest: Digest,
    /// The devices, where the VMM keeps them in a file of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<DevicesFile>,
}

/// A VM's devices, saved apart from its memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesFile {
    /// The file.
    pub file: FileStamp,
    /// SHA-256 of it.
    pub digest: Digest,
}

/// Why a snapshot is not resumed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It was resumed before; resuming again would pair old memory with newer drives.
    #[error("the snapshot was used before")]
    Consumed,
    /// A file is missing or cannot be read.
    #[error("the snapshot is incomplete: {0}")]
    Incomplete(String),
    /// The memory file is not what was written.
    #[error("the memory file was changed or truncated")]
    MemoryChanged,
    /// The manifest is of a version this program does not know.
    #[error("the manifest has version {0}, this program knows 1")]
    Version(u32),
    /// It belongs to something else.
    #[error("the snapshot is of {0}")]
    Stranger(InstanceId),
    /// The VM would be started with other settings now.
    #[error("the instance's resources, image or drives changed since")]
    SpecChanged,
    /// VMM, CPU or kernel differ.
    #[error("{what} changed from {was} to {now}")]
    PlatformChanged {
        /// Which part.
        what: &'static str,
        /// In the manifest.
        was: String,
        /// On this host.
        now: String,
    },
    /// Something wrote to the data drive after the guest slept.
    #[error("the data drive was written since")]
    DriveChanged,
}

/// What is true now, read by the caller.
#[derive(Debug, Clone)]
pub struct Present<'a> {
    /// The instance that wants to wake.
    pub instance: InstanceId,
    /// This host and VMM.
    pub platform: &'a Platform,
    /// Digest of what the VM would be started with.
    pub spec_hash: &'a Digest,
    /// The data drive's file now.
    pub data_drive: Option<FileStamp>,
    /// Whether the consumed mark exists.
    pub consumed: bool,
}

impl Manifest {
    /// Whether this snapshot may be resumed here and now. The memory file is checked apart,
    /// because that can mean reading it.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn check(&self, now: &Present<'_>) -> Result<(), Unusable> {
        if self.schema_version != 1 {
            return Err(Unusable::Version(self.schema_version));
        }
        if now.consumed {
            return Err(Unusable::Consumed);
        }
        if self.instance != now.instance {
            return Err(Unusable::Stranger(self.instance));
        }
        if self.spec_hash != *now.spec_hash {
            return Err(Unusable::SpecChanged);
        }
        self.platform.same_as(now.platform)?;
        match (self.data_drive, now.data_drive) {
            (None, None) => Ok(()),
            (Some(then), Some(now)) if then.file.same_content(&now) => Ok(()),
            _ => Err(Unusable::DriveChanged),
        }
    }
}

impl FileStamp {
    /// Same inode, size and modification time.
    pub fn same_content(&self, other: &Self) -> bool {
        (self.ino, self.size, self.mtime_ns) == (other.ino, other.size, other.mtime_ns)
    }
}

impl Platform {
    fn same_as(&self, now: &Self) -> Result<(), Unusable> {
        let same = |what, was: &dyn ToString, now: &dyn ToString| {
            let (was, now) = (was.to_string(), now.to_string());
            if was == now { Ok(()) } else { Err(Unusable::PlatformChanged { what, was, now }) }
        };
        same("the VMM", &self.vmm, &now.vmm)?;
        same("the VMM's version", &self.vmm.version, &now.vmm.version)?;
        same("the machine type", &self.machine, &now.machine)?;
        same("the CPU", &self.cpu_class, &now.cpu_class)?;
        same("the host's kernel", &self.host_kernel, &now.host_kernel)?;
        same("the architecture", &self.arch, &now.arch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::{Accel, VmmKind};

    fn platform() -> Platform {
        Platform {
            vmm: Vmm { kind: VmmKind::Qemu, accel: Accel::Tcg, version: "7.2".into() },
            machine: "microvm".into(),
            cpu_class: "max".into(),
            host_kernel: "6.1".into(),
            arch: "x86_64".into(),
        }
    }

    const STAMP: FileStamp = FileStamp { ino: 7, size: 100, mtime_ns: 1, ctime_ns: 1 };

    fn manifest() -> Manifest {
        Manifest {
            schema_version: 1,
            kind: Kind::Sleep,
            instance: InstanceId::from_bits(1),
            generation: 3,
            platform: platform(),
            spec_hash: Digest::of(b"spec"),
            data_drive: Some(DriveStamp { file: STAMP }),
            memory: STAMP,
            memory_digest: Digest::of(b"memory"),
            devices: None,
        }
    }

    fn verdict(change: impl Fn(&mut Platform, &mut Present<'_>)) -> Result<(), Unusable> {
        let (mut host, spec, probe) = (platform(), Digest::of(b"spec"), platform());
        let mut now = Present {
            instance: InstanceId::from_bits(1),
            platform: &probe,
            spec_hash: &spec,
            data_drive: Some(STAMP),
            consumed: false,
        };
        change(&mut host, &mut now);
        manifest().check(&Present { platform: &host, ..now })
    }

    #[test]
    fn an_untouched_snapshot_may_be_resumed() {
        assert_eq!(verdict(|_, _| ()), Ok(()));
    }

    #[test]
    fn every_doubt_is_a_refusal_with_its_reason() {
        assert_eq!(verdict(|_, now| now.consumed = true), Err(Unusable::Consumed));
        assert!(matches!(
            verdict(|_, now| now.instance = InstanceId::from_bits(2)),
            Err(Unusable::Stranger(_))
        ));
        assert_eq!(verdict(|_, now| now.data_drive = None), Err(Unusable::DriveChanged));
        assert_eq!(
            verdict(|_, now| now.data_drive = Some(FileStamp { mtime_ns: 2, ..STAMP })),
            Err(Unusable::DriveChanged)
        );
        let changes: [fn(&mut Platform); 5] = [
            |host| host.vmm.version = "8".into(),
            |host| host.vmm.accel = Accel::Kvm,
            |host| host.cpu_class = "other".into(),
            |host| host.host_kernel = "6.12".into(),
            |host| host.machine = "q35".into(),
        ];
        for change in changes {
            assert!(matches!(
                verdict(|host, _| change(host)),
                Err(Unusable::PlatformChanged { .. })
            ));
        }
    }

    #[test]
    fn a_manifest_of_a_newer_version_is_refused() {
        let newer = Manifest { schema_version: 2, ..manifest() };
        let (host, spec) = (platform(), Digest::of(b"spec"));
        let now = Present {
            instance: newer.instance,
            platform: &host,
            spec_hash: &spec,
            data_drive: Some(STAMP),
            consumed: false,
        };
        assert_eq!(newer.check(&now), Err(Unusable::Version(2)));
    }
}
