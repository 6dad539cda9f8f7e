//! Runs `nft`: whole documents in, one transaction each; listings out as JSON values.
//!
//! The crate's types are not used to read the host (they reject what newer kernels print);
//! listings stay `serde_json::Value` and only our own tables are ever listed or named.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_model::failpoint::{self, Effect};
use nftables::helper::{self, NftablesError};
use serde_json::{Value, json};

use super::error::NetError;

const DEADLINE: Duration = Duration::from_secs(20);

/// The `nft` program.
#[derive(Debug, Clone)]
pub(super) struct Nft {
    program: PathBuf,
}

impl Nft {
    /// Finds `nft`: in `PATH`, or where distributions put it (a user's `PATH` often lacks sbin).
    pub(super) fn find() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/run/current-system/sw/bin"];
        let program = std::env::split_paths(&path)
            .chain(usual.iter().map(PathBuf::from))
            .map(|dir| dir.join("nft"))
            .find(|file| file.is_file())
            .unwrap_or_else(|| Path::new("nft").to_owned());
        Self { program }
    }

    /// Applies commands as one transaction: all of them or none.
    pub(super) async fn apply(&self, doing: &str, commands: Vec<Value>) -> Result<(), NetError> {
        let document = json!({ "nftables": commands }).to_string();
        let none: &[&str] = &[];
        let call = helper::apply_ruleset_raw_async(&document, Some(&self.program), none);
        failpoint::before(Effect::ApplyRules)?;
        self.run(doing, call).await?;
        Ok(failpoint::after(Effect::ApplyRules)?)
    }

    /// Lists something of ours; `None` when it is not there.
    pub(super) async fn list(&self, what: &[&str]) -> Result<Option<Vec<Value>>, NetError> {
        let args: Vec<&str> = std::iter::once("list").chain(what.iter().copied()).collect();
        let call = helper::get_current_ruleset_raw_async(Some(&self.program), &args);
        let text = match self.run("list rules", call).await {
            Err(NetError::NftRefused { stderr, .. }) if stderr.contains("No such file") => {
                return Ok(None);
            }
            other => other?,
        };
        Ok(serde_json::from_str(&text).ok().and_then(|mut document: Value| {
            match document["nftables"].take() {
                Value::Array(objects) => Some(objects),
                _ => None,
            }
        }))
    }

    async fn run(
        &self,
        doing: &str,
        call: impl Future<Output = Result<String, NftablesError>>,
    ) -> Result<String, NetError> {
        let refused = |stderr: &str| NetError::NftRefused {
            doing: doing.to_owned(),
            stderr: match stderr.trim() {
                // Killed, or without /dev/stdin.
                "" => "it ended without a word".to_owned(),
                words => words.chars().take(600).collect(),
            },
        };
        match tokio::time::timeout(DEADLINE, call).await {
            Err(_) => Err(refused("no answer in time")),
            Ok(Ok(text)) => Ok(text),
            Ok(Err(NftablesError::NftFailed { stderr, .. })) => Err(refused(&stderr)),
            Ok(Err(NftablesError::NftExecution { inner, .. })) => {
                Err(NetError::NftMissing { reason: inner.to_string() })
            }
            Ok(Err(other)) => Err(refused(&other.to_string())),
        }
    }
}
