mod schema;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const FULL: &str = include_str!("full.json");

fn strict(text: &str) -> Document {
    read(text, Reader::Strict).unwrap()
}

fn full() -> Value {
    serde_json::from_str(FULL).unwrap()
}

/// A document of one tenant with one pool, and room for changes.
fn small() -> Value {
    json!({
        "schema_version": 1,
        "tenants": [{
            "tenant_id": "acme",
            "network": { "tenant_net_id": 7, "ipv4_subnet": "10.240.7.0/24" },
            "pools": [{
                "pool_id": "workers",
                "flake_ref": ".",
                "profile": "minimal",
                "instance_resources": { "vcpus": 2, "mem_mib": 1024 },
                "desired_counts": { "running": 2 },
            }],
        }],
    })
}

fn changed(pointer: &str, value: Value) -> Value {
    let mut document = small();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.insert(name.to_owned(), value)),
        Value::Array(list) => list.push(value),
        _ => panic!("{pointer} is in no object"),
    }
    document
}

/// What a person is told about a document: each problem's object and text.
fn told(document: &Value) -> Vec<(String, String)> {
    let problems = strict(&document.to_string()).whole().map_or_else(|all| all.0, |_| vec![]);
    assert!(problems.iter().all(|problem| !problem.hint.is_empty()));
    problems.into_iter().map(|problem| (problem.object, problem.problem)).collect()
}

fn told_about(document: &Value, object: &str, part: &str) {
    let told = told(document);
    let found = told.iter().any(|(about, problem)| about == object && problem.contains(part));
    assert!(found, "nothing about {object} with {part:?} in {told:?}");
}

#[test]
fn every_field_is_read_and_written_back() {
    let document = strict(FULL);
    assert_eq!(document.problems, []);
    let written: Value = serde_json::from_str(&document.state.to_json()).unwrap();
    assert_eq!(written, full());
    assert_eq!(read(FULL, Reader::Tolerant).unwrap(), document);
}

#[test]
fn records_hold_what_documents_say() {
    for document in [full(), small()] {
        let tenant = &strict(&document.to_string()).state.tenants[0];
        let kept = serde_json::to_string(tenant).unwrap();
        assert_eq!(serde_json::from_str::<TenantSpec>(&kept).unwrap(), *tenant);
    }
}

#[test]
fn a_small_document_has_the_documented_defaults() {
    let state = strict(&small().to_string()).whole().unwrap();
    let tenant = &state.tenants[0];
    assert_eq!((tenant.quotas, &tenant.egress), (Quotas::default(), &Egress::Internet));
    let pool = &tenant.pools[0];
    assert_eq!((&pool.role, pool.runtime_policy.min_running_seconds), (&Role::Worker, 60));
    let profile = crate::image::Profile::Minimal.into();
    assert_eq!(pool.image, ImageSource::flake(".".parse().unwrap(), profile));
    assert!(pool.instances.is_none() && !state.prune_unknown_tenants);
}

#[test]
fn what_says_nothing_is_an_error_and_changes_nothing() {
    for empty in ["", " \n\t", "\u{a0}"] {
        assert_eq!(read(empty, Reader::Strict), Err(Unreadable::Empty));
    }
    for cut in [1, FULL.len() / 3, FULL.len() - 3] {
        let cut = read(&FULL[..cut], Reader::Tolerant);
        assert!(matches!(cut, Err(Unreadable::Truncated { .. })), "{cut:?}");
    }
    for shapeless in [
        "[]",
        "null",
        "3",
        "{}",
        "{\"schema_version\":1}",
        "{\"schema_version\":1,\"tenants\":null}",
    ] {
        let read = read(shapeless, Reader::Strict);
        assert!(matches!(read, Err(Unreadable::Shape(_))), "{shapeless}: {read:?}");
    }
    assert!(matches!(read("{]", Reader::Strict), Err(Unreadable::Syntax(_))));
    let huge = " ".repeat(MAX_DOCUMENT + 1);
    assert!(matches!(read(&huge, Reader::Strict), Err(Unreadable::TooLarge(_))));
    let prunes = json!({ "schema_version": 1, "tenants": [], "prune_unknown_tenants": true });
    told_about(&prunes, "tenants", "would take down everything");
}

