//! What reading a document comes to: its good objects, what is wrong with the others, or why it
//! says nothing at all.

use std::fmt;

use serde::Serialize;

use super::{DesiredState, MAX_DOCUMENT, SCHEMA_VERSION, check};

/// Something wrong with one object of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{object}: {problem}")]
pub struct Problem {
    /// Which object: `<tenant>/<pool>`, or its place in the document with the field.
    pub object: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub hint: String,
}

/// Several problems, for errors of one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

/// A document that says nothing usable. It changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No content.
    #[error("the document is empty; nothing was changed")]
    Empty,
    /// Ends in the middle.
    #[error("the document ends in the middle (line {line}); nothing was changed")]
    Truncated {
        /// Where it ends.
        line: usize,
    },
    /// Not JSON.
    #[error("the document is not JSON: {0}")]
    Syntax(String),
    /// JSON, but no object with the fields every document has.
    #[error("the document is not usable: {0}")]
    Shape(String),
    /// Too large to be one.
    #[error("the document has {0} bytes, more than {MAX_DOCUMENT}")]
    TooLarge(usize),
    /// Made for another program.
    #[error("the document has schema version {found}; this mvm reads {SCHEMA_VERSION}")]
    Version {
        /// Its version.
        found: u64,
    },
    /// A newer daemon says this one cannot understand it.
    #[error("the document needs a reader of version {needed}; this mvm is {SCHEMA_VERSION}")]
    NeedsNewer {
        /// The version needed.
        needed: u64,
    },
}

impl Unreadable {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Empty | Self::Truncated { .. } => {
                "write the file again ('mvm agent desired --file F' writes the present state)"
            }
            Self::Syntax(_) | Self::Shape(_) => "docs/agent.md describes the document",
            Self::TooLarge(_) => "split the fleet over several hosts",
            Self::Version { .. } | Self::NeedsNewer { .. } => "use an mvm of the same version",
        }
    }
}

/// What was read: the good objects, and what was wrong with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The good objects.
    pub state: DesiredState,
    /// Everything wrong with the others.
    pub problems: Vec<Problem>,
}

impl Document {
    /// All of it or nothing: what a person's command wants.
    ///
    /// # Errors
    /// Every problem of the document, those of [`check`] included.
    pub fn whole(self) -> Result<DesiredState, Problems> {
        let mut problems = self.problems;
        problems.extend(check(&self.state));
        if problems.is_empty() { Ok(self.state) } else { Err(Problems(problems)) }
    }

    /// The good objects: what a loop wants. With a problem anywhere nothing is pruned, because
    /// what is missing may only be misspelt.
    pub fn tolerate(self) -> (DesiredState, Vec<Problem>) {
        let mut state = self.state;
        if !self.problems.is_empty() {
            (state.prune_unknown_tenants, state.prune_unknown_pools) = (false, false);
        }
        (state, self.problems)
    }
}
