//! The audit log: what was done to a tenant, one JSON line per event, in
//! `<state>/audit/<tenant>.jsonl`.
//!
//! Every line carries the digest of the line before it, so a line that is changed, removed or
//! put elsewhere is found ([`verify`]). Lines are synced before the caller goes on. The log is
//! bounded: a full file becomes `<tenant>.1.jsonl`, replacing an older one, and the chain goes on
//! in a new file. It stays when its tenant is destroyed.
//!
//! A crash can leave a line without its end; the next writer cuts it off and says so
//! (`audit.recovered`).

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mvm_host::file::{self, FileError};
use mvm_host::lock::Lock;
use mvm_model::failpoint::{self, Effect};
use mvm_model::{Digest, TenantName};

pub use mvm_api::event::{Event, Outcome, Verified};

use crate::error::{self, Error, Kind};
use crate::service::{Service, now};

/// When a file is full, bytes.
const FULL: u64 = 4 << 20;
/// The longest line that is read back, bytes.
const LONGEST: u64 = 64 << 10;
/// How long a writer waits for another.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest detail, characters.
const DETAIL: usize = 2000;

/// One tenant's log.
#[derive(Debug, Clone)]
pub struct Log {
    dir: PathBuf,
    tenant: String,
}

impl Log {
    /// The log of a tenant, which may be gone.
    pub fn of(state: &Path, tenant: &TenantName) -> Self {
        Self { dir: state.join("audit"), tenant: tenant.to_string() }
    }

    fn file(&self) -> PathBuf {
        self.dir.join(format!("{}.jsonl", self.tenant))
    }

    fn older(&self) -> PathBuf {
        self.dir.join(format!("{}.1.jsonl", self.tenant))
    }

    /// Appends an event, synced.
    ///
    /// # Errors
    /// When it is not certain to be on disk.
    pub async fn append(
        &self,
        object: &str,
        event: &str,
        outcome: Outcome,
        detail: &str,
        by: &str,
    ) -> io::Result<()> {
        file::create_dir(&self.dir).map_err(io::Error::other)?;
        let lock = self.dir.join(format!(".{}.lock", self.tenant));
        let _lock = Lock::take(&lock, by, PATIENCE).await.map_err(io::Error::other)?;
        self.turn_over().map_err(io::Error::other)?;
        let (end, recovered) = self.end()?;
        let mut writer = Writer { log: self, end, by };
        if recovered {
            writer.write(
                &self.tenant,
                "audit.recovered",
                Outcome::Done,
                "a line without its end was cut off",
            )?;
        }
        writer.write(object, event, outcome, detail)
    }

    /// A full file makes room for a new one; the chain goes on.
    fn turn_over(&self) -> Result<(), FileError> {
        match fs::metadata(self.file()) {
            Ok(meta) if meta.len() >= FULL => file::rename_durably(&self.file(), &self.older()),
            _ => Ok(()),
        }
    }

    /// The last complete line's number and digest; cuts off what follows it.
    fn end(&self) -> io::Result<(End, bool)> {
        let path = self.file();
        let (whole, torn) = match tail(&path)? {
            Some(tail) => tail,
            None => match tail(&self.older())? {
                Some((whole, _)) => (whole, 0),
                None => return Ok((End::default(), false)),
            },
        };
        if torn > 0 {
            let log = OpenOptions::new().write(true).open(&path)?;
            log.set_len(log.metadata()?.len() - torn)?;
            log.sync_all()?;
        }
        let last = whole.lines().next_back().unwrap_or_default();
        let seq = serde_json::from_str::<Event>(last).map(|event| event.seq).unwrap_or(0);
        let digest =
            if last.is_empty() { String::new() } else { Digest::of(last.as_bytes()).to_string() };
        Ok((End { seq, digest }, torn > 0))
    }

    /// The events that are kept, oldest first; lines that cannot be read are left out.
    pub fn events(&self) -> Vec<Event> {
        self.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn lines(&self) -> Vec<String> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let text = read(self.older()) + &read(self.file());
        text.lines().map(str::to_owned).collect()
    }

    /// Whether the chain holds; names the first event that does not fit.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn verify(&self) -> Result<u64, String> {
        verify(&self.lines())
    }
}

#[derive(Debug, Default)]
struct End {
    seq: u64,
    digest: String,
}

struct Writer<'a> {
    log: &'a Log,
    end: End,
    by: &'a str,
}

impl Writer<'_> {
    fn write(
        &mut self,
        object: &str,
        event: &str,
        outcome: Outcome,
        detail: &str,
    ) -> io::Result<()> {
        let event = Event {
            seq: self.end.seq + 1,
            at: now(),
            tenant: self.log.tenant.clone(),
            object: object.into(),
            event: event.into(),
            outcome,
            detail: detail.chars().take(DETAIL).collect(),
            by: self.by.into(),
            previous: self.end.digest.clone(),
        };
        let line = serde_json::to_string(&event)?;
        let path = self.log.file();
        let is_new = !path.exists();
        let mut log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        failpoint::before(Effect::WriteAudit)?;
        log.write_all(format!("{line}\n").as_bytes())?;
        log.sync_all()?;
        if is_new {
            file::sync_dir(&self.log.dir).map_err(io::Error::other)?;
        }
        failpoint::after(Effect::WriteAudit)?;
        self.end = End { seq: event.seq, digest: Digest::of(line.as_bytes()).to_string() };
        Ok(())
    }
}