#[test]
fn versions_are_strict_for_people_and_tolerant_between_daemons() {
    let newer = changed("/schema_version", json!(2)).to_string();
    assert_eq!(read(&newer, Reader::Strict), Err(Unreadable::Version { found: 2 }));
    assert!(read(&newer, Reader::Tolerant).unwrap().problems.is_empty());
    let mut needs = changed("/schema_version", json!(2));
    needs["min_reader"] = json!(2);
    let needs = read(&needs.to_string(), Reader::Tolerant);
    assert_eq!(needs, Err(Unreadable::NeedsNewer { needed: 2 }));
    let older = changed("/schema_version", json!(0)).to_string();
    assert!(read(&older, Reader::Tolerant).is_err());
}

#[test]
fn mistakes_of_reading_do_not_hide_contradictions() {
    let mut document = changed("/tenants/0/quota", json!({}));
    document["tenants"][0]["pools"][0]["instance_resources"]["vcpus"] = json!("many");
    let mut twin = small()["tenants"][0].clone();
    twin["tenant_id"] = json!("globex");
    twin["network"]["ipv4_subnet"] = json!("10.240.8.0/24");
    document["tenants"].as_array_mut().unwrap().push(twin);
    assert_eq!(told(&document).len(), 3, "{:?}", told(&document));
    told_about(&document, "globex", "tenant_net_id 7 is also tenant acme's");
    let vcpus = "tenants[0] (acme).pools[0] (workers).instance_resources.vcpus";
    told_about(&document, vcpus, "is \"many\", should be a whole number, 0 or more");
}

#[test]
fn an_unknown_field_is_a_mistake_of_a_person_and_none_of_a_daemon() {
    for (pointer, object, hint) in [
        ("/tenant", "tenant", "did you mean \"tenants\"?"),
        ("/tenants/0/quota", "tenants[0] (acme).quota", "did you mean \"quotas\"?"),
        ("/tenants/0/network/mtu", "tenants[0] (acme).network.mtu", "known here: tenant_net_id"),
        (
            "/tenants/0/pools/0/desired_counts/runing",
            "tenants[0] (acme).pools[0] (workers).desired_counts.runing",
            "did you mean \"running\"?",
        ),
    ] {
        let document = changed(pointer, json!(1)).to_string();
        let problems = strict(&document).problems;
        assert_eq!((problems.len(), &problems[0].object[..]), (1, object));
        assert!(problems[0].hint.starts_with(hint), "{}", problems[0].hint);
        let tolerated = read(&document, Reader::Tolerant).unwrap();
        assert_eq!((tolerated.problems.len(), tolerated.state.tenants[0].pools.len()), (0, 1));
    }
}

#[test]
fn a_malformed_object_is_left_out_alone_and_nothing_is_pruned_then() {
    let mut document = full();
    let mut bad = document["tenants"][0]["pools"][0].clone();
    bad["pool_id"] = json!("Bad!");
    bad["instance_resources"]["vcpus"] = json!("two");
    document["tenants"][0]["pools"].as_array_mut().unwrap().push(bad);
    document["tenants"].as_array_mut().unwrap().push(json!({ "tenant_id": "lost" }));
    let document = strict(&document.to_string());
    let objects: Vec<_> = document.problems.iter().map(|problem| &problem.object[..]).collect();
    let expected = [
        "tenants[0] (acme).pools[1] (Bad!).pool_id",
        "tenants[0] (acme).pools[1] (Bad!).instance_resources.vcpus",
        "tenants[1] (lost).network.tenant_net_id",
        "tenants[1] (lost).network.ipv4_subnet",
    ];
    assert_eq!(objects, expected);
    assert!(document.clone().whole().is_err());
    let (state, problems) = document.tolerate();
    assert_eq!((state.tenants.len(), state.tenants[0].pools.len(), problems.len()), (1, 1, 4));
    assert!(!state.prune_unknown_pools, "what is missing may only be misspelt");
}

