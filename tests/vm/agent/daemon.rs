//! An agent that a test runs.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::World;
use crate::common::patience::Patience;

/// The pool the scenarios share.
pub const POOL: &str = "aa/workers";
/// How long a guest may take to come up on a busy machine.
pub const BOOT: Duration = Duration::from_secs(90);
/// How long the agent may take for anything else.
pub const SOON: Duration = Duration::from_secs(20);

/// An agent, ended when dropped.
pub struct Agent {
    child: Child,
}

impl Agent {
    /// Starts one and waits until it answers.
    pub fn start(world: &World, args: &[&str]) -> Self {
        Self::start_as(world, world.command(&[&["agent", "serve"], args].concat()))
    }

    /// Starts this command and waits until it answers.
    pub fn start_as(world: &World, mut command: Command) -> Self {
        let log = File::create(world.path("agent.log")).expect("a log");
        command.stdout(Stdio::null()).stderr(log);
        let agent = Self { child: command.spawn().expect("mvm starts") };
        world.eventually("the agent answers", SOON, || {
            world.run(&["agent", "status"]).status.success()
        });
        agent
    }

    /// Sends it a signal and waits until it is gone; whether it ended well.
    pub fn end(mut self, signal: Signal) -> bool {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is there");
        let mut patience = Patience::new(BOOT);
        loop {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status.success();
            }
            assert!(patience.pause(Duration::from_millis(10)), "the agent does not end");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many of the pool's instances have this status.
pub fn count(world: &World, status: &str) -> usize {
    let (tenant, pool) = POOL.split_once('/').expect("a pool");
    let list = world.json(&["instance", "list", "--tenant", tenant, "--pool", pool]);
    list.as_array().into_iter().flatten().filter(|row| row["status"] == status).count()
}
