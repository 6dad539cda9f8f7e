//! What Nix says: progress, failures, and where it put the result.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::packages::process::Output;

/// Lines shown of a failure.
const LINES: usize = 6;
/// Characters shown of a failure.
const SHOWN: usize = 700;
/// How the lines worth showing start.
const STEPS: [&str; 8] = [
    "building ",
    "copying ",
    "downloading ",
    "fetching ",
    "unpacking ",
    "querying ",
    "these ",
    "this ",
];

/// One entry of `nix build --json`.
#[derive(Deserialize)]
struct Entry {
    outputs: Outputs,
}

#[derive(Deserialize)]
struct Outputs {
    out: PathBuf,
}

/// The store path in the answer of `nix build --json`, or what is wrong with the answer.
pub(super) fn store_path(json: &str) -> Result<PathBuf, String> {
    let entries: Vec<Entry> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    match &entries[..] {
        [Entry { outputs }] if is_store_path(&outputs.out) => Ok(outputs.out.clone()),
        [Entry { outputs }] => Err(format!("{:?} is not a store path", outputs.out)),
        _ => Err(format!("it names {} results instead of one", entries.len())),
    }
}

/// Whether it looks like `/nix/store/<32 letters and digits>-<name>`; the store may be elsewhere.
fn is_store_path(path: &Path) -> bool {
    let plain = path.components().all(|part| !matches!(part, Component::ParentDir));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((hash, rest)) = name.split_once('-') else { return false };
    let is_hash =
        hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    path.is_absolute() && plain && is_hash && !rest.is_empty()
}

/// Whether Nix failed because the flake has no such attribute.
pub(super) fn lacks_attribute(stderr: &str) -> bool {
    stderr.contains("does not provide attribute")
}

/// A line of output as progress, if it is worth it.
pub(super) fn progress(line: &str) -> Option<String> {
    let line = plain(line);
    let line = line.trim();
    STEPS.iter().any(|step| line.starts_with(step)).then(|| line.chars().take(120).collect())
}

/// Why it failed: from its first error on, shortened.
pub(super) fn said(output: &Output) -> String {
    let lines: Vec<String> = output.stderr.lines().map(plain).collect();
    let from = lines.iter().position(|line| line.trim_start().starts_with("error:"));
    let from = from.unwrap_or_else(|| lines.len().saturating_sub(LINES));
    let told = lines[from..].iter().map(|line| line.trim()).filter(|line| !line.is_empty());
    let told = told.take(LINES).collect::<Vec<_>>().join(" ");
    let told = told.replace(" (use '--show-trace' to show detailed location information)", "");
    match told.is_empty() {
        true => output.tail(),
        false => told.strip_prefix("error:").unwrap_or(&told).trim().chars().take(SHOWN).collect(),
    }
}

/// Without colours and other control sequences: it goes to a terminal and into records.
fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => drop(chars.by_ref().find(char::is_ascii_alphabetic)),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/nix/store/0c1yjzm1m3ijwp3bqnj1kbmm0vvmv4a7-tenant-worker-minimal";

    #[test]
    fn the_store_path_is_the_only_result() {
        let json = |path: &str| format!(r#"[{{"drvPath":"/x.drv","outputs":{{"out":"{path}"}}}}]"#);
        assert_eq!(store_path(&json(PATH)), Ok(PATH.into()));
        for bad in
            ["relative-x", "/etc/passwd", "/nix/store/../../etc/passwd", "/nix/store/short-x"]
        {
            assert!(store_path(&json(bad)).is_err(), "{bad}");
        }
        for bad in ["", "[]", "{}", "[1]"] {
            assert!(store_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn progress_is_the_lines_about_steps_without_colours() {
        let line = "\u{1b}[32;1mbuilding '/nix/store/x.drv'...\u{1b}[0m";
        assert_eq!(progress(line).as_deref(), Some("building '/nix/store/x.drv'..."));
        assert_eq!(progress("x> cc -c a.c"), None);
    }

    #[test]
    fn a_failure_is_told_from_its_first_error_on() {
        use std::os::unix::process::ExitStatusExt;
        let stderr =
            format!("warning: dirty\nerror: builder failed\n  log line\n{}", "x\n".repeat(90));
        let status = std::process::ExitStatus::from_raw(256);
        let told = said(&Output { status, stdout: String::new(), stderr });
        assert!(told.starts_with("builder failed log line x"), "{told}");
        assert!(told.len() < 60, "{told}");
    }
}