#[test]
fn a_daemons_generation_that_cannot_be_read_refuses_the_document() {
    let document = changed("/generation", json!("twelve")).to_string();
    assert!(matches!(read(&document, Reader::Tolerant), Err(Unreadable::Shape(_))));
}

#[test]
fn contradictions_are_told_with_their_object() {
    let mut twins = small();
    let twin = twins["tenants"][0].clone();
    twins["tenants"].as_array_mut().unwrap().push(twin);
    told_about(&twins, "acme", "is there twice");
    told_about(&twins, "acme", "tenant_net_id 7 is also tenant acme's");

    let mut overlap = small();
    let mut other = overlap["tenants"][0].clone();
    other["tenant_id"] = json!("other");
    other["network"] = json!({ "tenant_net_id": 8, "ipv4_subnet": "10.240.0.0/16" });
    overlap["tenants"].as_array_mut().unwrap().push(other);
    told_about(&overlap, "acme", "subnet 10.240.7.0/24 overlaps 10.240.0.0/16 of tenant other");

    told_about(&changed("/tenants/0/tenant_id", json!("dev")), "dev", "is part of mvm");
    let range = json!({ "first": 0, "last": 900 });
    told_about(
        &changed("/tenants/0/network/address_range", range),
        "acme",
        "address_range 0 to 900",
    );
    told_about(&changed("/node_id", json!("../x")), "node_id", "is no node id");

    let mut twice = small();
    let pool = twice["tenants"][0]["pools"][0].clone();
    twice["tenants"][0]["pools"].as_array_mut().unwrap().push(pool);
    told_about(&twice, "acme/workers", "is there twice");
}

#[test]
fn a_quota_below_the_counts_is_told() {
    for (quota, value, object, part) in [
        ("max_running", 1, "acme", "its pools ask for 2, quota max_running is 1"),
        ("max_vcpus", 3, "acme", "its pools ask for 4 vCPUs, quota max_vcpus is 3 vCPUs"),
        ("max_mem_mib", 2047, "acme", "its pools ask for 2048"),
        ("max_pools", 0, "acme", "quota max_pools is 0"),
        ("max_instances_per_pool", 1, "acme/workers", "2 instances"),
    ] {
        told_about(&changed("/tenants/0/quotas", json!({ quota: value })), object, part);
    }
    let network = json!({ "tenant_net_id": 7, "ipv4_subnet": "10.240.7.0/28" });
    let mut full = changed("/tenants/0/network", network);
    full["tenants"][0]["pools"][0]["desired_counts"] = json!({ "sleeping": 13 });
    told_about(&full, "acme", "13 instances, 10.240.7.0/28 has room for 12");
    full["tenants"][0]["pools"][0]["role"] = json!("gateway");
    assert_eq!(told(&full), [], "a gateway pool may use .2 too");
}

#[test]
fn contradictions_within_a_pool_are_told() {
    let pool = "/tenants/0/pools/0";
    for (field, value, part) in [
        ("instance_resources", json!({ "vcpus": 64, "mem_mib": 1 }), "vCPU count 64 is outside"),
        ("routes", json!([{ "hostname": "A B", "port": 80 }]), "route \"A B\" port 80"),
        ("secret_scopes", json!([""]), "is not a word"),
        (
            "idle",
            json!({ "warm_after_seconds": 9, "sleep_after_seconds": 8 }),
            "nothing would ever",
        ),
        ("idle", json!({ "warm_after_seconds": 9, "keep_running": 5 }), "idle.keep_running 5"),
        ("runtime_policy", json!({ "min_warm_seconds": 99999999999u64 }), "more than a year"),
    ] {
        told_about(&changed(&format!("{pool}/{field}"), value), "acme/workers", part);
    }
    let mut pinned = changed(&format!("{pool}/desired_counts"), json!({ "sleeping": 1 }));
    pinned["tenants"][0]["pinned"] = json!(true);
    told_about(&pinned, "acme/workers", "it is pinned, so nothing in it may sleep");
}

