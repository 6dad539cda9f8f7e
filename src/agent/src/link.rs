//! The link to an instance's guest: waiting for it, telling it about sleep and wake, and a client
//! for everything people ask of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mvm_model::InstancePath;
use mvm_model::failpoint::Effect;
use mvm_model::state::Status;
use mvm_vmm::process::Waited;
use mvm_vmm::{ExitRecord, RunningRecord};
use tokio::net::UnixStream;

use crate::error::{About, Classify, Error, Kind, Result};
use crate::failpoint::around;
use crate::guest::proto::{self, Exec};
use crate::guest::{Captured, GuestClient, GuestError, Transport, fresh_id};
use crate::machine::Machine;
use crate::service::Service;
use crate::shim::GUEST_SOCKET;
use crate::socket::connect_in;
use crate::visit::Visit;

/// How long a guest may take from power-on to an answer; emulation on a busy host is slow.
const BOOT: Duration = Duration::from_secs(60);
/// How long one question to a guest that booted may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a guest may take to get ready for sleep; its hooks have deadlines of their own.
const SLEEP_PREP: Duration = Duration::from_secs(60);
/// How long a guest may take to be told that it woke.
const WAKE: Duration = Duration::from_secs(30);
/// How long one attempt to be heard lasts while the guest boots.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long its supervisor may take to write down how a VM ended that is gone.
const NOTED: Duration = Duration::from_secs(3);
/// How long a VMM that broke a connection off may take to end.
const ENDING: Duration = Duration::from_secs(1);
/// Pause between attempts that failed at once.
const RETRY: Duration = Duration::from_millis(20);
/// The most output [`Service::exec_captured`] keeps, bytes.
const MOST_OUTPUT: usize = 1 << 20;

impl Machine {
    async fn client(&self, limit: Duration) -> Result<GuestClient, GuestError> {
        GuestClient::connect(self.stream().await?, Transport::Fresh, limit).await
    }

    /// The bytes to and from the relay beside the VM. A relay whose supervisor died is there again
    /// with the next.
    async fn stream(&self) -> Result<UnixStream, GuestError> {
        let lost = |reason: String| GuestError::Lost {
            doing: "connecting to the guest agent".into(),
            reason,
        };
        match connect_in(self.run_dir(), GUEST_SOCKET).await {
            Err(_) if self.living_vm().is_some() => {}
            other => return other.map_err(|error| lost(error.to_string())),
        }
        self.ensure_supervisor().await.map_err(|error| lost(error.chain()))?;
        connect_in(self.run_dir(), GUEST_SOCKET).await.map_err(|error| lost(error.to_string()))
    }

    /// Waits until the guest agent answers and everything its configuration asks for is done.
    ///
    /// # Errors
    /// [`Kind::Timeout`] after a minute; at once when the VM ends or `cancel` is raised.
    pub async fn await_guest(&self, cancel: &AtomicBool) -> Result<()> {
        around(Effect::AwaitGuest, self.record.path(), self.await_answer(cancel)).await
    }

