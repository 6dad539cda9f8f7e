use super::*;

/// A host with nothing against it.
fn good() -> Facts {
    Facts {
        ksm: Some("0".into()),
        smt_active: Some("0".into()),
        vulnerabilities: vec![
            ("itlb_multihit".into(), "Not affected".into()),
            ("spectre_v2".into(), "Mitigation: Retpolines".into()),
        ],
        release: "6.1.0-56-cloud-amd64".into(),
        nx_huge_pages: Some("never".into()),
        least_timer_us: Some(200),
        core_pattern: "|/bin/false".into(),
        settings: SETTINGS.iter().map(|(name, least)| ((*name).to_owned(), *least)).collect(),
        places: vec![place("/var/lib/mvm", 0, 0o700), place("/", 0, 0o755)],
        is_time_synced: true,
        ..Facts::default()
    }
}

fn place(path: &str, uid: u32, mode: u32) -> Place {
    Place { path: path.into(), uid, mode }
}

/// The check that finds it, and what makes it.
type Fault = (&'static str, fn(&mut Facts));

fn health(name: &str, facts: &Facts) -> Health {
    checks(facts).into_iter().find(|check| check.name == name).unwrap().health
}

#[test]
fn a_good_host_has_nothing_against_it_and_each_fault_is_found() {
    for check in checks(&good()) {
        assert_eq!(check.health, Health::Good, "{check:?}");
    }
    let faults: [Fault; 15] = [
        ("same-page merging", |host| host.ksm = Some("1".into())),
        ("smt", |host| host.smt_active = Some("1".into())),
        ("vulnerabilities", |host| {
            host.vulnerabilities.push(("mds".into(), "Vulnerable: no microcode".into()));
        }),
        ("host kernel", |host| host.release = "6.18.5".into()),
        ("host kernel", |host| host.release = "6.10.1".into()),
        ("huge pages", |host| host.nx_huge_pages = Some("Y".into())),
        ("guest timers", |host| host.least_timer_us = Some(50)),
        ("core dumps", |host| host.core_pattern = "|/lib/systemd/systemd-coredump %P".into()),
        ("core dumps", |host| {
            (host.core_pattern, host.core_limit) = ("core".into(), u64::MAX);
        }),
        ("kernel settings", |host| host.settings[1].1 = 0),
        ("kernel settings", |host| {
            host.settings.push(("vm.unprivileged_userfaultfd".into(), 1));
        }),
        ("ownership", |host| host.places.push(place("/opt", 0, 0o777))),
        ("ownership", |host| host.places.push(place("/opt", 0, 0o775))),
        ("ownership", |host| host.places.push(place("/home/me", 1000, 0o755))),
        ("time sync", |host| host.is_time_synced = false),
    ];
    for (name, fault) in faults {
        let mut host = good();
        fault(&mut host);
        for check in checks(&host) {
            let wanted = when(check.name != name, Health::Warning);
            assert_eq!(check.health, wanted, "{name}: {check:?}");
            assert_eq!(check.remedy.is_some(), check.health != Health::Good);
        }
    }
}

#[test]
fn what_a_host_does_not_have_is_not_held_against_it() {
    let bare = Facts { release: "5.10.0".into(), is_time_synced: true, ..Facts::default() };
    for check in checks(&bare) {
        assert_eq!(check.health, Health::Good, "{check:?}");
    }
    // A directory anybody may add to, and nobody may change what is another's in.
    let shared = Facts { places: vec![place("/tmp", 0, 0o1777)], ..good() };
    assert_eq!(health("ownership", &shared), Health::Good);
    // The mitigation is needed here, or costs nothing.
    let affected = Facts { nx_huge_pages: Some("Y".into()), vulnerabilities: vec![], ..good() };
    assert_eq!(health("huge pages", &affected), Health::Good);
    let quick = Facts { nx_huge_pages: Some("Y".into()), favours_dynamic_groups: true, ..good() };
    assert_eq!(health("huge pages", &quick), Health::Good);
    let kept = Facts {
        core_pattern: "|/lib/systemd/systemd-coredump".into(),
        coredump_keeps_nothing: true,
        ..good()
    };
    assert_eq!(health("core dumps", &kept), Health::Good);
}

#[test]
fn a_waiver_is_shown_and_counts_for_what_it_names() {
    let host = Facts { ksm: Some("1".into()), smt_active: Some("1".into()), ..good() };
    let mut all = checks(&host);
    waive(&mut all, &[Waiver::Smt, Waiver::Vulnerabilities]);
    let named = |name: &str| all.iter().find(|check| check.name == name).unwrap();
    assert!(!named("smt").mandatory && named("smt").found.ends_with("(waived in host.json)"));
    assert!(named("same-page merging").mandatory);
    assert!(named("vulnerabilities").mandatory, "what is good needs no waiver");
    let words =
        r#"["same-page-merging", "swap", "smt", "vulnerabilities", "encryption", "core-dumps"]"#;
    assert_eq!(serde_json::from_str::<Vec<Waiver>>(words).unwrap().len(), 6);
    assert!(serde_json::from_str::<Waiver>(r#""limits""#).is_err());
}

#[test]
fn this_host_can_be_asked() {
    let facts = facts([Path::new("/proc/self/exe")]);
    assert!(!facts.release.is_empty() && !facts.places.is_empty());
}