#[test]
fn contradictions_of_named_instances_are_told() {
    let named = |list: Value| changed("/tenants/0/pools/0/instances", list);
    let alice = "acme/workers/alice";
    let two = json!([{ "name": "alice" }, { "name": "alice" }]);
    told_about(&named(two), alice, "is there twice");
    told_about(
        &named(json!([{ "name": "alice", "offset": 300 }])),
        alice,
        "offset 300 is not usable",
    );
    told_about(
        &named(json!([{ "name": "alice", "offset": 2 }])),
        alice,
        "belongs to the tenant's gateway",
    );
    let same = json!([{ "name": "bob", "offset": 9 }, { "name": "alice", "offset": 9 }]);
    told_about(&named(same), alice, "offset 9 is also acme/workers/bob's");
    let id = json!([{ "name": "bob", "instance_id": "i-00000001" }, { "name": "alice", "instance_id": "i-00000001" }]);
    told_about(&named(id), alice, "instance_id i-00000001 is also acme/workers/bob's");
    told_about(&named(json!([{ "name": "alice", "labels": { "": "" } }])), alice, "labels");
}

#[test]
fn images_of_every_kind_are_read_and_others_refused() {
    let image = |image: Value| {
        let mut document = small();
        let pool = document["tenants"][0]["pools"][0].as_object_mut().unwrap();
        pool.retain(|name, _| !["flake_ref", "profile"].contains(&name.as_str()));
        pool.insert("image".into(), image);
        document
    };
    assert_eq!(told(&image(json!({ "kind": "embedded", "profile": "node" }))), []);
    assert_eq!(told(&image(json!({ "kind": "flake", "ref": ".", "profile": "node" }))), []);
    let place = "tenants[0] (acme).pools[0] (workers).image";
    let kind = format!("{place}.kind");
    told_about(&image(json!({ "kind": "oci", "reference": "x" })), &kind, "reserved");
    told_about(&image(json!({ "kind": "tape" })), &kind, "\"tape\" is no kind of image");
    told_about(
        &image(json!({ "kind": "embedded", "profile": "x" })),
        &format!("{place}.profile"),
        "",
    );
    let both =
        changed("/tenants/0/pools/0/image", json!({ "kind": "embedded", "profile": "node" }));
    told_about(&both, "tenants[0] (acme).pools[0] (workers).flake_ref", "beside \"image\"");
    told_about(&image(Value::Null), place, "is missing");
}

/// Every JSON block of the documentation is a whole document.
#[test]
fn the_documented_examples_are_good() {
    let text = include_str!("../../../../docs/agent.md");
    let blocks = text.split("```json\n").skip(1).map(|block| block.split("```").next().unwrap());
    let blocks: Vec<&str> = blocks.collect();
    assert!(blocks.len() >= 2);
    for block in blocks {
        let whole = strict(block).whole();
        assert!(whole.is_ok(), "{whole:?}\n{block}");
    }
}

/// Every field is described: its name stands in the documentation as code.
#[test]
fn every_field_is_documented() {
    let text = include_str!("../../../../docs/agent.md");
    for pointer in schema::pointers(&full(), "") {
        let name = pointer.rsplit('/').next().unwrap();
        let counted = name.parse::<usize>().is_ok() || name == "person";
        assert!(counted || text.contains(&format!("`{name}`")), "{name} is not documented");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", at in 0usize..4000, cut in 0usize..80) {
        let _ = read(&text, Reader::Strict);
        let at = at.min(FULL.len());
        let end = (at + cut).min(FULL.len());
        let spoilt = format!("{}{text}{}", &FULL[..at], &FULL[end..]);
        for reader in [Reader::Strict, Reader::Tolerant] {
            if let Ok(document) = read(&spoilt, reader) {
                let _ = check(&document.state);
            }
        }
    }
}
