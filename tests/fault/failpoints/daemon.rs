//! The agent as a daemon: what goes wrong in one operation stays there.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::Outcome;
use crate::common::world::told;
use crate::host::{Fake, POOL};
use crate::left;

/// A transition that panics in the agent ends with an error for who asked; the agent lives, holds
/// no lock, and does what it is asked next.
pub fn a_panic_stays_with_its_operation(fake: &Fake) -> Outcome {
    fake.set_up();
    fake.bring(POOL, "running");
    let instance = fake.only(POOL);
    for (verb, place) in [("warm", "before:pause-vm#1"), ("sleep", "after:save-memory#1")] {
        let mut command = fake.command(&["agent", "serve"]);
        command.env("MVM_FAILPOINT", format!("panic@mvm/{place}"));
        let log = File::create(fake.path("agent.log")).expect("a log");
        let again = log.try_clone().expect("a log");
        let mut agent = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(again))
            .spawn()
            .expect("the agent starts");
        fake.eventually("the agent answers", Duration::from_secs(30), || {
            fake.run(&["agent", "status"]).status.success() && fake.path("run/agent.sock").exists()
        });
        let failed = fake.run(&["instance", verb, &instance]);
        assert_eq!(failed.status.code(), Some(1), "{}", told(&failed));
        assert!(agent.try_wait().expect("it can be asked").is_none(), "the agent is gone");
        // Nobody holds the instance any more.
        fake.ok(&["instance", verb, &instance]);
        fake.ok(&["instance", "wake", &instance]);
        kill(Pid::from_raw(agent.id() as i32), Signal::SIGTERM).expect("it takes a signal");
        agent.wait().expect("the agent ends");
        let _ = std::fs::remove_file(fake.path("agent.log"));
    }
    let wrong = left::wrong(fake, &BTreeSet::new());
    assert!(wrong.is_empty(), "{wrong:#?}");
    Outcome::Passed
}
