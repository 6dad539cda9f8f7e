//! A session: what most commands work with. It asks the agent when one answers, else carries
//! the same calls out in this process; a command does not know which.
//!
//! ```text
//!  agent.sock answers    → calls travel there; no root needed by whoever may ask it
//!  we may not ask it,
//!  or there is no agent  → become root, carry them out here
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mvm_agent::error::{About, Error, Kind, Result};
use mvm_agent::guest::{GuestClient, Transport};
use mvm_agent::handle::{Control, Handle};
use mvm_agent::{Dirs, Service};
use mvm_api::Client;
use mvm_api::client::Found;
use mvm_api::wire::Unreadable;
use mvm_host::progress::Progress;
use mvm_model::InstancePath;

use crate::elevate::ensure_root;
use crate::error::warn;
use crate::progress::Step;
use crate::runtime::{Context, Form};
use crate::talk;

/// How long a guest's agent may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Who carries calls out.
enum Node {
    /// This process.
    Here(Box<Service>),
    /// The agent.
    Agent(Client),
}

/// What a command works with.
pub struct Session {
    node: Node,
    /// Raised by Ctrl-C.
    pub cancel: Arc<AtomicBool>,
    /// The form of the output.
    pub form: Form,
}

impl From<&Context> for Session {
    fn from(context: &Context) -> Self {
        Self {
            node: Node::Here(Box::new(context.service.clone())),
            cancel: context.cancel.clone(),
            form: context.form,
        }
    }
}

impl Session {
    /// Finds the agent, or becomes root and opens the service. `command` names us in lock files.
    ///
    /// # Errors
    /// When there is no agent and mvm's directories cannot be used.
    pub fn open(command: &str, form: Form) -> Result<Self> {
        let dirs = Dirs::from_env(|name| std::env::var_os(name));
        if let Found::Agent(client) = Client::find(&dirs.run) {
            return Ok(Self { node: Node::Agent(client), cancel: Arc::default(), form });
        }
        ensure_root(&format!("mvm {command}"))?;
        Ok(Self::from(&Context::open(command, form)?))
    }

    /// Carries a call out, with nothing shown meanwhile.
    ///
    /// # Errors
    /// What it failed with.
    pub async fn call<C: Handle>(&self, call: C) -> Result<C::Reply> {
        self.carry_out(call, |_| ()).await
    }

    /// Carries a call out, showing its signs of life.
    ///
    /// # Errors
    /// What it failed with.
    pub async fn call_showing<C: Handle>(&self, call: C, step: &Step) -> Result<C::Reply> {
        let step = step.clone();
        self.carry_out(call, move |sign| step.show(&sign)).await
    }

    async fn carry_out<C: Handle>(
        &self,
        call: C,
        show: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<C::Reply> {
        match &self.node {
            Node::Here(service) => {
                let control = Control { progress: Arc::new(show), cancel: self.cancel.clone() };
                call.handle(service, &control).await
            }
            Node::Agent(client) => {
                let told = |sign: mvm_api::wire::Progress| {
                    show(Progress { what: sign.what, done: sign.done, total: sign.total });
                };
                Ok(client.call(&call, told, interrupted(&self.cancel)).await?)
            }
        }
    }

    /// A client to a running instance's guest.
    ///
    /// # Errors
    /// When it does not run or does not answer.
    pub async fn guest(&self, path: &InstancePath) -> Result<GuestClient> {
        match &self.node {
            Node::Here(service) => service.guest(path).await,
            Node::Agent(client) => {
                let stream = client.guest(path).await.map_err(Error::from)?;
                let connected = GuestClient::connect(stream, Transport::Fresh, ANSWER).await;
                connected.about(path, "reach its guest agent")
            }
        }
    }

    /// The service, when calls are carried out in this process.
    pub fn here(&self) -> Option<&Service> {
        match &self.node {
            Node::Here(service) => Some(service),
            Node::Agent(_) => None,
        }
    }

    /// The context of commands that work in this process, when calls are carried out here.
    pub fn context(&self) -> Option<Context> {
        let (cancel, form) = (self.cancel.clone(), self.form);
        self.here().map(|service| Context { service: service.clone(), cancel, form })
    }

    /// The agent's client, when one answers.
    pub fn agent(&self) -> Option<&Client> {
        match &self.node {
            Node::Here(_) => None,
            Node::Agent(client) => Some(client),
        }
    }

    /// Runs `work` until it ends or Ctrl-C is pressed; for streams, which undo nothing.
    ///
    /// # Errors
    /// What the work says, or [`Kind::Interrupted`].
    pub async fn until_interrupted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = interrupted(&self.cancel) => {
                Err(Error::new(Kind::Interrupted, "", "interrupted"))
            }
        }
    }
}

/// Ends when Ctrl-C is pressed.
pub async fn interrupted(cancel: &AtomicBool) {
    while !cancel.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Tells of records that could not be read; the others are shown all the same.
pub fn warn_of(unreadable: &[Unreadable]) {
    for record in unreadable {
        warn(talk::form(), &record.path, &record.problem);
    }
}