/// The end of a file up to its last line end, and how many bytes follow that.
fn tail(path: &Path) -> io::Result<Option<(String, u64)>> {
    let mut log = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let len = log.metadata()?.len();
    log.seek(SeekFrom::Start(len.saturating_sub(LONGEST)))?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let torn = (bytes.len() - whole) as u64;
    let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
    if text.is_empty() && torn == 0 { Ok(None) } else { Ok(Some((text, torn))) }
}

/// Follows the chain; the first line may continue a file that is gone.
fn verify(lines: &[String]) -> Result<u64, String> {
    let mut before: Option<(u64, String)> = None;
    for line in lines {
        let event: Event = serde_json::from_str(line).map_err(|error| {
            format!(
                "the line after event {} is damaged: {error}",
                before.as_ref().map_or(0, |b| b.0)
            )
        })?;
        if let Some((seq, digest)) = &before
            && (event.seq != seq + 1 || event.previous != *digest)
        {
            return Err(format!(
                "event {} does not follow event {seq}: something was changed or removed",
                event.seq
            ));
        }
        before = Some((event.seq, Digest::of(line.as_bytes()).to_string()));
    }
    Ok(before.map_or(0, |(seq, _)| seq))
}

impl Service {
    /// What was done to a tenant, or to all, oldest first.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when nothing was ever done to a tenant of that name.
    pub fn events(&self, tenant: Option<&TenantName>, last: usize) -> error::Result<Vec<Event>> {
        let logs = self.logs(tenant)?;
        let mut events: Vec<_> = logs.iter().flat_map(|(_, log)| log.events()).collect();
        events.sort_by_key(|event| event.at);
        let from = events.len().saturating_sub(last);
        Ok(events.split_off(from))
    }

    /// Whether nothing that is kept was changed or removed, log by log.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when nothing was ever done to a tenant of that name.
    pub fn verify_events(&self, tenant: Option<&TenantName>) -> error::Result<Vec<Verified>> {
        let verified = |(tenant, log): (TenantName, Log)| match log.verify() {
            Ok(last) => Verified { tenant, last, problem: None },
            Err(problem) => Verified { tenant, last: 0, problem: Some(problem) },
        };
        Ok(self.logs(tenant)?.into_iter().map(verified).collect())
    }

    fn logs(&self, tenant: Option<&TenantName>) -> error::Result<Vec<(TenantName, Log)>> {
        let audited = self.audited();
        let wanted = match tenant {
            None => audited,
            Some(tenant) if audited.contains(tenant) => vec![tenant.clone()],
            Some(tenant) => {
                let text = format!("nothing was ever done to a tenant {tenant}");
                return Err(Error::new(Kind::NotFound, tenant, text)
                    .hint("'mvm events' shows what was done to all"));
            }
        };
        let log = |tenant: TenantName| (tenant.clone(), Log::of(&self.dirs.state, &tenant));
        Ok(wanted.into_iter().map(log).collect())
    }

    /// The tenants that have an audit log, also those that are gone.
    fn audited(&self) -> Vec<TenantName> {
        let entries = fs::read_dir(self.dirs.state.join("audit")).into_iter().flatten().flatten();
        // Between turning a file over and beginning the next there is only the older one.
        let name = |file: &str| {
            let stem = file.strip_suffix(".jsonl")?;
            stem.strip_suffix(".1").unwrap_or(stem).parse().ok()
        };
        let names = entries.filter_map(|entry| name(entry.file_name().to_str()?));
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Notes what was done to a tenant. A note that cannot be written is told on stderr: what it
    /// is about has happened.
    pub(crate) async fn audit<T>(
        &self,
        tenant: &TenantName,
        object: impl std::fmt::Display,
        event: &str,
        result: &error::Result<T>,
    ) {
        self.audit_with(tenant, object, event, result, "").await;
    }

    /// Like [`Self::audit`], with more for people.
    pub(crate) async fn audit_with<T>(
        &self,
        tenant: &TenantName,
        object: impl std::fmt::Display,
        event: &str,
        result: &error::Result<T>,
        more: &str,
    ) {
        let (outcome, detail) = match result {
            Ok(_) => (Outcome::Done, more.to_owned()),
            Err(error) if more.is_empty() => (Outcome::Failed, error.chain()),
            Err(error) => (Outcome::Failed, format!("{more}: {}", error.chain())),
        };
        let log = Log::of(&self.dirs.state, tenant);
        // A name nobody ever had is no tenant to keep a log of.
        if result.is_err() && !log.file().exists() && !self.dirs.tenant(tenant).exists() {
            return;
        }
        if let Err(error) =
            log.append(&object.to_string(), event, outcome, &detail, &self.by()).await
        {
            eprintln!("warning: {object}: {event} is not in the audit log: {error}");
        }
    }

    /// Who we are for the audit log: the command, and the person behind sudo.
    fn by(&self) -> String {
        format!("{} ({})", self.who, self.asking())
    }

    /// The person who asks, also one behind sudo.
    pub(crate) fn asking(&self) -> String {
        let caller = || {
            std::env::var("SUDO_USER").unwrap_or_else(|_| format!("uid {}", nix::unistd::getuid()))
        };
        self.person.clone().unwrap_or_else(caller)
    }
}

#[cfg(test)]
mod tests;
