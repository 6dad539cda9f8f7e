//! What unit tests of this crate share.

use std::fs::OpenOptions;
use std::io::Write;

/// Says why a test cannot run here, and counts it; true when it cannot.
pub(crate) fn skipped_without_root(test: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIP: {test}: not root");
        if let Some(path) = std::env::var_os("MVM_TEST_SKIPS") {
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            // As one write: tests run beside each other.
            file.write_all(format!("{test}: not root\n").as_bytes()).unwrap();
        }
    }
    !is_root
}
