//! Runs lines as a person types them: in bash, from the checkout's root, `mvm` on the path.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::common::World;
use crate::common::terminal::Terminal;
use crate::common::world::{spawn, told, wait_for};

/// How long a line may take: a deployment waits five minutes for its gateway to listen.
const PATIENCE: Duration = Duration::from_secs(600);

/// Which deployment the pass makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// As written.
    OpenClaw,
    /// With `hello` for `openclaw`.
    Hello,
}

/// A person's shell.
pub struct Shell<'a> {
    pub world: &'a World,
    pub pass: Pass,
    /// Variables that lines set.
    variables: Vec<(String, String)>,
}

impl<'a> Shell<'a> {
    pub fn new(world: &'a World, pass: Pass) -> Self {
        Self { world, pass, variables: Vec::new() }
    }

    /// The line of this pass.
    fn line(&self, line: &str) -> String {
        match self.pass {
            Pass::OpenClaw => line.to_owned(),
            Pass::Hello => line.replace("mvm new openclaw", "mvm new hello"),
        }
    }

    fn command(&self, line: &str) -> std::process::Command {
        let mvm = self.world.command(&[]);
        let dir = Path::new(mvm.get_program()).parent().expect("a directory").to_owned();
        let mut command = std::process::Command::new("bash");
        command.env_clear();
        for (name, value) in mvm.get_envs() {
            let Some(value) = value else { continue };
            match name.to_str() {
                Some("PATH") => {
                    command.env("PATH", format!("{}:{}", dir.display(), value.to_string_lossy()))
                }
                _ => command.env(name, value),
            };
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(["-euo", "pipefail", "-c", line]);
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        command.stdin(std::process::Stdio::null());
        command
    }

    /// Runs a line; everything about it.
    pub fn run(&self, line: &str) -> Output {
        let line = self.line(line);
        wait_for(spawn(self.command(&line)), &[&line], PATIENCE)
    }

    /// Runs a line, which must succeed; what it printed on stdout.
    pub fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "$ {line}\n{}", told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a line, which must succeed; both of its streams.
    pub fn both(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "$ {line}\n{}", told(&output));
        told(&output)
    }

    /// Runs a line, which must fail with this code; what it printed on stderr.
    pub fn refused(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(code), "$ {line}\n{}", told(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs `NAME=$(…)` and keeps the variable for the lines after it.
    pub fn set(&mut self, line: &str) -> String {
        let (name, _) = line.split_once('=').expect("NAME=…");
        let value = self.ok(&format!("{line}\nprintf %s \"${name}\""));
        self.variables.push((name.to_owned(), value.clone()));
        value
    }

    /// Runs a line on a terminal.
    pub fn terminal(&self, line: &str) -> Terminal {
        Terminal::start(self.command(&self.line(line)), 24, 80)
    }

    /// The rows of a tenant's instances.
    pub fn instances(&self, tenant: &str) -> Vec<serde_json::Value> {
        let list = self.world.json(&["instance", "list", "--tenant", tenant]);
        list.as_array().expect("a bare array").clone()
    }
}

/// Asserts that a text has all of these words.
pub fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in\n{text}");
    }
}