    async fn await_answer(&self, cancel: &AtomicBool) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        let path = self.record.path();
        loop {
            let silence = match self.ask_ready().await {
                Ok(()) => return Ok(()),
                Err(silence) => silence,
            };
            if cancel.load(Ordering::SeqCst) {
                return Err(Error::new(Kind::Interrupted, path, "interrupted while it booted"));
            }
            if self.living_vm().is_none() {
                return Err(self.ended_while_booting().await);
            }
            if Instant::now() > deadline {
                let text = format!("the guest agent did not answer within {} s", BOOT.as_secs());
                let hint =
                    format!("'mvm instance logs {path} --console' shows what the guest printed");
                return Err(Error::new(Kind::Timeout, path, text).because(silence).hint(hint));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask_ready(&self) -> Result<(), GuestError> {
        let client = self.client(ATTEMPT).await?;
        loop {
            let status = client.status(ATTEMPT).await?;
            if status.ready {
                return Ok(());
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ended_while_booting(&self) -> Error {
        let exit = self.exit_once_noted().await;
        let how = exit.as_ref().map(|exit| match &exit.guest {
            Some(end) => end.to_string(),
            None => exit.how.to_string(),
        });
        let how = how.unwrap_or_else(|| "nobody saw how".into());
        let last = exit.and_then(|exit| exit.last_console.last().or(exit.last_log.last()).cloned());
        let error = Error::new(
            Kind::Failed,
            self.record.path(),
            format!("the VM ended while it booted ({how})"),
        );
        match last {
            Some(line) => error.because(format!("its last words were: {line}")),
            None => error,
        }
    }

    /// Whether its VM, which left while it loaded a snapshot, ended over that. One that lives, or
    /// whose end nobody saw, says nothing.
    pub(crate) async fn ended_over_its_memory(&self) -> bool {
        let Ok(Some(vm)) = RunningRecord::load(self.run_dir()) else { return false };
        let Ok(Waited::Gone) = self.wait_for(&vm.process, ENDING).await else { return false };
        let exit = self.exit_once_noted().await.filter(|exit| exit.process == vm.process);
        exit.is_some_and(|exit| exit.is_over_its_content())
    }

    /// How its VM, which is gone, ended: its supervisor writes that down a moment later.
    async fn exit_once_noted(&self) -> Option<ExitRecord> {
        let deadline = Instant::now() + NOTED;
        loop {
            match ExitRecord::load(self.run_dir()).ok().flatten() {
                None if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
                exit => return exit,
            }
        }
    }

    /// Lets the guest get ready to sleep: hooks, sync, secrets and configuration unmounted.
    ///
    /// # Errors
    /// When it refuses (a process holds the secrets) or does not answer in time.
    pub async fn prepare_sleep(&self) -> Result<()> {
        let ask = async {
            let client = self.client(ANSWER).await?;
            client.sleep_prep(&fresh_id(), proto::SleepPrep::default(), SLEEP_PREP).await
        };
        let prepare =
            async { ask.await.map(drop).about(self.record.path(), "get the guest ready to sleep") };
        around(Effect::PrepareGuest, self.record.path(), prepare).await
    }

    /// Tells the guest that it was paused: the time, fresh entropy, new secrets. What it could not
    /// do of that comes back, for the instance's note.
    ///
    /// # Errors
    /// When it does not answer in time or cannot use what it is given.
    pub async fn wake_guest(&self) -> Result<Option<String>> {
        around(Effect::WakeGuest, self.record.path(), self.tell_it_woke()).await
    }

    async fn tell_it_woke(&self) -> Result<Option<String>> {
        let id = fresh_id();
        let deadline = Instant::now() + WAKE;
        loop {
            let told = async {
                let client = self.client(ATTEMPT).await?;
                client.wake(&id, self.wake_message(), ANSWER).await
            };
            match told.await {
                Ok(woken) if woken.problems.is_empty() => return Ok(None),
                Ok(woken) => {
                    return Ok(Some(format!(
                        "the guest woke with problems: {}",
                        woken.problems.join("; ")
                    )));
                }
                // Right after a resume the session of before is still being closed.
                Err(error)
                    if error.is_transient()
                        && Instant::now() < deadline
                        && self.living_vm().is_some() =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    return Err(error).about(self.record.path(), "tell the guest that it woke");
                }
            }
        }
    }

    fn wake_message(&self) -> proto::Wake {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entropy: Vec<_> =
            (0..8).map(|_| format!("{:016x}", crate::service::random::<u64>())).collect();
        proto::Wake {
            clock_ns: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            entropy: entropy.concat(),
            secrets_epoch: self.service.delivered(&self.record).map_or(0, |id| id.epoch),
            config_epoch: self.record.next_generation,
            identity: None,
        }
    }

    /// The epoch of the secrets its guest has mounted; 0 without any.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn secrets_epoch(&self) -> Result<u64> {
        let ask = async { self.client(ANSWER).await?.status(ANSWER).await };
        ask.await.map(|status| status.secrets_epoch).about(self.record.path(), "ask its guest")
    }

    /// Lets the guest unmount its secrets, so that their drive can be written.
    ///
    /// # Errors
    /// When a process in the guest holds them, or it does not answer in time.
    pub(crate) async fn release_secrets(&self) -> Result<()> {
        let step = proto::SecretsStep::Release;
        let ask = async { self.client(ANSWER).await?.secrets(step, ANSWER).await };
        let release = async {
            ask.await.map(drop).about(self.record.path(), "take its secrets from its guest")
        };
        around(Effect::ReleaseSecrets, self.record.path(), release).await
    }

    /// Lets the guest mount its secrets; says which file system it mounted.
    ///
    /// # Errors
    /// When it cannot, or does not answer in time.
    pub(crate) async fn mount_secrets(&self, epoch: u64) -> Result<Option<String>> {
        let step = proto::SecretsStep::Mount { epoch };
        let ask = async { self.client(ANSWER).await?.secrets(step, ANSWER).await };
        let give = async { ask.await.about(self.record.path(), "give its guest its secrets") };
        let mounted = around(Effect::GiveSecrets, self.record.path(), give).await?;
        Ok(mounted.uuid)
    }

    /// Asks the guest to turn itself off and waits for its VM to end.
    ///
    /// # Errors
    /// When it does not within `grace`.
    pub async fn power_off(&self, grace: Duration) -> Result<()> {
        let path = self.record.path();
        let Some(vm) = self.living_vm() else { return Ok(()) };
        let asked = async {
            let client = self.client(ANSWER).await?;
            client.poweroff(&fresh_id(), proto::Poweroff::default(), ANSWER).await
        };
        let ask = async { asked.await.about(&path, "ask the guest to turn itself off") };
        around(Effect::PowerOff, &path, ask).await?;
        match self.wait_for(&vm.process, grace).await? {
            Waited::Gone => Ok(()),
            Waited::StillRunning => {
                Err(Error::new(Kind::Timeout, path, "the guest did not turn itself off in time"))
            }
        }
    }

    /// One line about the guest.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn guest_status(&self) -> Result<String> {
        let ask = async { self.client(ANSWER).await?.status(ANSWER).await };
        let status = ask.await.about(self.record.path(), "ask the guest")?;
        let mut text = format!("answers, up {} s", status.uptime_ms / 1000);
        for problem in &status.problems {
            text = format!("{text}; {problem}");
        }
        Ok(text)
    }
}

impl Service {
    /// A client to a running instance's guest.
    ///
    /// # Errors
    /// [`Kind::WrongState`] when it does not run, [`Kind::Timeout`] when it does not answer.
    pub async fn guest(&self, path: &InstancePath) -> Result<GuestClient> {
        let visit = self.guest_stream(path).await?;
        let client = GuestClient::connect(visit, Transport::Fresh, ANSWER).await;
        client.about(path, "reach its guest agent")
    }

    /// A connection to a running instance's guest that a [`GuestClient`] elsewhere can use.
    ///
    /// # Errors
    /// As [`Self::guest`].
    pub async fn guest_stream(&self, path: &InstancePath) -> Result<Visit> {
        let machine = self.running_machine(path).await?;
        let stream = machine.stream().await.about(path, "reach its guest agent")?;
        Ok(self.visit(&machine.record, stream))
    }

    async fn running_machine(&self, path: &InstancePath) -> Result<Machine> {
        let mut record = self.instance(path)?;
        if record.transition.is_some() {
            // Left by an interrupted command, unless somebody is at it right now.
            self.note_exit(path).await;
            record = self.instance(path)?;
        }
        if let Some(transition) = &record.transition {
            let word = crate::view::transition_word(transition);
            return Err(Error::new(Kind::Busy, path, format!("{path} is {word}")).hint(format!(
                "wait for it to finish and try again; 'mvm instance logs {path} --console' \
                     and '--vmm' show what its machine says meanwhile"
            )));
        }
        let status = self.observe(&record).state.status();
        if status != Status::Running {
            let hint = match status {
                Status::Warm | Status::Sleeping => format!("mvm instance wake {path}"),
                _ => format!("mvm instance start {path}"),
            };
            return Err(Error::new(
                Kind::WrongState,
                path,
                format!("{path} is {status}, not running"),
            )
            .hint(hint));
        }
        Ok(Machine::of(self, &record))
    }

    /// Runs a command in a guest to its end, with what it printed.
    ///
    /// # Errors
    /// When the guest does not answer or the command cannot be run.
    pub async fn exec_captured(
        &self,
        path: &InstancePath,
        argv: &[&str],
        limit: Duration,
    ) -> Result<Captured> {
        let exec = Exec { argv: argv.iter().map(ToString::to_string).collect(), ..Exec::default() };
        let client = self.guest(path).await?;
        client.run(exec, b"", MOST_OUTPUT, limit).await.about(path, "run the command")
    }
}

impl Classify for GuestError {
    fn classify(&self) -> (Kind, Option<String>) {
        let silent = Some(
            "'mvm instance logs <instance> --console' shows what the guest printed".to_owned(),
        );
        match self {
            Self::Timeout { .. } | Self::Unavailable { .. } => (Kind::Timeout, silent),
            Self::Lost { .. } => (Kind::Unavailable, silent),
            Self::NotFound { .. } => (Kind::NotFound, None),
            Self::Refused { .. } => (Kind::Refused, None),
            Self::Unsupported { .. } => (
                Kind::Unavailable,
                Some("its image is older than this mvm; build and restart".into()),
            ),
            Self::Failed { .. } | Self::Protocol { .. } | Self::Local { .. } => {
                (Kind::Failed, None)
            }
        }
    }
}
