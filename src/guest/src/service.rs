//! `mvm-guest serve`: the agent as a service under another init.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};

use crate::guest::{Guest, Place};
use crate::initrd::Took;
use crate::{init, transport};

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Serve hosts.
    Serve(Options),
    /// Say the version.
    Version,
}

/// How to serve.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// A unix socket to serve instead of virtio-serial and vsock.
    unix: Option<PathBuf>,
    /// Directory that stands for `/` in file requests.
    root: Option<PathBuf>,
    /// Command that turns the machine off.
    poweroff: Option<Vec<String>>,
}

const USAGE: &str = "usage: mvm-guest serve [--unix PATH] [--root DIR] [--poweroff COMMAND]
       mvm-guest --version
Answers an mvm host on virtio-serial and vsock, or on the unix socket PATH.
As process 1 it is the guest's init and takes no arguments.";

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// How it should have been.
    pub(crate) fn parse(arguments: &[String]) -> Result<Command, &'static str> {
        let mut words = arguments.iter().map(String::as_str);
        match words.next() {
            Some("serve") => {}
            Some("--version" | "-V") => return Ok(Command::Version),
            _ => return Err(USAGE),
        }
        let mut options = Self::default();
        while let Some(word) = words.next() {
            let value = words.next().ok_or(USAGE)?;
            match word {
                "--unix" => options.unix = Some(value.into()),
                "--root" => options.root = Some(value.into()),
                "--poweroff" => {
                    options.poweroff = Some(value.split_whitespace().map(Into::into).collect());
                }
                _ => return Err(USAGE),
            }
        }
        Ok(Command::Serve(options))
    }
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(options: &Options) -> ExitCode {
    let signals = init::block_signals();
    let root = options.root.clone().unwrap_or_else(|| "/".into());
    let root = match std::fs::File::open(&root) {
        Ok(root) => root,
        Err(error) => {
            eprintln!("mvm-guest: {}: {error}", root.display());
            return ExitCode::FAILURE;
        }
    };
    let place = match options.unix {
        Some(_) => Place::Lodger,
        None => Place::Service { poweroff: options.poweroff.clone() },
    };
    let guest = Guest::new(place, root.into(), Took::nothing());
    // Nothing is left to do but to listen; whoever reaches the socket finds it so.
    guest.now_ready();
    match &options.unix {
        None => transport::serve_all(&guest),
        Some(path) => {
            if let Err(error) = transport::serve_unix(&guest, path) {
                eprintln!("mvm-guest: {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    reap_until_told(&guest, &signals);
    guest.reaper.end_all();
    if let Some(path) = &options.unix {
        let _ = std::fs::remove_file(path);
    }
    ExitCode::SUCCESS
}

fn reap_until_told(guest: &Arc<Guest>, signals: &SigSet) {
    loop {
        guest.reaper.reap();
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, &'static str> {
        Options::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_read() {
        let unix = Some("/run/a".into());
        let expected = Options { unix, ..Options::default() };
        assert_eq!(parse("serve --unix /run/a"), Ok(Command::Serve(expected)));
        assert_eq!(parse("--version"), Ok(Command::Version));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in ["", "serve --unix", "serve --nothing x", "exec"] {
            assert_eq!(parse(line), Err(USAGE), "{line:?}");
        }
    }
}
