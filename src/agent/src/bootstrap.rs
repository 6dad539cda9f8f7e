//! Preparing a host: the programs mvm needs and the first image.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use mvm_host::image::{self, GuestBinary, GuestError};
use mvm_host::packages::{self, Arch, Control, Need, Os, PackageError, Purpose};
use mvm_model::Digest;
use mvm_model::image::{Profile, Role};

use crate::build::SharedSink;
use crate::error::{About, Classify, Error, Kind, Result};
use crate::service::Service;

/// The guest agent, looked for (in a checkout: built) once in the life of a process, so that one
/// command builds all its images with the same.
fn guest_agent(control: Control<'_>) -> Result<GuestBinary, GuestError> {
    static FOUND: OnceLock<GuestBinary> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let found = image::find_guest(Arch::HOST, control)?;
    Ok(FOUND.get_or_init(|| found).clone())
}

impl Classify for PackageError {
    fn classify(&self) -> (Kind, Option<String>) {
        let kind = match self {
            _ if self.is_cancelled() => Kind::Interrupted,
            Self::NoSpace { .. } => Kind::DiskFull,
            Self::NotRoot { .. } => Kind::Refused,
            Self::LockHeld { .. } => Kind::Busy,
            Self::UnsupportedOs { .. }
            | Self::NoNetwork { .. }
            | Self::NotFound { .. }
            | Self::Stale { .. } => Kind::Unavailable,
            _ => Kind::Failed,
        };
        (kind, self.hint())
    }
}

impl Service {
    /// Programs this host lacks.
    pub fn missing_programs(&self) -> Vec<Need> {
        packages::missing(&packages::needs(Arch::HOST, &self.purposes()))
    }

    /// QEMU is needed where Firecracker is not there or does not run guests.
    fn purposes(&self) -> Vec<Purpose> {
        let without_qemu = self.may_run_firecracker();
        let purposes = Purpose::ALL.into_iter();
        purposes.filter(|purpose| *purpose != Purpose::Qemu || !without_qemu).collect()
    }

    /// Installs what is missing with the system's package manager.
    ///
    /// # Errors
    /// When this system is not one we know, or its package manager says no.
    pub async fn install_programs(
        &self,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<()> {
        let logs = self.dirs.state.join("log");
        let purposes = self.purposes();
        self.blocking("install what this host lacks", move || {
            let sink = |progress_now| progress(progress_now);
            let needs = packages::needs(Arch::HOST, &purposes);
            packages::install(&Os::detect(), &needs, &logs, Control::new(&sink, &cancel))
        })
        .await
    }

    /// The digest of an image of the embedded builder, built when it is not there yet.
    ///
    /// # Errors
    /// When it cannot be built.
    pub async fn ensure_image(
        &self,
        profile: Profile,
        role: Role,
        progress: SharedSink,
        cancel: Arc<AtomicBool>,
    ) -> Result<Digest> {
        let images = self.images()?;
        self.blocking("build the image", move || {
            let sink = |progress_now| progress(progress_now);
            let control = Control::new(&sink, &cancel);
            let guest = guest_agent(control)?;
            let guest_proto = mvm_guest_proto::VERSION;
            let request = image::Request {
                profile,
                role,
                arch: Arch::HOST,
                guest,
                guest_proto: guest_proto.into(),
            };
            image::build(&images, &Os::detect(), &request, control).map(|revision| revision.digest)
        })
        .await
    }

    /// Runs work that blocks on a thread of its own.
    pub(crate) async fn blocking<T, E>(
        &self,
        doing: &str,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: Classify + std::error::Error + Send + Sync + 'static,
    {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.about("", doing),
            Err(error) => {
                Err(Error::new(Kind::Failed, "", format!("cannot {doing}")).because(error))
            }
        }
    }
}
