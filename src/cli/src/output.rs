//! Tables for people, JSON for programs. stdout is data; talk goes to stderr.

use comfy_table::{ContentArrangement, Table, presets};
use mvm_agent::error::{Error, Kind, Result};
use serde::Serialize;

use crate::talk;

/// Prints a value as JSON.
///
/// # Errors
/// When stdout is gone.
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(Kind::Failed, "", "cannot encode the output").because(error))?;
    line(&text)
}

/// Prints a line of data.
///
/// # Errors
/// When stdout is gone.
pub fn line(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written
        .map_err(quietly_if_closed)
        .map_err(|error| Error::new(Kind::Failed, "", "cannot write the output").because(error))
}

/// Clears the screen of a terminal; elsewhere it does nothing.
///
/// # Errors
/// When stdout is gone.
pub fn clear() -> Result<()> {
    use std::io::IsTerminal;
    match std::io::stdout().is_terminal() {
        true => line("\x1b[H\x1b[2J"),
        false => Ok(()),
    }
}

/// A reader that left (`| head`) is no failure to talk about: ends the process as SIGPIPE would.
pub fn quietly_if_closed(error: std::io::Error) -> std::io::Error {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(128 + nix::libc::SIGPIPE);
    }
    error
}

/// Prints a table, or `nothing` (on stderr) when there are no rows.
///
/// # Errors
/// When stdout is gone.
pub fn table(header: &[&str], rows: Vec<Vec<String>>, nothing: &str) -> Result<()> {
    if rows.is_empty() {
        talk::say(nothing);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|word| word.to_uppercase()));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    line(&trimmed(&table.to_string()))
}

/// Prints names and values, one pair a line.
///
/// # Errors
/// When stdout is gone.
pub fn pairs(pairs: &[(&str, String)]) -> Result<()> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let lines: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{:width$} {value}", format!("{name}:")))
        .collect();
    line(&lines.join("\n"))
}

fn trimmed(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A number of things for people: `1 revision`, `2 revisions`.
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A duration for people.
pub fn duration(time: std::time::Duration) -> String {
    match time.as_secs_f64() {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.1} s"),
        s => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), s % 60.0),
    }
}

/// How long ago a moment was.
pub fn ago(then: u64, now: u64) -> String {
    let seconds = now.saturating_sub(then) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn quantities_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(duration(Duration::from_millis(12)), "12 ms");
        assert_eq!(duration(Duration::from_millis(2340)), "2.3 s");
        assert_eq!(duration(Duration::from_secs(150)), "2 min 30 s");
        assert_eq!(ago(0, 7_200_000), "2h");
    }
}
