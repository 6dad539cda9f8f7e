//! From a request to the service: one [`Handle`] per call, the same for the CLI's own process and
//! for the agent's socket.
//!
//! Nothing is decided here. A handler turns the call's fields into the arguments of a
//! [`Service`] method and what that returns into the reply.

mod agent;
mod deployment;
mod event;
mod image;
mod instance;
mod node;
mod pool;
mod secret;
mod tenant;
mod update;

pub use instance::printable;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mvm_api::wire::Unreadable;
use mvm_api::{Call, Request};
use serde_json::Value;

use crate::build::SharedSink;
use crate::error::{Error, Kind, Result};
use crate::records::Problem;
use crate::service::Service;

/// What a caller can do while its call runs.
#[derive(Clone)]
pub struct Control {
    /// Where signs of life go.
    pub progress: SharedSink,
    /// Raised to stop the call where it is safe.
    pub cancel: Arc<AtomicBool>,
}

impl Control {
    /// Nobody watches and nobody stops it.
    pub fn none() -> Self {
        Self { progress: Arc::new(|_| ()), cancel: Arc::default() }
    }

    /// Whether it should stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }
}

/// A call that the service carries out.
pub trait Handle: Call {
    /// Carries it out.
    fn handle(
        self,
        service: &Service,
        control: &Control,
    ) -> impl Future<Output = Result<Self::Reply>> + Send;
}

async fn answer<C: Handle>(call: C, service: &Service, control: &Control) -> Result<Value> {
    let reply = call.handle(service, control).await?;
    serde_json::to_value(reply)
        .map_err(|error| Error::new(Kind::Failed, "", "cannot encode the answer").because(error))
}

/// Carries out a request that came over the wire.
///
/// # Errors
/// What the operation failed with.
pub async fn request(request: Request, service: &Service, control: &Control) -> Result<Value> {
    match request {
        Request::TenantCreate(call) => answer(call, service, control).await,
        Request::TenantList(call) => answer(call, service, control).await,
        Request::TenantInfo(call) => answer(call, service, control).await,
        Request::TenantDestroy(call) => answer(call, service, control).await,
        Request::TenantUpdate(call) => answer(call, service, control).await,
        Request::TenantAdopt(call) => answer(call, service, control).await,
        Request::SecretSet(call) => answer(call, service, control).await,
        Request::SecretRotate(call) => answer(call, service, control).await,
        Request::SecretRemove(call) => answer(call, service, control).await,
        Request::SecretList(call) => answer(call, service, control).await,
        Request::PoolCreate(call) => answer(call, service, control).await,
        Request::PoolList(call) => answer(call, service, control).await,
        Request::PoolInfo(call) => answer(call, service, control).await,
        Request::PoolScale(call) => answer(call, service, control).await,
        Request::PoolDestroy(call) => answer(call, service, control).await,
        Request::PoolUpdate(call) => answer(call, service, control).await,
        Request::PoolAdopt(call) => answer(call, service, control).await,
        Request::PoolExplain(call) => answer(call, service, control).await,
        Request::PoolBuild(call) => answer(call, service, control).await,
        Request::PoolRollback(call) => answer(call, service, control).await,
        Request::PoolGc(call) => answer(call, service, control).await,
        Request::ImageList(call) => answer(call, service, control).await,
        Request::ImageBuild(call) => answer(call, service, control).await,
        Request::ImageImport(call) => answer(call, service, control).await,
        Request::ImageGc(call) => answer(call, service, control).await,
        Request::InstanceCreate(call) => answer(call, service, control).await,
        Request::InstanceList(call) => answer(call, service, control).await,
        Request::InstanceInfo(call) => answer(call, service, control).await,
        Request::InstanceStats(call) => answer(call, service, control).await,
        Request::InstanceChange(call) => answer(call, service, control).await,
        Request::InstanceDestroy(call) => answer(call, service, control).await,
        Request::InstanceAdopt(call) => answer(call, service, control).await,
        Request::InstanceHostLog(call) => answer(call, service, control).await,
        Request::NodeInfo(call) => answer(call, service, control).await,
        Request::NodeStats(call) => answer(call, service, control).await,
        Request::NodeDisk(call) => answer(call, service, control).await,
        Request::NodeGc(call) => answer(call, service, control).await,
        Request::NodeOverview(call) => answer(call, service, control).await,
        Request::NodeDoctor(call) => answer(call, service, control).await,
        Request::NodeRepair(call) => answer(call, service, control).await,
        Request::EventList(call) => answer(call, service, control).await,
        Request::EventVerify(call) => answer(call, service, control).await,
        Request::NetVerify(call) => answer(call, service, control).await,
        Request::DeploymentNew(call) => answer(call, service, control).await,
        Request::DeploymentConnect(call) => answer(call, service, control).await,
        Request::AgentStatus(call) => answer(call, service, control).await,
        Request::AgentDesired(call) => answer(call, service, control).await,
        Request::AgentReconcile(call) => answer(call, service, control).await,
        Request::AgentReconcileTenants(call) => answer(call, service, control).await,
        Request::AgentNudge(call) => answer(call, service, control).await,
        Request::AgentOperations(call) => answer(call, service, control).await,
    }
}

fn unreadable(problems: Vec<Problem>) -> Vec<Unreadable> {
    let told = |problem: Problem| Unreadable {
        path: problem.path.display().to_string(),
        problem: problem.problem,
    };
    problems.into_iter().map(told).collect()
}
