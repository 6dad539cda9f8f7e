//! How a test that cannot run here says why: in its own output, and where `tests/run` counts it.

use std::fs::File;
use std::io::Write;

/// Says why a test cannot run here.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIP: {test}: {reason}");
    let Some(path) = std::env::var_os("MVM_TEST_SKIPS") else { return };
    let mut file = File::options().create(true).append(true).open(path).expect("skips are counted");
    // As one write: tests run beside each other.
    file.write_all(format!("{test}: {reason}\n").as_bytes()).expect("skips are counted");
}

/// Says so when a test needs root and has none; whether that is so.
#[allow(dead_code, reason = "not every suite has such tests")]
pub fn skipped_without_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skip(test, "not root");
    }
    !is_root
}
