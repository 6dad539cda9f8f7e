//! `mvm instance shell`: a terminal in a guest.

use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use mvm_agent::error::{About, Result};
use mvm_agent::guest::ProcessInput;
use mvm_agent::guest::proto::{Exec, TtySize};
use mvm_model::InstancePath;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use super::exec::{START, feed, follow};
use crate::command::in_session;
use crate::gone;
use crate::runtime::Form;
use crate::session::Session;

/// Arguments.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The instance: <tenant>/<pool>/<id or name>
    instance: InstancePath,
}

/// Runs it.
pub fn run(args: Args) -> ExitCode {
    in_session("instance shell", Form::People, |session| async move {
        open(&session, &args.instance).await
    })
}

/// Opens a login shell; returns its exit code. Without a terminal it reads commands from
/// standard input.
///
/// # Errors
/// When the guest does not answer.
pub async fn open(session: &Session, path: &InstancePath) -> Result<ExitCode> {
    let client = session.guest(path).await?;
    let raw = RawTerminal::enter();
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".into());
    let exec = Exec {
        argv: vec!["/bin/sh".into(), "-l".into()],
        env: [("TERM".to_owned(), term)].into(),
        tty: raw.as_ref().map(|_| size()),
        ..Exec::default()
    };
    let process = client.exec(exec, START).await.about(path, "open a shell")?;
    let feeding = tokio::spawn(feed(process.input()));
    let resizing = tokio::spawn(follow_size(process.input()));
    let exit = session.until_interrupted(follow(path, &process)).await;
    feeding.abort();
    resizing.abort();
    drop(raw);
    match exit {
        Err(error) => Err(gone::explain(session, path, error).await),
        exit => exit,
    }
}

async fn follow_size(input: ProcessInput) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    while changed.recv().await.is_some() {
        input.resize(size()).await;
    }
}

/// The size of our terminal; the classic one when it does not say.
fn size() -> TtySize {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    let mut found = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which `found` is and which outlives the call.
    let asked = unsafe { window_size(0, &mut found) };
    match asked {
        Ok(_) if found.ws_row > 0 && found.ws_col > 0 => {
            TtySize { rows: found.ws_row, cols: found.ws_col }
        }
        _ => TtySize { rows: 24, cols: 80 },
    }
}

/// A terminal that passes every key on, until dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// `None` when standard input is no terminal.
    fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin().as_fd()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}
