//! One stream as its receiver sees it, and the credit of both directions.

use std::collections::VecDeque;

use super::{FRAME_COST, MAX_CREDIT, Violation, WINDOW};
use crate::frame::{Frame, Kind};

/// What arrived on a stream, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// The guest saw the request.
    Opened,
    /// Bytes on a channel.
    Data(u8, Vec<u8>),
    /// A control message.
    Message(Vec<u8>),
    /// No more data on a channel.
    Eof(u8),
    /// The guest is done; the outcome. The stream is gone.
    Close(Vec<u8>),
    /// The peer gave the stream up; the failure. The stream is gone.
    Reset(Vec<u8>),
    /// The session ended, or the stream was gone already.
    Lost,
}

impl Inbound {
    /// What receiving it cost the sender.
    pub(super) fn cost(&self) -> u32 {
        match self {
            Self::Data(_, bytes) | Self::Message(bytes) => cost(bytes.len()),
            _ => 0,
        }
    }

    /// True when nothing follows.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Close(_) | Self::Reset(_) | Self::Lost)
    }
}

pub(super) fn cost(length: usize) -> u32 {
    // Payloads are at most MAX_PAYLOAD.
    u32::try_from(length).unwrap_or(WINDOW).saturating_add(FRAME_COST)
}

/// State of a stream that is open, or ended with an end nobody took yet.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) inbox: VecDeque<Inbound>,
    /// What the peer may still send.
    inbound_credit: u32,
    /// Taken from the inbox and not yet given back to the peer.
    pub(super) owed: u32,
    /// What we may still send.
    pub(super) outbound_credit: u32,
    /// Channels the peer ended.
    ended: u8,
    opened: bool,
    pub(super) closed: bool,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            inbox: VecDeque::new(),
            inbound_credit: WINDOW,
            owed: 0,
            outbound_credit: WINDOW,
            ended: 0,
            opened: false,
            closed: false,
        }
    }
}

impl Stream {
    /// Nothing was heard of it yet.
    pub(super) fn is_unanswered(&self) -> bool {
        !self.opened && !self.closed
    }

    /// Files a frame of this stream.
    pub(super) fn take(&mut self, frame: Frame) -> Result<(), Violation> {
        if self.closed {
            return Ok(());
        }
        match frame.kind {
            Kind::Data if self.ended & (1 << frame.channel) != 0 => {
                Err(Violation("data after the end of a channel".into()))
            }
            Kind::Data => self.file(Inbound::Data(frame.channel, frame.payload)),
            Kind::Message => self.file(Inbound::Message(frame.payload)),
            Kind::Eof => self.end_channel(frame.channel),
            Kind::Credit => self.add_credit(&frame.payload),
            Kind::Opened if self.opened => Ok(()),
            Kind::Opened => {
                self.opened = true;
                self.file(Inbound::Opened)
            }
            Kind::Close => self.end(Inbound::Close(frame.payload)),
            Kind::Reset => {
                // Whoever gave up is not waiting for its data to be used.
                self.inbox.clear();
                self.end(Inbound::Reset(frame.payload))
            }
            Kind::Open => Err(Violation("stream opened twice".into())),
        }
    }

    fn file(&mut self, inbound: Inbound) -> Result<(), Violation> {
        let left = self.inbound_credit.checked_sub(inbound.cost());
        self.inbound_credit = left.ok_or_else(|| Violation("more data than credit".into()))?;
        self.inbox.push_back(inbound);
        Ok(())
    }

    fn end_channel(&mut self, channel: u8) -> Result<(), Violation> {
        if self.ended & (1 << channel) == 0 {
            self.ended |= 1 << channel;
            self.inbox.push_back(Inbound::Eof(channel));
        }
        Ok(())
    }

    fn end(&mut self, inbound: Inbound) -> Result<(), Violation> {
        self.closed = true;
        self.inbox.push_back(inbound);
        Ok(())
    }

    fn add_credit(&mut self, payload: &[u8]) -> Result<(), Violation> {
        let bytes = payload.try_into().map_err(|_| Violation("credit of wrong size".into()))?;
        let sum = self.outbound_credit.saturating_add(u32::from_le_bytes(bytes));
        if sum > MAX_CREDIT {
            return Err(Violation("more credit than a stream can have".into()));
        }
        self.outbound_credit = sum;
        Ok(())
    }

    /// Takes the next item and says how much credit is due to the peer.
    pub(super) fn next(&mut self) -> (Option<Inbound>, u32) {
        let next = self.inbox.pop_front();
        self.owed += next.as_ref().map_or(0, Inbound::cost);
        if self.owed < WINDOW / 4 || self.closed {
            return (next, 0);
        }
        let due = std::mem::take(&mut self.owed);
        self.inbound_credit += due;
        (next, due)
    }
}
