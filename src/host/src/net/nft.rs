//! Runs `nft`: whole documents in, one transaction each; listings out as JSON values.
//!
//! The crate's types are not used to read the host (they reject what newer kernels print);
//! listings stay `serde_json::Value` and only our own tables are ever listed or named.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use mvm_model::failpoint::{self, Effect};
use nftables::helper::{self, NftablesError};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::error::NetError;
use crate::child::ends_with_us;

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
        let missing = |error: io::Error| NetError::NftMissing { reason: error.to_string() };
        failpoint::before(Effect::ApplyRules)?;
        let child = self.changing().spawn().map_err(missing)?;
        let output = tokio::time::timeout(DEADLINE, told(child, document.as_bytes())).await;
        let output = output.map_err(|_| refused(doing, "no answer in time"))?.map_err(missing)?;
        if !output.status.success() {
            return Err(refused(doing, &String::from_utf8_lossy(&output.stderr)));
        }
        Ok(failpoint::after(Effect::ApplyRules)?)
    }

    /// `nft` for a document of changes. It must not outlive us (the crate's helper lets it): whoever
    /// has the network's lock next would be overtaken by a change we were killed in.
    fn changing(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-j", "-f", "-"]).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        ends_with_us(command.as_std_mut());
        command
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
        match tokio::time::timeout(DEADLINE, call).await {
            Err(_) => Err(refused(doing, "no answer in time")),
            Ok(Ok(text)) => Ok(text),
            Ok(Err(NftablesError::NftFailed { stderr, .. })) => Err(refused(doing, &stderr)),
            Ok(Err(NftablesError::NftExecution { inner, .. })) => {
                Err(NetError::NftMissing { reason: inner.to_string() })
            }
            Ok(Err(other)) => Err(refused(doing, &other.to_string())),
        }
    }
}

/// Gives a child its input and waits for its end.
async fn told(mut child: Child, input: &[u8]) -> io::Result<Output> {
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that does not want all of it says why.
            let _ = stdin.write_all(input).await;
        }
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    output
}

fn refused(doing: &str, stderr: &str) -> NetError {
    let stderr = match stderr.trim() {
        // Killed, or without /dev/stdin.
        "" => "it ended without a word".to_owned(),
        words => words.chars().take(600).collect(),
    };
    NetError::NftRefused { doing: doing.to_owned(), stderr }
}
