//! Why a connection to a guest ended: what became of its instance meanwhile, and by whom.

use std::time::{Duration, Instant};

use mvm_agent::error::{Error, Kind};
use mvm_api::event::{self, Event};
use mvm_api::instance::{Info, View};
use mvm_model::InstancePath;
use mvm_model::state::Status;

use crate::session::Session;

/// How long what is on its way with an instance is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a VM's supervisor may take to write down how it ended.
const ENDING: Duration = Duration::from_secs(3);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often, for who did it.
const LOOKS: usize = 15;
/// What a VM that ended by itself leaves in the events.
const EXIT: &str = "instance.exit";
/// So many of a tenant's last events are looked through.
const LAST_EVENTS: usize = 50;

/// The error a connection ended with, or what is behind it when the instance is no longer up.
pub async fn explain(session: &Session, path: &InstancePath, error: Error) -> Error {
    if !matches!(error.kind, Kind::Unavailable | Kind::Timeout) {
        return error;
    }
    match settled(session, path).await {
        Ok(view) => match ended_by(session, path, &view).await {
            None => named(error, path),
            Some(told) => told,
        },
        Err(gone) if gone.kind == Kind::NotFound => {
            Error::new(Kind::NotFound, path, format!("{path} was destroyed"))
        }
        Err(_) => named(error, path),
    }
}

/// What became of it, and by whom, which is written down right after.
async fn ended_by(session: &Session, path: &InstancePath, view: &View) -> Option<Error> {
    let (_, event) = ending(view.status)?;
    let object = format!("{}/{}/{}", view.tenant_id, view.pool_id, view.instance_id);
    let mut last = None;
    for _ in 0..LOOKS {
        let all = event::List { tenant: Some(path.pool.tenant.clone()), last: LAST_EVENTS };
        let events = session.call(all).await.unwrap_or_default();
        last = events.into_iter().rfind(|one| one.object == object);
        if last.as_ref().is_some_and(|last| last.event == event || last.event == EXIT) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    told(path, view, last.as_ref())
}

/// What of an instance ends what people have open in it, as words and as an event.
fn ending(status: Status) -> Option<(&'static str, &'static str)> {
    Some(match status {
        Status::Running => return None,
        Status::Warm => ("was paused", "instance.warm"),
        Status::Sleeping => ("was put to sleep", "instance.sleep"),
        Status::Stopped => ("was stopped", "instance.stop"),
        Status::Created | Status::Failed => ("is off", EXIT),
    })
}

/// The instance, when nothing is on its way with it any more. One that runs is looked at for a
/// while: how its VM ended may still be written down.
async fn settled(session: &Session, path: &InstancePath) -> Result<View, Error> {
    let began = Instant::now();
    let waiting = async {
        loop {
            let view = session.call(Info { instance: path.clone() }).await?;
            let runs = view.status == Status::Running && began.elapsed() < ENDING;
            if view.transition.is_none() && !runs {
                return Ok(view);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(view) => view,
        Err(_) => session.call(Info { instance: path.clone() }).await,
    }
}

/// What became of it; `None` while it is up.
fn told(path: &InstancePath, view: &View, last: Option<&Event>) -> Option<Error> {
    let (what, event) = ending(view.status)?;
    let text = match (last, &view.reason) {
        (Some(last), _) if last.event == event && event != EXIT => {
            format!("{path} {what} by {}", last.by)
        }
        (_, Some(reason)) => format!("{path} is {}: {reason}", view.status),
        (_, None) => format!("{path} {what}"),
    };
    let error = Error::new(Kind::Unavailable, path, text);
    Some(match view.status {
        Status::Warm | Status::Sleeping => error.hint(format!("mvm instance wake {path}")),
        Status::Failed => error.hint(format!("mvm instance logs {path} --console")),
        _ => error.hint(format!("mvm instance start {path}")),
    })
}

/// The hint of a guest that was lost names its instance.
fn named(error: Error, path: &InstancePath) -> Error {
    let hint = error.hint.as_ref().map(|hint| hint.replace("<instance>", &path.to_string()));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use mvm_api::event::Outcome;
    use serde_json::json;

    use super::*;

    fn view(status: &str, reason: Option<&str>) -> View {
        let view = json!({
            "instance_id": "i-00000001", "tenant_id": "acme", "pool_id": "workers",
            "role": "worker", "status": status, "mac": "02:4d:00:03:00:05", "tap_dev": "tn3i5",
            "since": 1, "reason": reason,
        });
        serde_json::from_value(view).unwrap()
    }

    fn event(event: &str) -> Event {
        Event {
            seq: 1,
            at: 1,
            tenant: "acme".into(),
            object: "acme/workers/i-00000001".into(),
            event: event.into(),
            outcome: Outcome::Done,
            detail: String::new(),
            by: "mvm instance sleep (root)".into(),
            previous: String::new(),
        }
    }

    #[test]
    fn whoever_took_it_down_is_named() {
        let path: InstancePath = "acme/workers/alice".parse().unwrap();
        let text = |status, reason, last| {
            told(&path, &view(status, reason), Some(&event(last))).map(|error| error.message)
        };
        assert_eq!(text("running", None, "instance.start"), None);
        let slept = "acme/workers/alice was put to sleep by mvm instance sleep (root)";
        assert_eq!(text("sleeping", None, "instance.sleep").unwrap(), slept);
        let off = "acme/workers/alice is stopped: its guest turned itself off";
        let reason = Some("its guest turned itself off");
        assert_eq!(text("stopped", reason, "instance.exit").unwrap(), off);
        let failed = text("failed", Some("its guest's kernel panicked: oh"), "instance.exit");
        assert!(failed.unwrap().ends_with("is failed: its guest's kernel panicked: oh"));
    }
}
