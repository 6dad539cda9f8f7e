use std::fs;

use mvm_model::desired::{InstanceSpec, TenantSpec, Wanted};
use mvm_model::intent::Object;
use mvm_model::record::DesiredCounts;

use super::*;
use crate::pool::Scale;
use crate::testing;
use crate::update::{PoolUpdate, TenantUpdate};

/// What the records ask for, with a change.
fn present(service: &Service, change: impl FnOnce(&mut TenantSpec)) -> DesiredState {
    let mut state = service.desired().unwrap();
    change(&mut state.tenants[0]);
    state
}

async fn apply(service: &Service, state: &DesiredState) -> Applied {
    service.apply_desired(state, Source::File, Repeat::Always).await.unwrap()
}

fn own(service: &Service, owner: ManagedBy) {
    let mut pool = service.pool(&"acme/workers".parse().unwrap()).unwrap();
    pool.managed_by = owner;
    service.records.put_pool(&pool).unwrap();
}

fn counts(service: &Service) -> DesiredCounts {
    service.pool(&"acme/workers".parse().unwrap()).unwrap().desired_counts
}

#[tokio::test]
async fn what_was_written_out_changes_nothing_when_it_is_applied() {
    let (_root, service) = testing::service();
    let pool = "acme/workers".parse().unwrap();
    service.create_instance(&pool, Some("alice".parse().unwrap())).await.unwrap();
    let state = parse(&service.desired().unwrap().to_json(), "F").unwrap();
    assert_eq!((state.node_id.clone(), state.generation, state.epoch), (None, None, None));
    let applied = apply(&service, &state).await;
    assert_eq!((applied.changes, applied.refused), (vec![], vec![]));
    assert_eq!(service.desired().unwrap(), state);
}

#[tokio::test]
async fn each_object_is_applied_by_itself() {
    let (_root, service) = testing::service();
    let state = present(&service, |tenant| {
        let mut second = tenant.pools[0].clone();
        second.pool_id = "more".parse().unwrap();
        second.desired_counts.running = 2;
        // More than fits into the tenant's quotas beside the other pool.
        tenant.pools[0].desired_counts.warm = 5;
        tenant.pools.push(second);
    });
    let applied = apply(&service, &state).await;
    assert_eq!(applied.changes, ["add pool acme/more"]);
    assert_eq!(applied.refused[0].kind, Kind::OverQuota);
    assert!(applied.refused[0].problem.contains("max_warm"), "{applied:?}");
    assert_eq!(counts(&service), DesiredCounts::default());
}

#[tokio::test]
async fn another_owner_is_named_with_the_way_to_take_over() {
    let (_root, service) = testing::service();
    own(&service, ManagedBy::Nix);
    let path: PoolPath = "acme/workers".parse().unwrap();
    let state = present(&service, |tenant| tenant.pools[0].desired_counts.running = 1);
    let refused = apply(&service, &state).await.refused.remove(0);
    assert_eq!(refused.kind, Kind::Refused);
    assert!(refused.hint.unwrap().contains("mvm pool adopt acme/workers"));
    let scaled = service.scale_pool(&path, Scale { running: Some(1), ..Scale::default() }).await;
    let updated = service.update_pool(&path, PoolUpdate::default()).await;
    for error in [scaled.unwrap_err(), updated.unwrap_err()] {
        assert_eq!((error.kind, error.kind.exit_code()), (Kind::Refused, 4));
        assert!(error.message.contains("nix"), "{error}");
    }
    assert_eq!(service.destroy_pool(&path).await.unwrap_err().kind, Kind::Refused);
    let before = service.adopt(&Object::Pool(path), ManagedBy::Local).await.unwrap();
    assert_eq!(before, ManagedBy::Nix);
    assert_eq!(apply(&service, &state).await.changes, ["update pool acme/workers"]);
}

