use super::*;
use crate::id::PoolPath;

const EXAMPLE: &str = include_str!("example.json");

fn example() -> Intent {
    read(EXAMPLE, Reader::Strict).unwrap().whole().unwrap()
}

#[test]
fn the_example_is_read_whole_and_written_back_the_same() {
    let written: serde_json::Value = serde_json::from_str(&example().to_json()).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(EXAMPLE).unwrap());
}

fn local() -> Intent {
    let mut intent = Intent::default();
    let first = merge(&intent, &Declaration::complete(example()), Source::File);
    assert_eq!(first.refusals, []);
    apply(&mut intent, &first.changes);
    intent
}

fn nix() -> Intent {
    let mut intent = Intent::default();
    let first = merge(&intent, &Declaration::complete(example()), Source::Nix);
    apply(&mut intent, &first.changes);
    intent
}

fn workers() -> PoolPath {
    "acme/workers".parse().unwrap()
}

fn texts(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_new_declaration_is_added_and_belongs_to_its_source() {
    let intent = local();
    let tenant = &intent.tenants[0];
    assert_eq!(tenant.managed_by, ManagedBy::Local);
    assert!(tenant.pools.iter().all(|pool| pool.managed_by == ManagedBy::Local));
    assert_eq!(tenant.pools[1].named()[0].managed_by, ManagedBy::Local);
    assert_eq!(nix(), Intent { hosts: Vec::new(), ..example() });
}

#[test]
fn the_same_declaration_again_changes_nothing_whoever_makes_it() {
    for source in [Source::Cli, Source::File, Source::Nix] {
        let again = merge(&nix(), &Declaration::complete(example()), source);
        assert_eq!(again, Merge::default());
    }
}

#[test]
fn another_writer_is_refused_with_owner_and_adopt() {
    let mut declared = example();
    declared.tenants[0].pools[1].desired_counts.running = 3;
    let merged = merge(&nix(), &Declaration::complete(declared), Source::File);
    assert_eq!(merged.changes, []);
    let refusal = &merged.refusals[0];
    assert_eq!(
        refusal.to_string(),
        "cannot change pool acme/workers: it is managed by the NixOS configuration (nix)"
    );
    assert!(refusal.hint().contains("mvm pool adopt acme/workers"), "{}", refusal.hint());
}

#[test]
fn adopting_lets_the_new_owner_change_it_alone() {
    let mut intent = nix();
    assert!(adopt(&mut intent, &Object::Pool(workers()), ManagedBy::Local));
    let mut declared = example();
    declared.tenants[0].pools[1].desired_counts.running = 3;
    declared.tenants[0].quotas.max_running = 9;
    let merged = merge(&intent, &Declaration::complete(declared), Source::Cli);
    assert_eq!(texts(&merged.changes), ["update pool acme/workers"]);
    assert_eq!(merged.refusals.len(), 1, "the tenant is still Nix's");
    let nobody = Object::Tenant("nobody".parse().unwrap());
    assert!(!adopt(&mut intent, &nobody, ManagedBy::Local));
}

#[test]
fn what_nix_no_longer_names_is_orphaned_and_comes_back_when_named_again() {
    let mut intent = nix();
    let mut less = example();
    less.tenants[0].pools.remove(0);
    less.tenants[0].pools[0].instances = Some(Vec::new());
    let merged = merge(&intent, &Declaration::complete(less), Source::Nix);
    let expected = ["orphan instance acme/workers/alice", "orphan pool acme/gateways"];
    assert_eq!(texts(&merged.changes), expected);
    apply(&mut intent, &merged.changes);
    let back = merge(&intent, &Declaration::complete(example()), Source::Nix);
    apply(&mut intent, &back.changes);
    assert_eq!(intent, nix());
}

#[test]
fn an_empty_declaration_orphans_nothing() {
    let empty = Declaration::complete(Intent::default());
    assert_eq!(merge(&nix(), &empty, Source::Nix), Merge::default());
    let pruning = DesiredState { prune_unknown_tenants: true, ..DesiredState::default() };
    assert_eq!(merge(&local(), &Declaration::of_document(pruning), Source::File), Merge::default());
    let mut poolless = example();
    poolless.tenants[0].pools.clear();
    assert_eq!(merge(&nix(), &Declaration::complete(poolless), Source::Nix), Merge::default());
}

#[test]
fn pruning_takes_only_what_the_writer_owns() {
    let mut other = example().tenants.remove(0);
    other.tenant_id = "other".parse().unwrap();
    let state = DesiredState {
        tenants: vec![other],
        prune_unknown_tenants: true,
        ..DesiredState::default()
    };
    let declared = Declaration::of_document(state.clone());
    assert!(!texts(&merge(&nix(), &declared, Source::File).changes).join(" ").contains("orphan"));
    let merged = merge(&local(), &declared, Source::File);
    assert!(texts(&merged.changes).contains(&"orphan tenant acme".to_owned()));
    let keeping = DesiredState { prune_unknown_tenants: false, ..state };
    let merged = merge(&local(), &Declaration::of_document(keeping), Source::File);
    assert!(!texts(&merged.changes).join(" ").contains("orphan"));
}

#[test]
fn network_and_role_are_for_life() {
    let mut moved = example();
    moved.tenants[0].network.ipv4_subnet = "10.240.8.0/24".parse().unwrap();
    let merged = merge(&local(), &Declaration::complete(moved), Source::File);
    assert_eq!(merged.changes, []);
    let text = merged.refusals[0].to_string();
    assert!(text.contains("its subnet is 10.240.7.0/24"), "{text}");
    let mut turned = example();
    turned.tenants[0].pools[1].role = crate::image::Role::Builder;
    let merged = merge(&local(), &Declaration::complete(turned), Source::File);
    assert!(merged.refusals[0].to_string().contains("its role is worker"));
}

#[test]
fn a_person_may_keep_a_named_instance_in_a_pool_of_nix() {
    let mut intent = nix();
    let mut declared = example();
    let bob = crate::desired::InstanceSpec::new("bob".parse().unwrap());
    declared.tenants[0].pools[1].instances = Some(vec![bob]);
    let declaration =
        Declaration { other_instances: Unnamed::Keep, ..Declaration::complete(declared) };
    let merged = merge(&intent, &declaration, Source::Cli);
    assert_eq!(texts(&merged.changes), ["add instance acme/workers/bob"]);
    apply(&mut intent, &merged.changes);
    let again = merge(&intent, &Declaration::complete(example()), Source::Nix);
    assert_eq!(again, Merge::default(), "Nix does not touch what it does not own");
}

#[test]
fn an_instance_keeps_the_id_and_offset_it_got() {
    let mut intent = local();
    let path = Object::Instance(workers(), "alice".parse().unwrap());
    let named = &mut intent.tenants[0].pools[1].instances.as_mut().unwrap()[0];
    named.instance_id = Some(crate::InstanceId::from_bits(7));
    let mut declared = example();
    declared.tenants[0].pools[1].instances.as_mut().unwrap()[0].desired =
        crate::desired::Wanted::Sleeping;
    let merged = merge(&intent, &Declaration::complete(declared.clone()), Source::File);
    apply(&mut intent, &merged.changes);
    let named = &intent.tenants[0].pools[1].named()[0];
    assert_eq!(named.instance_id, Some(crate::InstanceId::from_bits(7)));
    assert_eq!(named.desired, crate::desired::Wanted::Sleeping);
    declared.tenants[0].pools[1].instances.as_mut().unwrap()[0].offset = Some(crate::Offset(30));
    let merged = merge(&intent, &Declaration::complete(declared), Source::File);
    assert_eq!(merged.refusals[0].object, path);
}

#[test]
fn a_malformed_object_does_not_hide_the_others() {
    let text = EXAMPLE.replace("\"10.240.7.0/24\"", "\"10.240.7.1/24\"").replace("alpha\"", "A\"");
    let document = read(&text, Reader::Strict).unwrap();
    let objects: Vec<_> = document.problems.iter().map(|problem| &problem.object[..]).collect();
    assert_eq!(objects, ["hosts[0] (A).host_id", "tenants[0] (acme).network.ipv4_subnet"]);
    assert!(document.whole().is_err());
}
