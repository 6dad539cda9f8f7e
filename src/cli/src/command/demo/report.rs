//! What the demo did: one row per act, printed at the end.

use std::time::{Duration, Instant};

use mvm_agent::error::Result;

use crate::output;

/// What an act found, for the next act and for the table.
pub struct Done<T> {
    value: T,
    text: String,
}

impl<T> Done<T> {
    /// A value and what to tell about it.
    pub fn new(value: T, text: impl Into<String>) -> Self {
        Self { value, text: text.into() }
    }
}

/// The rows so far.
#[derive(Default)]
pub struct Report {
    rows: Vec<(&'static str, Duration, String)>,
}

impl Report {
    /// Plays an act and notes how long it took.
    ///
    /// # Errors
    /// What the act says.
    pub async fn act<T>(
        &mut self,
        name: &'static str,
        act: impl Future<Output = Result<Done<T>>>,
    ) -> Result<T> {
        let started = Instant::now();
        let done = act.await?;
        self.rows.push((name, started.elapsed(), done.text));
        Ok(done.value)
    }

    /// Prints the table.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn print(&self) -> Result<()> {
        let rows = self.rows.iter().map(|(name, took, text)| {
            vec![(*name).to_owned(), output::duration(*took), text.clone()]
        });
        output::table(&["step", "took", "what was seen"], rows.collect(), "nothing was done")
    }
}
