//! Where Firecracker is installed and which version it is. This build cannot run it yet; it is
//! found so that status and doctor tell the truth.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long `--version` may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// An installed Firecracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firecracker {
    /// The program.
    pub path: PathBuf,
    /// Like `1.15.1`.
    pub version: String,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirecrackerMissing {
    /// Nowhere to be found.
    #[error("Firecracker is not installed")]
    NotFound,
    /// A program of that name that is something else, or broken.
    #[error("{path} does not say a Firecracker version")]
    NoVersion {
        /// The program.
        path: PathBuf,
    },
}

/// Looks at `MVM_FIRECRACKER`, then through `PATH`, then in the tests' cache.
///
/// # Errors
/// [`FirecrackerMissing`].
pub async fn find_firecracker() -> Result<Firecracker, FirecrackerMissing> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let search: Vec<PathBuf> = match var("PATH") {
        Some(path) => std::env::split_paths(&path).collect(),
        None => Vec::new(),
    };
    let cache = var("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| var("HOME").map(|home| Path::new(&home).join(".cache")));
    let named = var("MVM_FIRECRACKER").map(PathBuf::from);
    let path = first(named, &search, cache).ok_or(FirecrackerMissing::NotFound)?;
    match version(&path).await {
        Some(version) => Ok(Firecracker { path, version }),
        None => Err(FirecrackerMissing::NoVersion { path }),
    }
}

/// A named program is taken as it is, also when it is missing: falling back would hide the typo.
fn first(named: Option<PathBuf>, search: &[PathBuf], cache: Option<PathBuf>) -> Option<PathBuf> {
    let cached = cache.map(|cache| cache.join("mvm-test/bin"));
    named.or_else(|| {
        let dirs = search.iter().chain(&cached);
        dirs.map(|dir| dir.join("firecracker")).find(|path| path.is_file())
    })
}

async fn version(program: &Path) -> Option<String> {
    let run = tokio::process::Command::new(program)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, run).await.ok()?.ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `Firecracker v1.15.1` on the first line.
fn parse_version(text: &str) -> Option<String> {
    let version = text.lines().next()?.trim().strip_prefix("Firecracker v")?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| crate::text::printable(version, 40))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_firecrackers_own_words_count() {
        assert_eq!(parse_version("Firecracker v1.15.1\n\nexit"), Some("1.15.1".into()));
        for other in ["", "Firecracker", "bash 5", "Firecracker vX"] {
            assert_eq!(parse_version(other), None);
        }
    }

    #[test]
    fn a_named_program_hides_all_others_and_the_cache_comes_last() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, cache) = (dir.path().join("bin"), dir.path().join("cache"));
        for place in [bin.clone(), cache.join("mvm-test/bin")] {
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("firecracker"), "").unwrap();
        }
        let named = Some(PathBuf::from("/missing"));
        assert_eq!(first(named.clone(), std::slice::from_ref(&bin), None), named);
        let found = first(None, std::slice::from_ref(&bin), Some(cache.clone()));
        assert_eq!(found, Some(bin.join("firecracker")));
        let found = first(None, &[], Some(cache.clone()));
        assert_eq!(found, Some(cache.join("mvm-test/bin/firecracker")));
        assert_eq!(first(None, &[], None), None);
    }
}