#[tokio::test]
async fn a_person_may_keep_a_named_instance_in_a_declared_pool() {
    let (_root, service) = testing::service();
    own(&service, ManagedBy::Nix);
    let alice = InstanceSpec::new("alice".parse().unwrap());
    let add = |tenant: &mut TenantSpec| tenant.pools[0].instances = Some(vec![alice]);
    let state = present(&service, add);
    assert_eq!(apply(&service, &state).await.changes, ["add instance acme/workers/alice"]);
    let path = "acme/workers/alice".parse().unwrap();
    let record = service.instance(&path).unwrap();
    assert_eq!((record.desired, record.managed_by), (Some(Wanted::Running), ManagedBy::Local));
    let stop = |tenant: &mut TenantSpec| {
        let asked = tenant.pools[0].instances.as_mut().unwrap();
        (asked[0].desired, asked[0].data_disk_mib) = (Wanted::Stopped, Some(2048));
    };
    apply(&service, &present(&service, stop)).await;
    let record = service.instance(&path).unwrap();
    assert_eq!((record.desired, record.own_data_disk_mib), (Some(Wanted::Stopped), Some(2048)));
    assert_eq!(record.resources.data_disk_mib, 1024, "a drive is changed by the next cold boot");
}

#[tokio::test]
async fn older_documents_and_those_of_others_are_refused() {
    let (_root, service) = testing::service();
    let numbered = |generation, running| {
        let mut state =
            present(&service, |tenant| tenant.pools[0].desired_counts.running = running);
        state.generation = generation;
        state
    };
    assert_eq!(apply(&service, &numbered(Some(5), 1)).await.generation, 5);
    for (generation, running, says) in [(4, 1, "older than 5"), (5, 2, "other content")] {
        let state = numbered(Some(generation), running);
        let error = service.apply_desired(&state, Source::File, Repeat::Always).await.unwrap_err();
        assert!(error.message.contains(says), "{error}");
        assert_eq!(error.kind.exit_code(), 4);
    }
    assert_eq!(apply(&service, &numbered(None, 2)).await.generation, 6);
    let other = DesiredState { node_id: Some("another".into()), ..numbered(None, 2) };
    let error = service.apply_desired(&other, Source::File, Repeat::Always).await.unwrap_err();
    assert_eq!((error.kind, error.object.as_str()), (Kind::Refused, "node_id"));
    assert_eq!(counts(&service).running, 2);
}

#[tokio::test]
async fn the_loop_leaves_what_people_changed_since() {
    let (_root, service) = testing::service();
    let state = present(&service, |tenant| tenant.pools[0].desired_counts.running = 2);
    let path: PoolPath = "acme/workers".parse().unwrap();
    let by_loop = async || {
        service.apply_desired(&state, Source::File, Repeat::OnlyNew).await.unwrap().changes.len()
    };
    assert_eq!(by_loop().await, 1);
    service.scale_pool(&path, Scale { running: Some(1), ..Scale::default() }).await.unwrap();
    assert_eq!(by_loop().await, 0);
    assert_eq!(counts(&service).running, 1);
    assert_eq!(apply(&service, &state).await.changes.len(), 1, "a person's command does it again");
}

/// A reason that may pass is waited for, and only what it hindered is tried again.
#[tokio::test]
async fn the_loop_tries_again_what_could_not_be_made() {
    let (_root, service) = testing::service();
    let more = |service: &Service| {
        service.pool(&"acme/more".parse().unwrap()).unwrap().desired_counts.running
    };
    let state = present(&service, |tenant| {
        let mut second = tenant.pools[0].clone();
        second.pool_id = "more".parse().unwrap();
        second.desired_counts.running = 2;
        tenant.pools[0].desired_counts.warm = 5;
        tenant.pools.push(second);
    });
    let by_loop =
        async || service.apply_desired(&state, Source::File, Repeat::OnlyNew).await.unwrap();
    let first = by_loop().await;
    assert_eq!(first.changes, ["add pool acme/more"]);
    assert_eq!(first.pending, BTreeSet::from(["acme/workers".into()]));
    let path: PoolPath = "acme/more".parse().unwrap();
    service.scale_pool(&path, Scale { running: Some(1), ..Scale::default() }).await.unwrap();
    assert_eq!(by_loop().await.pending, first.pending);
    let room = TenantUpdate { max_warm: Some(5), ..TenantUpdate::default() };
    service.update_tenant(&path.tenant, room).await.unwrap();
    let again = by_loop().await;
    assert_eq!(again.changes, ["update pool acme/workers"]);
    assert!(again.pending.is_empty() && by_loop().await.changes.is_empty());
    assert_eq!((counts(&service).warm, more(&service)), (5, 1), "a person's change was undone");
}

