//! Files in a guest. Limits of the streaming calls are for every step, not for the whole: a
//! transfer goes on as long as something moves.

use std::time::Duration;

use mvm_guest_proto::frame::DATA_CHUNK;
use mvm_guest_proto::message::{
    Call, Done, Entry, FROM_GUEST, FileStat, List, MAX_PATH, MakeDir, Message, ReadFile, Request,
    Stat, TO_GUEST, Transferred, WriteFile,
};
use mvm_guest_proto::mux::Inbound;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::client::{Asking, GuestClient};
use super::error::{GuestError, clean};
use super::stream::{Gone, Stream};

/// Bytes taken of a file that says it has none: what a kernel makes up as it is read (`/proc`).
const MOST_UNSIZED: u64 = 16 << 20;
/// Entries of a directory that are taken from a guest.
const MOST_ENTRIES: usize = 100_000;

impl GuestClient {
    /// Copies a file's content into `to`; returns what the file is. `limit` is the longest time
    /// without progress. A file that grows meanwhile is copied as long as it was: a guest that
    /// sends without end is stopped there.
    ///
    /// # Errors
    /// [`GuestError::NotFound`], [`GuestError::Refused`] when it is no regular file,
    /// [`GuestError::Protocol`] when much comes of a file without a size, [`GuestError::Local`]
    /// when `to` fails.
    pub async fn read_file(
        &self,
        read: ReadFile,
        to: &mut (impl AsyncWrite + Unpin),
        limit: Duration,
    ) -> Result<FileStat, GuestError> {
        let mut asking = Asking::new(format!("reading {}", clean(&read.path)), limit);
        let (offset, length) = (read.offset, read.length.unwrap_or(u64::MAX));
        let stream = self.open(&asking, &call("", Request::ReadFile(read)))?;
        let is_file = |message| match message {
            Message::File(stat) => Some(stat),
            _ => None,
        };
        let stat = Self::begin(&asking, &stream, is_file).await?;
        let most = if stat.size == 0 { MOST_UNSIZED } else { stat.size.saturating_sub(offset) };
        let most = most.min(length);
        let mut bytes = 0;
        loop {
            match asking.within(stream.recv()).await? {
                Inbound::Data(FROM_GUEST, data) => {
                    let fits = data.len().min(usize::try_from(most - bytes).unwrap_or(usize::MAX));
                    let write = to.write_all(&data[..fits]).await;
                    write.map_err(|source| local(&asking, source))?;
                    bytes += fits as u64;
                    if fits > 0 {
                        asking.moved();
                    }
                    if fits < data.len() {
                        return whole(&asking, stat, to).await;
                    }
                }
                Inbound::Close(payload) => {
                    let told: Transferred = asking.outcome(&payload)?;
                    if told.bytes != bytes {
                        return Err(asking.protocol("not all bytes of the file came"));
                    }
                    to.flush().await.map_err(|source| local(&asking, source))?;
                    return Ok(stat);
                }
                inbound if inbound.is_end() => return Err(asking.ended(&stream, &inbound)),
                _ => {}
            }
        }
    }

    /// Replaces a file with what comes from `from`: everything or nothing. Safe to repeat with
    /// the same `id`. `limit` is the longest time without progress.
    ///
    /// # Errors
    /// [`GuestError::Refused`] when something that is no regular file has the name,
    /// [`GuestError::Local`] when `from` fails.
    pub async fn write_file(
        &self,
        id: &str,
        write: WriteFile,
        from: &mut (impl AsyncRead + Unpin),
        limit: Duration,
    ) -> Result<Transferred, GuestError> {
        let mut asking = Asking::new(format!("writing {}", clean(&write.path)), limit);
        let stream = self.open(&asking, &call(id, Request::WriteFile(write)))?;
        let mut buffer = vec![0; DATA_CHUNK];
        loop {
            // A failed read drops the stream, and the guest forgets what it got.
            let n = from.read(&mut buffer).await.map_err(|source| local(&asking, source))?;
            asking.moved();
            if n == 0 {
                stream.eof(TO_GUEST);
                break;
            }
            // Gone: the guest has an outcome already; it comes below.
            if asking.within(stream.send(TO_GUEST, &buffer[..n])).await? == Err(Gone) {
                break;
            }
        }
        asking.moved();
        outcome(&asking, &stream).await
    }

    /// Names what is in a directory, sorted.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn list(&self, path: &str, limit: Duration) -> Result<Vec<Entry>, GuestError> {
        let mut asking = Asking::new(format!("listing {}", clean(path)), limit);
        let stream = self.open(&asking, &call("", Request::List(List { path: path.into() })))?;
        let mut all = Vec::new();
        loop {
            match asking.within(stream.recv()).await? {
                Inbound::Message(bytes) => {
                    if let Some(Message::Entries { entries }) = Message::from_bytes(&bytes) {
                        all.extend(entries.into_iter().filter(is_a_name));
                        asking.moved();
                    }
                    if all.len() > MOST_ENTRIES {
                        return Err(asking.protocol("a directory with too many entries"));
                    }
                }
                Inbound::Close(payload) => {
                    asking.outcome::<Done>(&payload)?;
                    all.sort_by(|a, b| a.name.cmp(&b.name));
                    return Ok(all);
                }
                inbound if inbound.is_end() => return Err(asking.ended(&stream, &inbound)),
                _ => {}
            }
        }
    }

    /// Describes a file; a symbolic link itself.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn stat(&self, path: &str, limit: Duration) -> Result<FileStat, GuestError> {
        let doing = format!("looking at {}", clean(path));
        self.ask(doing, limit, "", Request::Stat(Stat { path: path.into() })).await
    }

    /// Makes a directory; one that exists is fine.
    ///
    /// # Errors
    /// [`GuestError`].
    pub async fn make_dir(
        &self,
        path: &str,
        mode: Option<u32>,
        limit: Duration,
    ) -> Result<(), GuestError> {
        let doing = format!("making {}", clean(path));
        let request = Request::MakeDir(MakeDir { path: path.into(), mode });
        self.ask::<Done>(doing, limit, "", request).await.map(drop)
    }
}

/// A guest's name for an entry, which a caller may use as a file name: never a path.
fn is_a_name(entry: &Entry) -> bool {
    let name = &entry.name;
    !matches!(name.as_str(), "" | "." | "..")
        && !name.contains(['/', '\0'])
        && name.len() <= MAX_PATH
}

fn call(id: &str, request: Request) -> Call {
    Call { id: id.to_owned(), request }
}

fn local(asking: &Asking, source: std::io::Error) -> GuestError {
    GuestError::Local { doing: asking.doing.clone(), source }
}

/// As much as a file said it has came, and more is coming; dropping the stream tells the guest.
async fn whole(
    asking: &Asking,
    stat: FileStat,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<FileStat, GuestError> {
    if stat.size == 0 {
        return Err(asking.protocol("a file without a size that does not end"));
    }
    to.flush().await.map_err(|source| local(asking, source))?;
    Ok(stat)
}

async fn outcome<T: serde::de::DeserializeOwned>(
    asking: &Asking,
    stream: &Stream,
) -> Result<T, GuestError> {
    loop {
        match asking.within(stream.recv()).await? {
            Inbound::Close(payload) => return asking.outcome(&payload),
            inbound if inbound.is_end() => return Err(asking.ended(stream, &inbound)),
            _ => {}
        }
    }
}
