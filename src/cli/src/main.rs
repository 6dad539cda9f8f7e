//! `mvm`: the one binary. People's commands, and (hidden) the small processes a host needs: the
//! shim beside each VM, the trampoline that confines a VMM, the tenants' resolver.
//!
//! ```text
//! args ── cli::Cli ── command::<noun>::<verb> ── Session ── agent, or Service in this process
//!                          │
//!                          └── output (tables, JSON), progress (stderr), error (exit code)
//! ```

mod cli;
mod command;
mod elevate;
mod error;
mod gone;
mod internal;
mod output;
mod progress;
mod runtime;
mod session;
mod talk;
mod usage;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = internal::confine() {
        return code;
    }
    talk::begin(std::env::args_os().skip(1));
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MVM_LOG")
                .unwrap_or_else(|_| quiet_unless_asked().into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .without_time()
        .with_target(false)
        .init();
    if let Some(code) = internal::dispatch() {
        return code;
    }
    cli::run()
}

/// Programs get nothing on stderr but a failure, unless they ask for more.
fn quiet_unless_asked() -> &'static str {
    match talk::form() {
        runtime::Form::People => "warn",
        runtime::Form::Json => "off",
    }
}
