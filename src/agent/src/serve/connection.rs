//! One connection: HTTP in, a stream of events out, or the bytes of a guest.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mvm_api::wire::{Event, GUEST_UPGRADE, GuestOf, MAX_REQUEST, PREFIX, Progress};
use mvm_api::{Call, Request, Unknown};
use serde_json::Value;
use tokio::net::UnixStream;

use super::operations::Running;
use super::peer::{self, Peer};
use super::{Daemon, no_agent};
use crate::error::{Error, Kind, Result};
use crate::handle::{self, Control};
use crate::service::Service;

/// How long a caller may take to say what it wants.
const HEADERS: Duration = Duration::from_secs(10);
/// How long its body may take.
const BODY: Duration = Duration::from_secs(30);

type Answer = Response<Channel<Bytes, Infallible>>;

/// Serves a connection to its end.
pub async fn serve(daemon: Arc<Daemon>, stream: UnixStream) {
    let peer = peer::admitted(&stream);
    let service = service_fn(|request| answer(daemon.clone(), peer.clone(), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = served.await {
        // A caller that left in the middle, nothing else.
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(
    daemon: Arc<Daemon>,
    peer: Option<Peer>,
    mut request: HttpRequest<Incoming>,
) -> Result<Answer, Infallible> {
    let Some(peer) = peer else { return Ok(one(&Event::Failed(not_admitted().failure()))) };
    let path = request.uri().path().to_owned();
    let upgrade = hyper::upgrade::on(&mut request);
    let routed = match read(request).await {
        Ok(body) => route(&daemon, &peer, &path, &body, upgrade).await,
        Err(error) => Err(error),
    };
    Ok(routed.unwrap_or_else(|error| one(&Event::Failed(error.failure()))))
}

async fn read(request: HttpRequest<Incoming>) -> Result<Bytes> {
    if request.method() != Method::POST {
        return Err(Error::new(Kind::Invalid, "", "every call is a POST"));
    }
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect();
    let unread = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Invalid, "", format!("the request could not be read: {why}"))
    };
    let body = tokio::time::timeout(BODY, body).await.map_err(|_| unread(&"it took too long"))?;
    Ok(body.map_err(|error| unread(&error))?.to_bytes())
}

async fn route(
    daemon: &Arc<Daemon>,
    peer: &Peer,
    path: &str,
    body: &[u8],
    upgrade: hyper::upgrade::OnUpgrade,
) -> Result<Answer> {
    let Some(name) = path.strip_prefix(PREFIX) else { return Err(unknown(path)) };
    match name.split('/').collect::<Vec<_>>()[..] {
        ["guest"] => guest(daemon, body, upgrade).await,
        ["operations", id, "watch"] => Ok(watch(operation(daemon, id)?)),
        ["operations", id, "cancel"] => {
            let operation = operation(daemon, id)?;
            operation.cancel.store(true, std::sync::atomic::Ordering::SeqCst);
            Ok(one(&Event::Reply(Value::Null)))
        }
        _ => call(daemon, peer, Request::decode(name, body).map_err(not_a_call)?).await,
    }
}

fn not_admitted() -> Error {
    Error::new(Kind::Refused, "", "you may not ask this host's agent")
        .hint("run it as root, or become a member of the group mvm and log in again")
}

fn unknown(path: &str) -> Error {
    not_a_call(Unknown::Name(path.to_owned()))
}

fn not_a_call(error: Unknown) -> Error {
    Error::new(Kind::Invalid, "", error.to_string())
        .hint("the agent may be older than this program; 'mvm status' shows its version")
}

fn operation(daemon: &Daemon, id: &str) -> Result<Arc<Running>> {
    daemon.operations.get(id).ok_or_else(|| {
        Error::new(Kind::NotFound, id, format!("there is no operation {id}"))
            .hint("'mvm agent operations' shows the ones that are remembered")
    })
}

async fn call(daemon: &Arc<Daemon>, peer: &Peer, request: Request) -> Result<Answer> {
    match &request {
        Request::AgentStatus(_) => return reply(&daemon.status()?),
        Request::AgentOperations(_) => return reply(&daemon.operations.list()),
        Request::AgentNudge(_) => {
            daemon.nudge.notify_one();
            return reply(&());
        }
        _ => {}
    }
    let service = daemon.service.on_behalf(&peer.name);
    match request.effect() {
        mvm_api::Effect::Reads => {
            let value = handle::request(request, &service, &Control::none()).await?;
            Ok(one(&Event::Reply(value)))
        }
        mvm_api::Effect::Changes => Ok(watch(begin(daemon, peer, service, request))),
    }
}

fn reply(value: &impl serde::Serialize) -> Result<Answer> {
    serde_json::to_value(value)
        .map(|value| one(&Event::Reply(value)))
        .map_err(|error| Error::new(Kind::Failed, "", "cannot encode the answer").because(error))
}

/// Begins what changes things: a task of its own, which no caller's leaving ends.
fn begin(daemon: &Arc<Daemon>, peer: &Peer, service: Service, request: Request) -> Arc<Running> {
    let operation = daemon.operations.begin(&request, peer.uid);
    let (daemon, running) = (daemon.clone(), operation.clone());
    tokio::spawn(async move {
        let told = running.clone();
        let control = Control {
            progress: Arc::new(move |sign: mvm_host::progress::Progress| {
                let mvm_host::progress::Progress { what, done, total } = sign;
                told.add(Event::Progress(Progress { what, done, total }));
            }),
            cancel: running.cancel.clone(),
        };
        // In a task within, so that a panic is an outcome too and nobody waits for ever.
        let work = tokio::spawn(async move { handle::request(request, &service, &control).await });
        let outcome = work.await.unwrap_or_else(|error| {
            Err(Error::new(Kind::Failed, "", format!("the agent broke: {error}")))
        });
        running.add(match outcome {
            Ok(value) => Event::Reply(value),
            Err(error) => Event::Failed(error.failure()),
        });
        daemon.nudge.notify_one();
    });
    operation
}

fn watch(operation: Arc<Running>) -> Answer {
    let (mut sender, answer) = stream();
    let mut following = operation.follow();
    tokio::spawn(async move {
        while let Some(event) = following.next().await {
            // Whoever leaves no longer watches; the operation goes on.
            if sender.send_data(line(&event)).await.is_err() {
                return;
            }
        }
    });
    answer
}

fn stream() -> (Sender<Bytes, Infallible>, Answer) {
    let (sender, body) = Channel::new(16);
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/x-ndjson"));
    (sender, response)
}

fn line(event: &Event) -> Bytes {
    // Cannot fail: keys are strings.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// An answer of one event.
fn one(event: &Event) -> Answer {
    let (mut sender, answer) = stream();
    // The channel holds sixteen.
    let _ = sender.try_send(hyper::body::Frame::data(line(event)));
    answer
}

/// Connects the caller with an instance's guest agent.
async fn guest(
    daemon: &Arc<Daemon>,
    body: &[u8],
    upgrade: hyper::upgrade::OnUpgrade,
) -> Result<Answer> {
    let GuestOf { instance } = serde_json::from_slice(body).map_err(|error| {
        Error::new(Kind::Invalid, "", format!("this is no request for a guest: {error}"))
    })?;
    let mut inner = daemon.service.guest_stream(&instance).await?;
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut outer = TokioIo::new(upgraded);
        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
    });
    let (_, mut answer) = stream();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = hyper::header::HeaderValue::from_static;
    answer.headers_mut().insert(CONNECTION, upgrade("upgrade"));
    answer.headers_mut().insert(UPGRADE, upgrade(GUEST_UPGRADE));
    Ok(answer)
}

/// What only a running agent can answer, asked of a process that is none.
impl handle::Handle for mvm_api::agent::GetStatus {
    async fn handle(self, _: &Service, _: &Control) -> Result<<Self as Call>::Reply> {
        Err(no_agent())
    }
}

impl handle::Handle for mvm_api::agent::Nudge {
    async fn handle(self, _: &Service, _: &Control) -> Result<<Self as Call>::Reply> {
        Err(no_agent())
    }
}

impl handle::Handle for mvm_api::agent::ListOperations {
    async fn handle(self, _: &Service, _: &Control) -> Result<<Self as Call>::Reply> {
        Err(no_agent())
    }
}
