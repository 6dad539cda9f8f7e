//! What is here without a reason, each with what a repair does about it, and what earlier repairs
//! put aside.

use mvm_api::repair::{Stray, Verdict};

use super::{Check, Health};
use crate::service::Service;
use crate::stray::is_worth_telling;

impl Service {
    pub(super) async fn stray_checks(&self) -> Vec<Check> {
        let mut checks = match self.strays().await {
            Ok(strays) => told(&strays),
            Err(error) => {
                let check = Check::new("strays", Health::Bad, error.chain());
                vec![match error.hint {
                    Some(hint) => check.remedy(hint),
                    None => check,
                }]
            }
        };
        checks.extend(self.quarantine());
        checks
    }

    fn quarantine(&self) -> Option<Check> {
        let all = self.quarantined();
        let first = all.first()?;
        let found = format!("{} kept aside, first {}", all.len(), first.display());
        let remedy = "its note.txt says what it is; put it back, or remove it";
        Some(Check::new("quarantine", Health::Warning, found).remedy(remedy))
    }
}

fn told(strays: &[Stray]) -> Vec<Check> {
    let told: Vec<_> = strays.iter().filter(|stray| is_worth_telling(stray)).map(check).collect();
    match told.is_empty() {
        true => vec![Check::new("strays", Health::Good, "nothing is here without a reason")],
        false => told,
    }
}

fn check(stray: &Stray) -> Check {
    let found = format!("{}: {}", stray.object, stray.why);
    let (health, remedy) = match stray.verdict {
        Verdict::Reclaim => (Health::Warning, "'mvm doctor --repair' takes it away"),
        Verdict::Settle => (Health::Warning, "'mvm doctor --repair' writes down what became of it"),
        Verdict::Restore => (Health::Warning, "'mvm doctor --repair' restores it"),
        Verdict::Quarantine => (Health::Warning, "'mvm doctor --repair' moves it aside"),
        Verdict::Leave | Verdict::Ask => (Health::Warning, "a person has to decide"),
    };
    Check::new("stray", health, found).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_somebody_elses_is_not_told() {
        let stray = |verdict| Stray { object: "tap tn7i3".into(), verdict, why: "x".into() };
        assert_eq!(told(&[stray(Verdict::Leave)])[0].health, Health::Good);
        let checks = told(&[stray(Verdict::Reclaim), stray(Verdict::Leave), stray(Verdict::Ask)]);
        assert_eq!(checks.len(), 2);
        assert!(checks[0].remedy.as_ref().unwrap().contains("--repair"));
    }
}
