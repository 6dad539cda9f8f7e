//! Who has which secrets, and from when on.

use crate::common::{Outcome, World};
use crate::{SCOPED, STRANGERS, WORKERS, seen, set, when};

pub fn secrets_are_in_their_guests_and_in_no_other(world: &World) -> Outcome {
    let names = |pool: &str| world.guest(&world.members(pool)[0], "ls -A /run/secrets");
    assert_eq!(names(WORKERS), "DB_PASSWORD\nSLACK_TOKEN");
    assert_eq!(names(SCOPED), "SLACK_TOKEN");
    assert_eq!(names(STRANGERS), "");
    let worker = &world.members(WORKERS)[0];
    assert_eq!(seen(world, worker, "SLACK_TOKEN"), "first");
    assert_eq!(
        world.guest(worker, "stat -c '%a %u:%g' /run/secrets/SLACK_TOKEN /run/secrets"),
        "400 0:0\n755 0:0"
    );
    let nobody = ["instance", "exec", worker, "--user", "65534:65534", "--", "cat"];
    let output = world.run(&[&nobody[..], &["/run/secrets/SLACK_TOKEN"]].concat());
    assert!(!output.status.success() && output.stdout.is_empty(), "another user read it");
    assert!(!world.guest_can(worker, "touch /run/secrets/mine"), "secrets are writable");
    Outcome::Passed
}

pub fn a_change_reaches_every_instance(world: &World) -> Outcome {
    let (workers, scoped) = (world.members(WORKERS), world.members(SCOPED));
    let boot = world.guest(&workers[0], "cat /proc/sys/kernel/random/boot_id");
    world.ok(&["instance", "sleep", &workers[1]]);
    world.ok(&["instance", "warm", &scoped[0]]);
    let changed = set(world, "aa", "SLACK_TOKEN=changed\n");
    assert_eq!(when(&changed, &workers[0]), "now");
    assert_eq!(when(&changed, &workers[1]), "at_wake");
    assert_eq!(when(&changed, &scoped[0]), "at_resume");
    assert_eq!(seen(world, &workers[0], "SLACK_TOKEN"), "changed");
    assert_eq!(seen(world, &workers[0], "DB_PASSWORD"), "second");
    assert_eq!(world.guest(&workers[0], "cat /proc/sys/kernel/random/boot_id"), boot);
    for instance in [&workers[1], &scoped[0]] {
        world.ok(&["instance", "wake", instance]);
        assert!(world.instance(instance)["reason"].is_null(), "{}", world.instance(instance));
        assert_eq!(seen(world, instance, "SLACK_TOKEN"), "changed");
    }
    assert!(!world.guest_can(&workers[1], "grep -q first /dev/vdc"), "the old image is there");
    let events = world.ok(&["events", "aa", "--last", "50"]);
    assert!(!events.contains("slow"), "the wake had to make its secrets: {events}");
    Outcome::Passed
}

pub fn who_holds_old_secrets_keeps_them_and_is_named(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    let hold = "exec 3< /run/secrets/SLACK_TOKEN; touch /tmp/holds; \
                while [ ! -e /tmp/go ]; do sleep 1; done; cat <&3 > /tmp/held; touch /tmp/done";
    world.guest(worker, &format!("sh -c '{hold}' holder >/dev/null 2>&1 </dev/null &"));
    assert!(world.guest_can(worker, "until [ -e /tmp/holds ]; do usleep 20000; done"));
    let changed = set(world, "aa", "SLACK_TOKEN=newer\n");
    assert_eq!(when(&changed, worker), "not_yet");
    assert!(changed.to_string().contains("in use by"), "{changed}");
    assert_eq!(seen(world, worker, "SLACK_TOKEN"), "changed", "old and new were mixed");
    world.guest(worker, "touch /tmp/go; until [ -e /tmp/done ]; do usleep 20000; done");
    assert_eq!(world.guest(worker, "cat /tmp/held; rm /tmp/holds /tmp/go /tmp/done"), "changed");
    let again = world.json(&["tenant", "secrets", "rotate", "aa"]);
    assert_eq!(when(&again, worker), "now");
    assert_eq!(seen(world, worker, "SLACK_TOKEN"), "newer");
    Outcome::Passed
}