#[tokio::test]
async fn what_nix_no_longer_declares_is_orphaned() {
    let (_root, service) = testing::service();
    let mut by_hand = service.desired().unwrap().tenants[0].pools[0].clone();
    by_hand.pool_id = "by-hand".parse().unwrap();
    apply(&service, &present(&service, |tenant| tenant.pools.push(by_hand))).await;
    own(&service, ManagedBy::Nix);
    let acme = Object::Tenant("acme".parse().unwrap());
    service.adopt(&acme, ManagedBy::Nix).await.unwrap();
    let mut intent = service.intent();
    let mut web = intent.tenants[0].pools[0].clone();
    web.pool_id = "web".parse().unwrap();
    intent.tenants[0].pools = vec![web];
    let nix = async |intent: &Intent| {
        let text = serde_json::to_string(intent).unwrap();
        let Document::Intent(read) =
            parse_document(&text, "/etc/mvm/fleet.json", DocumentForm::Intent).unwrap()
        else {
            panic!("another form")
        };
        service.apply_complete(read, Source::Nix).await
    };
    let applied = nix(&intent).await.unwrap();
    assert_eq!(applied.changes, ["add pool acme/web", "orphan pool acme/workers"]);
    let of = |pool: &str| service.pool(&format!("acme/{pool}").parse().unwrap()).unwrap();
    assert_eq!(of("web").managed_by, ManagedBy::Nix);
    assert!(of("workers").orphaned && !of("by-hand").orphaned);
    // Again it is nothing; what says nothing orphans nothing; and it is for this host alone.
    assert_eq!(nix(&intent).await.unwrap().changes, [""; 0]);
    assert_eq!(nix(&Intent::default()).await.unwrap().changes, [""; 0]);
    for host_id in ["atlas", "titan"] {
        let host_id = host_id.parse().unwrap();
        let (node_id, address, labels) = (None, None, Default::default());
        intent.hosts.push(intent::HostSpec { host_id, node_id, address, labels });
    }
    let error = nix(&intent).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    assert!(error.message.contains("2 hosts"), "{error}");
}

#[tokio::test]
async fn pruning_marks_and_never_takes_the_critical() {
    let (_root, service) = testing::service();
    let with = |name: &str, critical| {
        let mut pool = service.desired().unwrap().tenants[0].pools[0].clone();
        (pool.pool_id, pool.critical) = (name.parse().unwrap(), critical);
        pool
    };
    let more = [with("aside", false), with("heart", true)];
    apply(&service, &present(&service, |tenant| tenant.pools.extend(more))).await;
    let mut state = present(&service, |tenant| {
        tenant.pools.retain(|pool| pool.pool_id.as_str() == "workers");
    });
    state.prune_unknown_pools = true;
    assert_eq!(apply(&service, &state).await.changes, ["orphan pool acme/aside"]);
    let pools = service.records.pools(&"acme".parse().unwrap()).records;
    assert_eq!(pools.len(), 3, "an orphaned pool is kept");
}

