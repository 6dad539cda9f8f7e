//! What becomes of what the desired state does not name.

use mvm_model::observed::Life;

use super::scenarios::{R, S, of, plan, steps};
use super::sim::Sim;
use super::*;
use crate::{About, Plan, Reason, Removal, Terms, host};

#[test]
fn unknown_tenants_and_pools_are_untouched_unless_pruned() {
    let both = desired(vec![workers(1, 0, 0).tenants.remove(0), {
        let mut other = tenant("other", 8);
        other.pools.push(pool("workers", Role::Worker, 1, 0, 0));
        other
    }]);
    let now = observed(&both, |_| statuses(&[R, S]));
    let mut less = desired(vec![both.tenants[0].clone()]);
    less.tenants[0].pools[0].desired_counts = DesiredCounts { running: 1, warm: 0, sleeping: 1 };
    let mut quiet = now.clone();
    quiet.tenants[0].pools[0].spec = less.tenants[0].pools[0].clone();
    assert!(plan(&less, &quiet).is_empty());

    less.prune_unknown_tenants = true;
    let expected = [
        "mark tenant other orphaned",
        "mark pool other/workers orphaned",
        "stop other/workers/i-00000003 (not in the desired state)",
    ];
    assert_eq!(steps(&plan(&less, &quiet)), expected, "what sleeps stays asleep");
    let terms = Terms { removal: Removal::DeleteData, ..Terms::default() };
    let deleted = host(&less, &quiet, &terms, NOW);
    let last: Vec<_> = steps(&deleted).into_iter().rev().take(2).collect();
    assert_eq!(last, ["destroy tenant other", "destroy pool other/workers"]);
    let mut sim = Sim::new(quiet.clone());
    assert!(sim.reconcile(&less, &terms, NOW).is_empty());
    assert_eq!(sim.host.tenants.len(), 1);

    quiet.tenants[1].spec.managed_by = ManagedBy::Nix;
    let refused = plan(&less, &quiet);
    assert_eq!(
        (refused.steps.len(), &refused.notes[0].reason),
        (0, &Reason::Owned(ManagedBy::Nix))
    );
    quiet.tenants[1].spec.managed_by = ManagedBy::Local;
    quiet.tenants[1].pools[0].spec.critical = true;
    assert!(plan(&less, &quiet).is_empty(), "critical is never pruned");
    quiet.tenants[1].life = Life::Builtin;
    assert_eq!(plan(&less, &quiet), Plan::default());
}

#[test]
fn an_empty_document_prunes_nothing() {
    let now = of(&workers(1, 0, 0), &[R]);
    let empty = DesiredState { prune_unknown_tenants: true, ..DesiredState::default() };
    let terms = Terms { removal: Removal::DeleteData, ..Terms::default() };
    let plan1 = host(&empty, &now, &terms, NOW);
    assert_eq!((plan1.steps.len(), &plan1.notes[0].about), (0, &About::Node));
    let mut poolless = workers(1, 0, 0);
    poolless.tenants[0].pools.clear();
    poolless.prune_unknown_pools = true;
    assert!(host(&poolless, &now, &terms, NOW).is_empty());
}
