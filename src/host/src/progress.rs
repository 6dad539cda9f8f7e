//! How long-running work tells what it is doing.

/// A sign of life from a long step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for people: `downloading linux-image-…`.
    pub what: String,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, when known.
    pub total: Option<u64>,
}

/// Where progress goes; called often, must not block.
pub type Sink<'a> = &'a (dyn Fn(Progress) + Sync);
