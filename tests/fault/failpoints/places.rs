//! Where a command can be made to fail: what it comes to, in order.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use mvm_model::failpoint::{Failpoint, Moment};

/// What happens at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Error,
    Panic,
    Kill,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Kill => "kill",
        }
    }
}

/// A process coming to a failpoint for the n-th time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub process: String,
    pub failpoint: Failpoint,
    pub time: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.process, self.failpoint, self.time)
    }
}

impl Place {
    fn parse(line: &str) -> Option<Self> {
        let (process, rest) = line.split(' ').next()?.split_once('/')?;
        let (failpoint, time) = rest.split_once('#')?;
        Some(Self {
            process: process.into(),
            failpoint: failpoint.parse().ok()?,
            time: time.parse().ok()?,
        })
    }
}

/// The places a command came to, and the one where it was made to fail.
pub struct Trace {
    pub places: Vec<Place>,
    pub was_hit: bool,
}

impl Trace {
    pub fn load(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        // The line of a place where something happened ends with what.
        let was_hit = text.lines().any(|line| line.contains(' '));
        Self { places: text.lines().filter_map(Place::parse).collect(), was_hit }
    }

    pub fn failpoints(&self) -> impl Iterator<Item = Failpoint> {
        self.places.iter().map(|place| place.failpoint)
    }
}

/// One thing to try.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub mode: Mode,
    pub place: Place,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.mode.word(), self.place)
    }
}

/// What is to be tried at these places: an error and a panic at each; a kill at each where something
/// happened since the one before, because to be killed after one effect or before the next is the
/// same.
pub fn cases(places: &[Place]) -> Vec<Case> {
    let mut seen = BTreeSet::new();
    let places: Vec<_> = places.iter().filter(|place| seen.insert((*place).clone())).collect();
    let mut cases = Vec::new();
    for (at, place) in places.iter().enumerate() {
        let same_as_next = place.failpoint.moment == Moment::After
            && places.get(at + 1).is_some_and(|next| {
                next.process == place.process && next.failpoint.moment == Moment::Before
            });
        let modes: &[_] = match same_as_next {
            true => &[Mode::Error, Mode::Panic],
            false => &[Mode::Error, Mode::Panic, Mode::Kill],
        };
        cases.extend(modes.iter().map(|mode| Case { mode: *mode, place: (*place).clone() }));
    }
    cases
}
