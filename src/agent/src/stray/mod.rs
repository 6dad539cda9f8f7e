//! What is on this host without a reason, and making that right: `doctor`, `doctor --repair`, and
//! the agent's sweep.
//!
//! ```text
//! process.rs  VMMs and supervisors that are ours, by what the kernel says of them
//! look.rs     everything of ours that is there, then what the records say
//! judge.rs    the two held against each other: a finding with a verdict each; pure
//! act.rs      one finding carried out, under the lock its owner would hold, looked at again there
//! revive.rs   a record made from the version before it; pure
//! aside.rs    the quarantine: nothing that holds data is deleted, it is moved and listed
//! sweep.rs    the agent: what two looks a minute apart found, and only what holds no data
//! ```
//!
//! A VM that lives and that its record names is left alone by all of this: mvm killed and started
//! again finds it running.

mod act;
mod aside;
mod judge;
mod look;
mod process;
mod revive;
mod sweep;

use std::time::Duration;

use mvm_api::node::Mode;
use mvm_api::repair::{Handled, Outcome, Repaired, Stray, Verdict};
use mvm_host::lock::Lock;
use mvm_model::InstancePath;

use crate::error::{About, Result};
use crate::service::Service;
use judge::{Known, Thing, What};

pub(crate) use sweep::watch;

/// What is younger is left alone: somebody may be making it.
pub const MIN_AGE: Duration = Duration::from_secs(60);
/// How long one repair waits for another.
const PATIENCE: Duration = Duration::from_secs(5);
/// One thing may lead to the next: a VM that ended leaves a jail, a jail a tap.
const MOST_PASSES: usize = 5;

/// A finding, and what it is about.
#[derive(Debug, Clone)]
struct Case {
    stray: Stray,
    about: Subject,
}

#[derive(Debug, Clone)]
enum Subject {
    Thing(Thing),
    /// An instance that is not what its record says.
    Instance(InstancePath),
}

impl Service {
    /// Everything that is here without a reason, or not as its record says.
    ///
    /// # Errors
    /// When the kernel's network cannot be asked.
    pub async fn strays(&self) -> Result<Vec<Stray>> {
        let (cases, _) = self.cases(MIN_AGE).await?;
        Ok(cases.into_iter().map(|case| case.stray).collect())
    }

    async fn cases(&self, min_age: Duration) -> Result<(Vec<Case>, Known)> {
        let look::Survey { things, known } = self.survey().await?;
        let mut cases: Vec<_> = things
            .into_iter()
            .filter_map(|thing| {
                let stray = judge::judge(&thing, &known, min_age)?;
                Some(Case { stray, about: Subject::Thing(thing) })
            })
            .collect();
        cases.extend(known.instances.values().filter_map(|instance| {
            let stray = judge::unsettled(instance)?;
            Some(Case { stray, about: Subject::Instance(instance.path.parse().ok()?) })
        }));
        cases.sort_by_key(|case| rank(&case.about));
        Ok((cases, known))
    }

    /// Makes right what can be made right without guessing, and says what it did.
    ///
    /// # Errors
    /// [`Kind::Busy`](crate::error::Kind::Busy) while another repair is at it, or when this host
    /// cannot be looked at; what could not be done is in the answer.
    pub async fn repair(&self, mode: Mode, min_age: Duration) -> Result<Repaired> {
        let turn = self.dirs.state.join(".repair.lock");
        let _turn = Lock::take(&turn, &self.who, PATIENCE).await.about("", "repair this host")?;
        let (mut handled, mut before) = (Vec::<Handled>::new(), Vec::new());
        for _ in 0..MOST_PASSES {
            let (cases, known) = self.cases(min_age).await?;
            let todo: Vec<_> = cases.into_iter().filter(|case| case.stray.verdict.acts()).collect();
            let strays: Vec<_> = todo.iter().map(|case| case.stray.clone()).collect();
            // What comes again although all was tried does not go away.
            if strays == before {
                break;
            }
            for case in todo {
                let outcome = match mode {
                    Mode::DryRun => Outcome::Planned,
                    Mode::Remove => self.carry_out(&case, &known).await,
                };
                handled.retain(|earlier| earlier.stray != case.stray);
                handled.push(Handled { stray: case.stray, outcome });
            }
            before = strays;
            if mode == Mode::DryRun {
                break;
            }
        }
        let (left, _) = self.cases(min_age).await?;
        let planned = |stray: &Stray| mode == Mode::DryRun && stray.verdict.acts();
        let left =
            left.into_iter().map(|case| case.stray).filter(|stray| !planned(stray)).collect();
        Ok(Repaired { mode, handled, left, quarantine: self.quarantined() })
    }
}

/// Records first: they explain the rest. Then from the VM outwards.
fn rank(subject: &Subject) -> u8 {
    let Subject::Thing(thing) = subject else { return 1 };
    match &thing.what {
        What::Record { .. } | What::Unrecorded { .. } | What::Twin { .. } => 0,
        What::Unit { .. } => 2,
        What::Process { part: judge::Part::Vm, .. } => 3,
        What::Process { part: judge::Part::Supervisor, .. } => 4,
        What::LastLink { .. } => 5,
        What::Jail { .. } => 6,
        What::RunFiles { .. } => 7,
        What::Snapshot { .. } => 8,
        What::Tap { .. } => 9,
        What::Bridge { .. } => 10,
        What::Resolver { .. } => 11,
        What::Litter { .. } => 12,
    }
}

/// What a finding means for `doctor`: nothing, when it may be somebody else's.
pub(crate) fn is_worth_telling(stray: &Stray) -> bool {
    stray.verdict != Verdict::Leave
}

#[cfg(test)]
mod tests;