#[test]
fn what_is_no_document_says_so_and_changes_nothing() {
    let whole = r#"{"schema_version": 1, "tenants": []}"#;
    assert!(parse(whole, "F").is_ok());
    let bad = [
        ("", "is empty"),
        ("  \n", "is empty"),
        (&whole[..20], "ends in the middle"),
        ("schema_version: 1", "is not JSON"),
        (r#"{"schema_version": 1}"#, "tenants"),
        (r#"{"schema_version": 2, "tenants": []}"#, "schema version 2"),
        (r#"{"schema_version": 1, "tenants": [], "tenant": []}"#, "tenant"),
        (r#"{"schema_version": 1, "tenants": [], "prune_unknown_tenants": true}"#, "everything"),
    ];
    for (text, says) in bad {
        let error = parse(text, "F").unwrap_err();
        assert!(error.message.contains(says), "{text}: {error}");
        assert_eq!((error.kind.exit_code(), error.object.as_str()), (2, "F"));
        assert!(error.hint.is_some_and(|hint| !hint.is_empty()), "{text}");
    }
    for form in [DocumentForm::DesiredState, DocumentForm::Intent] {
        let missing = read_file(Path::new("/nowhere/at/all.json"), form).unwrap_err();
        assert_eq!(missing.kind.exit_code(), 3);
    }
}

#[test]
fn a_flake_is_found_from_the_file_that_names_it() {
    let text = r#"{"schema_version": 1, "tenants": [{"tenant_id": "acme",
        "network": {"tenant_net_id": 7, "ipv4_subnet": "10.240.7.0/24"},
        "pools": [{"pool_id": "workers", "flake_ref": "./images", "profile": "minimal",
            "instance_resources": {"vcpus": 1, "mem_mib": 128}}]}]}"#;
    let state = parse(text, "/home/ada/fleet/d.json").unwrap();
    let image = &state.tenants[0].pools[0].image;
    assert_eq!(image.to_string(), "/home/ada/fleet/images#minimal");
    let error = parse(text, "-").unwrap_err();
    assert_eq!((error.kind, error.object.as_str()), (Kind::Invalid, "acme/workers"));
}

#[tokio::test]
async fn a_newer_versions_record_is_left_alone() {
    let (root, service) = testing::service();
    let state = present(&service, |tenant| {
        let mut second = tenant.pools[0].clone();
        second.pool_id = "more".parse().unwrap();
        tenant.pools[0].desired_counts.running = 1;
        tenant.pools.push(second);
    });
    let file = root.path().join("MVM_STATE_DIR/tenants/acme/pools/workers/pool.json");
    let newer = fs::read_to_string(&file)
        .unwrap()
        .replace("\"schema_version\": 1", "\"schema_version\": 9");
    fs::write(&file, &newer).unwrap();
    let applied = apply(&service, &state).await;
    assert_eq!(applied.changes, ["add pool acme/more"]);
    assert_eq!(applied.refused[0].kind, Kind::NewerState);
    assert_eq!(fs::read_to_string(&file).unwrap(), newer);
    let sight = service.look(1);
    assert_eq!(sight.problems.len(), 1);
    assert_eq!(sight.observed.tenants[0].pools.len(), 1);
}

#[tokio::test]
async fn quotas_below_what_is_asked_for_are_refused() {
    let (_root, service) = testing::service();
    let (name, path) = ("acme".parse().unwrap(), "acme/workers".parse().unwrap());
    service.scale_pool(&path, Scale { running: Some(3), ..Scale::default() }).await.unwrap();
    let update = |most| TenantUpdate { max_running: Some(most), ..TenantUpdate::default() };
    let error = service.update_tenant(&name, update(2)).await.unwrap_err();
    assert_eq!(error.kind, Kind::OverQuota);
    assert!(error.message.contains("max_running"), "{error}");
    let tenant = service.update_tenant(&name, update(3)).await.unwrap();
    assert_eq!((tenant.quotas.max_running, tenant.quotas.max_warm), (3, 4));
    let more = PoolUpdate { data_disk_mib: Some(40 << 10), ..PoolUpdate::default() };
    assert_eq!(service.update_pool(&path, more).await.unwrap_err().kind, Kind::OverQuota);
}

/// Two people at two terminals, many times at once: every change is whole or refused.
#[test]
fn concurrent_changes_serialise() {
    let (_root, service) = testing::service();
    let path: PoolPath = "acme/workers".parse().unwrap();
    std::thread::scope(|scope| {
        for person in 0..8u32 {
            let (service, path) = (&service, &path);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    for turn in 0..6 {
                        match (person + turn) % 4 {
                            0 => {
                                let running = Some(turn % 5);
                                let wanted = Scale { running, ..Scale::default() };
                                service.scale_pool(path, wanted).await.unwrap();
                            }
                            1 => {
                                let name = format!("one-{person}-{turn}").parse().unwrap();
                                service.create_instance(path, Some(name)).await.unwrap();
                            }
                            2 => {
                                let update = PoolUpdate {
                                    vcpus: Some(1 + turn % 2),
                                    ..PoolUpdate::default()
                                };
                                service.update_pool(path, update).await.unwrap();
                            }
                            _ => {
                                // Whatever it finds, it applies that as a whole.
                                let state = service.desired().unwrap();
                                let applied =
                                    service.apply_desired(&state, Source::File, Repeat::Always);
                                applied.await.unwrap();
                            }
                        }
                    }
                });
            });
        }
    });
    let found = service.records.instances(&path);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let (mut offsets, mut uids, mut names) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for record in &found.records {
        assert!(offsets.insert(record.offset) && uids.insert(record.uid), "{}", record.path());
        assert!(record.name.as_ref().is_none_or(|name| names.insert(name.clone())));
    }
    assert_eq!(names.len(), 12);
    let unnamed = found.records.iter().filter(|record| record.name.is_none()).count();
    assert!(unnamed as u32 >= counts(&service).running);
    crate::audit::Log::of(&service.dirs.state, &path.tenant).verify().unwrap();
}