pub fn a_removed_secret_leaves_its_guests(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    set(world, "aa", "GONE=x\n");
    assert_eq!(seen(world, worker, "GONE"), "x");
    let remove = ["tenant", "secrets", "remove", "aa", "GONE"];
    assert!(world.refused(&remove, 4).contains("--force"));
    world.ok(&[&remove[..], &["--force"]].concat());
    assert!(!world.guest_can(worker, "test -e /run/secrets/GONE"));
    assert!(world.refused(&[&remove[..], &["--force"]].concat(), 3).contains("no secret GONE"));
    let list = world.json(&["tenant", "secrets", "list", "aa"]);
    let names: Vec<_> = list["secrets"].as_array().expect("secrets").iter().collect();
    assert_eq!(names.len(), 2, "{list}");
    assert_eq!((&names[1]["name"], &names[1]["size"]), (&"SLACK_TOKEN".into(), &5.into()));
    Outcome::Passed
}

/// A pool that shows others of them brings them to its guests at once, by a command or a file.
pub fn another_scope_is_delivered_at_once(world: &World) -> Outcome {
    let one = &world.members(SCOPED)[0];
    let names = || world.guest(one, "ls -A /run/secrets");
    let rescope = |names| world.ok(&["pool", "update", SCOPED, "--secret-scopes", names]);
    assert_eq!(names(), "SLACK_TOKEN");
    rescope("db");
    assert_eq!(names(), "DB_PASSWORD");
    let file = world.path("desired.json");
    let path = file.to_str().expect("a path");
    let text = world.ok(&["agent", "desired"]);
    let hash = world.json(&["tenant", "secrets", "list", "aa"])["secrets_hash"].to_string();
    assert!(text.contains(&format!("\"secrets_hash\": {hash}")), "{text}");
    std::fs::write(&file, text.replace("\"db\"", "\"slack\"")).expect("written");
    let said = world.ok(&["agent", "reconcile", "--desired", path]);
    assert!(!said.contains("secrets_hash"), "{said}");
    assert_eq!(names(), "SLACK_TOKEN");
    // A document that expects other secrets is told so, and changes none.
    set(world, "aa", "SLACK_TOKEN=later\n");
    let said = world.ok(&["agent", "reconcile", "--desired", path]);
    assert!(said.contains("aa: its secrets are not those the desired state names"), "{said}");
    assert_eq!(seen(world, one, "SLACK_TOKEN"), "later");
    set(world, "aa", "SLACK_TOKEN=changed\n");
    Outcome::Passed
}

pub fn a_value_is_never_an_argument(world: &World) -> Outcome {
    for args in [&["TOKEN=hunter2"][..], &["TOKEN", "hunter2"]] {
        let error = world.refused(&[&["tenant", "secrets", "set", "aa"], args].concat(), 2);
        assert!(error.contains("command line") && !error.contains("hunter2"), "{error}");
    }
    let error = world.refused(&["tenant", "secrets", "set", "nobody", "TOKEN"], 3);
    assert!(error.contains("no tenant nobody"), "{error}");
    let empty = world.run_with_input(&["tenant", "secrets", "set", "aa", "TOKEN"], b"\n");
    assert_eq!(empty.status.code(), Some(2));
    let large = vec![b'x'; (256 << 10) + 3];
    let large = world.run_with_input(&["tenant", "secrets", "set", "aa", "TOKEN"], &large);
    assert_eq!(large.status.code(), Some(2));
    let file = world.path("token");
    std::fs::write(&file, "from a file\n").expect("a file");
    let path = file.to_str().expect("a path");
    world.ok(&["tenant", "secrets", "set", "aa", "FILE", "--from-file", path]);
    std::fs::remove_file(&file).expect("the file goes");
    let worker = &world.members(WORKERS)[0];
    assert_eq!(world.guest(worker, "wc -c < /run/secrets/FILE"), "12");
    world.ok(&["tenant", "secrets", "remove", "aa", "FILE", "--force"]);
    Outcome::Passed
}
