//! Visits: whoever has something open in a guest (a shell, a command, a copy, a port, its logs).
//!
//! A visitor holds a shared lock on `<run>/vm/<id>/opened` for as long as its connection lasts,
//! and the kernel lets go of it when its process dies. So any process can tell whether a guest
//! has visitors, and the file's time says when the last one came. Who asks: the idle policy
//! ([`activity`](crate::activity)), for which a visited guest is not idle, and the executor, which
//! lets visits end before it takes an instance down.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::UNIX_EPOCH;

use mvm_model::record::{InstanceRecord, Millis};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::service::Service;

/// A connection to a guest that somebody uses. The visit ends with it.
#[derive(Debug)]
pub struct Visit {
    stream: UnixStream,
    _mark: Option<File>,
}

impl Service {
    fn visitors_file(&self, record: &InstanceRecord) -> PathBuf {
        self.dirs.vm(record.instance_id).join("opened")
    }

    /// Counts a connection to an instance's guest as a visit. A visit that cannot be marked is
    /// no reason to refuse it.
    pub(crate) fn visit(&self, record: &InstanceRecord, stream: UnixStream) -> Visit {
        let marked = File::create(self.visitors_file(record))
            .and_then(|file| file.lock_shared().map(|()| file))
            .inspect_err(|error| tracing::debug!(%error, "a visit is not marked"));
        Visit { stream, _mark: marked.ok() }
    }

    /// Whether somebody has something open in an instance's guest now.
    pub(crate) fn is_visited(&self, record: &InstanceRecord) -> bool {
        let file = File::open(self.visitors_file(record));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// When somebody last opened something in an instance's guest.
    pub(crate) fn last_visited(&self, record: &InstanceRecord) -> Option<Millis> {
        let came = self.visitors_file(record).metadata().ok()?.modified().ok()?;
        Some(came.duration_since(UNIX_EPOCH).ok()?.as_millis() as Millis)
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Visit {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use mvm_model::state::State;

    #[tokio::test]
    async fn a_guest_is_visited_until_the_last_connection_ends() {
        let (_root, service) = testing::service();
        let record = testing::instance(&service, State::Stopped);
        std::fs::create_dir_all(service.dirs.vm(record.instance_id)).unwrap();
        assert!(!service.is_visited(&record) && service.last_visited(&record).is_none());
        let visit = || service.visit(&record, UnixStream::pair().unwrap().0);
        let (first, second) = (visit(), visit());
        assert!(service.is_visited(&record));
        drop(first);
        assert!(service.is_visited(&record));
        drop(second);
        assert!(!service.is_visited(&record));
        assert!(service.last_visited(&record).is_some());
    }
}
