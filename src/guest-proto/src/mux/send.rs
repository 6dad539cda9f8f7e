//! The owner's side of streams: open, receive, send, close.

use super::stream::{Inbound, Stream, cost};
use super::{
    DATA_CHUNK, ErrorKind, FRAME_COST, Failure, Kind, MAX_PAYLOAD, MAX_STREAMS, Mux, OUTPUT_HIGH,
    OpenError, StreamKey,
};

impl Mux {
    /// Host: opens a stream with `request`.
    ///
    /// # Errors
    /// [`OpenError`] when there is no session, no room or the request is too large.
    pub fn open(&mut self, request: &[u8]) -> Result<StreamKey, OpenError> {
        if !self.is_open() {
            return Err(OpenError::NoSession);
        }
        if request.len() > MAX_PAYLOAD {
            return Err(OpenError::TooLarge);
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err(OpenError::TooManyStreams);
        }
        // 2^32 requests in one session are out of reach; if not, the session is used up.
        let id = self.last_id.checked_add(1).ok_or(OpenError::NoSession)?;
        self.last_id = id;
        self.streams.insert(id, Stream::default());
        self.push_frame(id, Kind::Open, 0, request);
        Ok(self.key(id))
    }

    fn stream(&mut self, key: StreamKey) -> Option<&mut Stream> {
        if key.session != self.epoch {
            return None;
        }
        self.streams.get_mut(&key.id)
    }

    /// Takes what arrived next on a stream; `None` when nothing has yet. After an end
    /// ([`Inbound::is_end`]) the stream is gone and every further call says [`Inbound::Lost`].
    pub fn recv(&mut self, key: StreamKey) -> Option<Inbound> {
        let Some(stream) = self.stream(key) else {
            return Some(Inbound::Lost);
        };
        let (next, due) = stream.next();
        if due > 0 {
            self.push_frame(key.id, Kind::Credit, 0, &due.to_le_bytes());
        }
        if next.as_ref().is_some_and(Inbound::is_end) {
            self.streams.remove(&key.id);
        }
        next
    }

    /// Takes the next control message ahead of data that cannot be used yet, so that a resize
    /// reaches a program which does not read its input.
    pub fn recv_message(&mut self, key: StreamKey) -> Option<Vec<u8>> {
        let inbox = &mut self.stream(key)?.inbox;
        let at = inbox.iter().position(|item| matches!(item, Inbound::Message(_)))?;
        let message = inbox.remove(at)?;
        if let Some(stream) = self.stream(key) {
            stream.owed += message.cost();
        }
        match message {
            Inbound::Message(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// True while the stream is open: no end came and none was sent.
    pub fn is_live(&mut self, key: StreamKey) -> bool {
        self.stream(key).is_some_and(|stream| !stream.closed)
    }

    /// Bytes of data that can be sent on a stream now.
    pub fn room(&mut self, key: StreamKey) -> usize {
        let full = self.output.len() >= OUTPUT_HIGH;
        let Some(stream) = self.stream(key) else {
            return 0;
        };
        let credit = stream.outbound_credit.saturating_sub(FRAME_COST) as usize;
        if full {
            self.starved = true;
            return 0;
        }
        credit.min(DATA_CHUNK)
    }

    /// Sends the beginning of `bytes`; returns how many were taken, 0 when there is no room
    /// ([`Event::Writable`] or [`Event::Stream`] tells when to try again) or the stream ended.
    pub fn send(&mut self, key: StreamKey, channel: u8, bytes: &[u8]) -> usize {
        let n = self.room(key).min(bytes.len());
        if n == 0 {
            return 0;
        }
        self.spend(key, n);
        self.push_frame(key.id, Kind::Data, channel, &bytes[..n]);
        n
    }

    /// Sends a control message; false when there is no room yet.
    pub fn message(&mut self, key: StreamKey, payload: &[u8]) -> bool {
        if self.output.len() >= OUTPUT_HIGH {
            self.starved = true;
            return false;
        }
        let enough = |stream: &mut Stream| stream.outbound_credit >= cost(payload.len());
        if payload.len() > MAX_PAYLOAD || !self.stream(key).is_some_and(enough) {
            return false;
        }
        self.spend(key, payload.len());
        self.push_frame(key.id, Kind::Message, 0, payload);
        true
    }

    fn spend(&mut self, key: StreamKey, length: usize) {
        if let Some(stream) = self.stream(key) {
            stream.outbound_credit -= cost(length);
        }
    }

    /// Says that no more data follows on a channel.
    pub fn eof(&mut self, key: StreamKey, channel: u8) {
        if self.stream(key).is_some_and(|stream| !stream.closed) {
            self.push_frame(key.id, Kind::Eof, channel, &[]);
        }
    }

    /// Guest: ends a stream with its outcome.
    pub fn close(&mut self, key: StreamKey, outcome: &[u8]) {
        self.finish(key, Kind::Close, outcome);
    }

    /// Gives a stream up. Its inbox is dropped.
    pub fn reset(&mut self, key: StreamKey, failure: &Failure) {
        self.finish(key, Kind::Reset, &failure.to_bytes());
    }

    fn finish(&mut self, key: StreamKey, kind: Kind, payload: &[u8]) {
        let Some(stream) = self.stream(key) else {
            return;
        };
        let tell = !stream.closed;
        self.streams.remove(&key.id);
        if !tell {
            return;
        }
        if payload.len() <= MAX_PAYLOAD {
            self.push_frame(key.id, kind, 0, payload);
        } else {
            let failure = Failure::new(ErrorKind::Failed, "the answer is too large");
            self.push_frame(key.id, Kind::Reset, 0, &failure.to_bytes());
        }
    }
}
