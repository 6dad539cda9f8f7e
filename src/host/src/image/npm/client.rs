//! The npm client: its command line, and what its output means.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::super::error::ImageError;
use crate::packages::process::{Interrupt, Job, Output, command, run};
use crate::packages::{Control, find_program};

/// Measured: under a minute with an empty cache.
const LIMIT: Duration = Duration::from_secs(900);

/// Why npm packages could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NpmError {
    /// There is no npm here.
    #[error("{profile} is made of npm packages, and npm is not installed")]
    NotInstalled {
        /// The profile.
        profile: String,
    },
    /// The registry cannot be reached.
    #[error("npm cannot reach its registry ({detail})")]
    NoNetwork {
        /// What npm said.
        detail: String,
    },
    /// The registry has not what the lock names, or something else under that name.
    #[error("npm's registry has not what the lock names ({detail})")]
    NotTheSame {
        /// What npm said.
        detail: String,
    },
    /// npm did not install all.
    #[error("npm left out {package} {version}")]
    Incomplete {
        /// Where the package should be.
        package: String,
        /// Its version.
        version: String,
    },
    /// A package's install script did not do its work.
    #[error("{what} failed: {detail}")]
    Script {
        /// Whose script.
        what: String,
        /// The end of what it said.
        detail: String,
    },
    /// It failed for another reason.
    #[error("npm ci failed: {detail}")]
    Failed {
        /// The end of what it said.
        detail: String,
    },
}

impl NpmError {
    /// What a person can do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotInstalled { .. } => Some("install npm (apt-get install npm)".into()),
            Self::NoNetwork { .. } => Some(
                "check the network, the proxy and `npm config get registry`; `npm ping` must work"
                    .into(),
            ),
            Self::NotTheSame { .. } => Some("check `npm config get registry`".into()),
            Self::Incomplete { .. } | Self::Script { .. } | Self::Failed { .. } => None,
        }
    }
}

/// `npm ci` in `work`: exactly the lock's required packages, none of their scripts.
pub(super) fn ci(
    profile: &str,
    work: &Path,
    cache: &Path,
    control: Control<'_>,
) -> Result<(), ImageError> {
    let no = || NpmError::NotInstalled { profile: profile.into() };
    let command = npm(&find_program("npm").ok_or_else(no)?, work, cache);
    let what = format!("installing the npm packages of {profile}");
    let (cancel, interrupt) = (control.cancel, Interrupt::Kill);
    let deadline = LIMIT;
    let output =
        run(Job { what: &what, command, deadline, cancel, interrupt, log: None, on_line: None })?;
    match (output.status.success(), output.no_space() || output.stderr.contains("ENOSPC")) {
        (true, _) => Ok(()),
        (false, true) => Err(ImageError::NoSpace { path: cache.into() }),
        (false, false) => Err(classify(&output).into()),
    }
}

fn npm(program: &Path, work: &Path, cache: &Path) -> Command {
    let mut command = command(&program.display().to_string());
    command.current_dir(work).envs(std::env::vars_os().filter(|(name, _)| is_npms(name)));
    // npm is a script for the node that is beside it.
    let dirs = program.parent().map(PathBuf::from).into_iter();
    let path = dirs.chain(std::env::split_paths("/usr/local/bin:/usr/bin:/bin"));
    command.env("PATH", std::env::join_paths(path).unwrap_or_default());
    command.args(["ci", "--ignore-scripts", "--omit=dev", "--omit=optional", "--no-bin-links"]);
    command.args(["--install-strategy=hoisted", "--no-audit", "--no-fund", "--loglevel=error"]);
    command.args(["--no-update-notifier", "--fetch-retries=2", "--fetch-timeout=60000"]);
    command.args(["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"]);
    command.arg("--cache").arg(cache);
    // SAFETY: one async-signal-safe system call. Scripts run as somebody else, who has to be able
    // to read what npm makes.
    unsafe {
        command.pre_exec(|| {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
            Ok(())
        });
    }
    command
}

/// Where npm finds its registry, its proxy and whom it trusts: a person's configuration.
fn is_npms(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    let whole = ["home", "http_proxy", "https_proxy", "no_proxy", "node_extra_ca_certs"];
    whole.contains(&name.as_str())
        || name.starts_with("npm_config_")
        || name.starts_with("ssl_cert_")
}

const NETWORK: [&str; 9] = [
    "EAI_AGAIN",
    "ENOTFOUND",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "ERR_SOCKET_TIMEOUT",
    "UNABLE_TO_GET_ISSUER_CERT",
];
const OTHER: [&str; 4] = ["EINTEGRITY", "ETARGET", "E404", "E403"];

fn classify(output: &Output) -> NpmError {
    // `npm error code EAI_AGAIN` (`npm ERR!` before version 10), then in words.
    let lines = output.stderr.lines().filter_map(|line| {
        line.strip_prefix("npm error ").or_else(|| line.strip_prefix("npm ERR! ")).map(str::trim)
    });
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let code = lines.iter().find_map(|line| line.strip_prefix("code ")).unwrap_or_default();
    let noise = ["code ", "syscall ", "errno ", "A complete log"];
    let words = lines.iter().find(|line| !noise.iter().any(|start| line.starts_with(start)));
    let detail = match words {
        Some(words) => format!("{code}: {words}").chars().take(300).collect(),
        None => output.tail(),
    };
    match code {
        code if NETWORK.iter().any(|known| code.starts_with(known)) => {
            NpmError::NoNetwork { detail }
        }
        code if OTHER.contains(&code) => NpmError::NotTheSame { detail },
        _ => NpmError::Failed { detail },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn failed(stderr: &str) -> NpmError {
        let status = std::process::ExitStatus::from_raw(1 << 8);
        classify(&Output { status, stdout: String::new(), stderr: stderr.into() })
    }

    #[test]
    fn a_dead_network_and_a_wrong_package_are_told_apart() {
        let text = "npm error code EAI_AGAIN\nnpm error syscall getaddrinfo\nnpm error errno \
                    EAI_AGAIN\nnpm error request to https://r/x failed, reason: getaddrinfo";
        let error = failed(text);
        assert!(matches!(error, NpmError::NoNetwork { .. }), "{error:?}");
        assert!(error.to_string().contains("request to https://r/x failed"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("npm config get registry")));
        let old = "npm ERR! code EINTEGRITY\nnpm ERR! sha512-a integrity checksum failed";
        assert!(matches!(failed(old), NpmError::NotTheSame { .. }));
        assert!(matches!(failed("npm error code EUSAGE"), NpmError::Failed { .. }));
        assert!(matches!(failed("Segmentation fault"), NpmError::Failed { .. }));
    }

    #[test]
    fn npm_is_given_its_own_configuration_and_nothing_else() {
        for name in ["HOME", "NPM_CONFIG_REGISTRY", "npm_config_cafile", "HTTPS_PROXY"] {
            assert!(is_npms(OsStr::new(name)), "{name}");
        }
        for name in ["AWS_SECRET_ACCESS_KEY", "NODE_OPTIONS", "PATH"] {
            assert!(!is_npms(OsStr::new(name)), "{name}");
        }
    }
}
