//! Answers requests: one thread each, one file per subject.

use std::sync::Arc;

use mvm_guest_proto::message::{
    Call, ErrorKind, Failure, Hello, NotUnderstood, Outcome, Request, VERBS,
};
use serde::Serialize;

use crate::guest::Guest;
use crate::once::Turn;
use crate::session::{Gone, Stream};

mod exec;
mod files;
mod logs;
mod port;
mod poweroff;
mod secrets;
mod sleep;
mod status;
mod write;

/// Answers the request in `call` on its stream.
pub(crate) fn answer(guest: &Arc<Guest>, stream: Stream, call: &[u8]) {
    let call = match Call::from_bytes(call) {
        Ok(call) => call,
        Err(NotUnderstood::Malformed(why)) => return refuse(stream, ErrorKind::Invalid, why),
        Err(NotUnderstood::Unsupported(verb)) => {
            return refuse(stream, ErrorKind::Unsupported, format!("unknown verb {verb:?}"));
        }
    };
    if call.request.is_once() {
        return answer_once(guest, stream, &call);
    }
    match call.request {
        Request::Hello => stream.close(Ok(hello())),
        Request::Status => stream.close(Ok(status::status(guest))),
        Request::Exec(exec) => finish(stream, |stream| exec::exec(guest, stream, &exec)),
        Request::ReadFile(read) => finish(stream, |stream| files::read(guest, stream, &read)),
        Request::List(list) => finish(stream, |stream| files::list(guest, stream, &list)),
        Request::Stat(stat) => stream.close(files::stat(guest, &stat.path)),
        Request::MakeDir(make) => stream.close(files::make_dir(guest, &make)),
        Request::OpenPort(open) => finish(stream, |stream| port::open(stream, &open)),
        Request::Logs(logs) => finish(stream, |stream| logs::send(guest, stream, &logs)),
        Request::Secrets(step) => stream.close(secrets::step(guest, &step)),
        Request::WriteFile(_) | Request::SleepPrep(_) | Request::Wake(_) | Request::Poweroff(_) => {
            // Answered above.
        }
    }
}

/// Answers a verb that must not happen twice under one id.
fn answer_once(guest: &Arc<Guest>, stream: Stream, call: &Call) {
    let claim = match guest.once.turn(&call.id) {
        Turn::Done(outcome) => return stream.close_with(&outcome),
        Turn::First(claim) => claim,
    };
    let outcome = match &call.request {
        Request::WriteFile(request) => match write::write(guest, &stream, request) {
            Ok(outcome) => to_bytes(outcome),
            // Cut short: nothing was written, a repetition may.
            Err(Gone) => return,
        },
        Request::SleepPrep(request) => to_bytes(sleep::prepare(guest, request)),
        Request::Wake(request) => to_bytes(sleep::wake(guest, request)),
        Request::Poweroff(_) => to_bytes(poweroff::may(guest)),
        _ => return,
    };
    claim.done(&outcome);
    let session = stream.session();
    stream.close_with(&outcome);
    if let Request::Poweroff(request) = &call.request {
        poweroff::now(guest, request, &session);
    }
}

fn to_bytes<T: Serialize>(outcome: Result<T, Failure>) -> Vec<u8> {
    match outcome {
        Ok(value) => Outcome::Ok(value),
        Err(failure) => Outcome::Error(failure),
    }
    .to_bytes()
}

fn refuse(stream: Stream, kind: ErrorKind, message: String) {
    stream.close::<()>(Err(Failure::new(kind, message)));
}

/// Why a request with data ended early.
enum Stop {
    /// Nobody wants the outcome.
    Gone,
    /// This is the outcome.
    Failed(Failure),
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Runs a request with data and closes its stream with what came of it.
fn finish<T: Serialize>(stream: Stream, run: impl FnOnce(&Stream) -> Result<T, Stop>) {
    match run(&stream) {
        Ok(value) => stream.close(Ok(value)),
        Err(Stop::Failed(failure)) => stream.close::<T>(Err(failure)),
        Err(Stop::Gone) => drop(stream),
    }
}

fn hello() -> Hello {
    Hello {
        version: mvm_guest_proto::VERSION,
        agent: env!("CARGO_PKG_VERSION").into(),
        verbs: VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
    }
}

/// A failure from the system, with what was tried.
fn system_failure(what: &str, error: impl Into<std::io::Error>) -> Failure {
    use std::io::ErrorKind as Io;
    let error = error.into();
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied => ErrorKind::Refused,
        _ => ErrorKind::Failed,
    };
    Failure::new(kind, format!("{what}: {}", crate::sys::describe(&error)))
}
