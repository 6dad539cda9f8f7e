//! Progress on stderr: a bar or a spinner for a person, plain lines when it is not a terminal,
//! nothing for a program that asked for JSON.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mvm_agent::build::SharedSink;
use mvm_host::progress::Progress;

use crate::runtime::Form;
use crate::talk;

/// One long step that is shown while it runs.
#[derive(Clone)]
pub struct Step {
    bar: Option<ProgressBar>,
    started: Instant,
    last: Arc<Mutex<String>>,
}

impl Step {
    /// Starts showing `what`.
    pub fn start(what: &str) -> Self {
        let watched = std::io::stderr().is_terminal() && talk::form() == Form::People;
        let bar = watched.then(|| spinner(what));
        if bar.is_none() {
            talk::say(format_args!("{what} ..."));
        }
        Self { bar, started: Instant::now(), last: Arc::default() }
    }

    /// Shows a sign of life.
    pub fn show(&self, progress: &Progress) {
        let Some(bar) = &self.bar else { return self.show_line(progress) };
        match progress.total {
            Some(total) if total > 0 => {
                bar.set_style(bar_style());
                bar.set_length(total);
                bar.set_position(progress.done.min(total));
            }
            _ => bar.set_style(spinner_style()),
        }
        bar.set_message(progress.what.clone());
    }

    fn show_line(&self, progress: &Progress) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != progress.what {
            talk::say(format_args!("  {}", progress.what));
            last.clone_from(&progress.what);
        }
    }

    /// Something that shows signs of life from another thread.
    pub fn sink(&self) -> SharedSink {
        let step = self.clone();
        Arc::new(move |progress: Progress| step.show(&progress))
    }

    /// Ends the step; returns how long it took.
    pub fn done(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // Of the clones only the last clears the line; a finished bar ignores it.
        if let Some(bar) = &self.bar
            && Arc::strong_count(&self.last) == 1
        {
            bar.finish_and_clear();
        }
    }
}

fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_style(spinner_style()).with_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn spinner_style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} [{bar:24}] {percent}% ({elapsed})")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
