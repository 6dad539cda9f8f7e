//! The cycles: commands that lead back to where they began.

use crate::common::Outcome;
use crate::host::{Fake, Host, POOL};
use crate::left;
use crate::tries::{Boots, Step, Tries, cycle};

const NOT_THERE: &[&str] = &["there is no "];
const THERE: &[&str] = &["exists already"];

fn verb(host: &Host, verb: &str) -> Vec<String> {
    vec!["instance".into(), verb.into(), host.only(POOL)]
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn is(host: &Host, status: &str) -> bool {
    host.only_status(POOL) == status
}

/// The instance exists, runs, and its guest wrote something.
pub fn begin(fake: &Fake, prespawn: bool) {
    let most = if prespawn { "" } else { r#", "prespawn": {"most": 0}"# };
    fake.settings(&format!(r#"{{"vmm": "firecracker", "limits": "none"{most}}}"#));
    let is_new = !fake.pool_dir(POOL).exists();
    fake.set_up();
    fake.bring(POOL, "running");
    if is_new {
        left::write_word(fake, POOL);
    }
}

const SLEEP: Step = Step {
    name: "sleep",
    begin: |host| host.bring(POOL, "running"),
    command: |host| verb(host, "sleep"),
    tries: Tries::All,
    again: None,
    is_done: |host| is(host, "sleeping"),
    already: &[],
    boots: Boots::Never,
};

const WAKE: Step = Step {
    name: "wake",
    begin: |host| host.bring(POOL, "sleeping"),
    command: |host| verb(host, "wake"),
    tries: Tries::All,
    again: None,
    is_done: |host| is(host, "running"),
    already: &[],
    boots: Boots::UnlessItAnswers,
};

pub fn sleep_and_wake(fake: &Fake) -> Outcome {
    begin(fake, true);
    cycle(fake, &[SLEEP, WAKE]);
    // Somebody wants it after all.
    let called_off = Step {
        name: "sleep, then wake",
        tries: Tries::Kills,
        again: Some(|host| verb(host, "wake")),
        is_done: |host| is(host, "running"),
        ..SLEEP
    };
    cycle(fake, &[called_off]);
    Outcome::Passed
}

pub fn from_warm(fake: &Fake) -> Outcome {
    begin(fake, false);
    let from_warm = Step { begin: |host| host.bring(POOL, "warm"), tries: Tries::Kills, ..SLEEP };
    cycle(fake, &[from_warm, WAKE]);
    Outcome::Passed
}

pub fn pause_and_resume(fake: &Fake) -> Outcome {
    begin(fake, false);
    let warm = Step {
        name: "warm",
        command: |host| verb(host, "warm"),
        is_done: |host| is(host, "warm"),
        ..SLEEP
    };
    let resume = Step {
        name: "resume",
        begin: |host| host.bring(POOL, "warm"),
        boots: Boots::Never,
        ..WAKE
    };
    cycle(fake, &[warm, resume]);
    Outcome::Passed
}

const STOP: Step = Step {
    name: "stop",
    begin: |host| host.bring(POOL, "running"),
    command: |host| verb(host, "stop"),
    tries: Tries::All,
    again: None,
    is_done: |host| is(host, "stopped"),
    already: &[],
    boots: Boots::Never,
};

const START: Step = Step {
    name: "start",
    begin: |host| host.bring(POOL, "stopped"),
    command: |host| verb(host, "start"),
    tries: Tries::All,
    again: None,
    is_done: |host| is(host, "running"),
    already: &[],
    boots: Boots::Always,
};

pub fn start_and_stop(fake: &Fake) -> Outcome {
    begin(fake, false);
    // Its errors and panics are those of a first start.
    cycle(fake, &[STOP, Step { tries: Tries::Kills, ..START }]);
    // Nobody wants it any more.
    let given_up = Step {
        name: "start, then stop",
        tries: Tries::Kills,
        again: Some(|host| verb(host, "stop")),
        is_done: |host| is(host, "stopped"),
        ..START
    };
    cycle(fake, &[given_up]);
    let without_names = Step {
        name: "start without a resolver",
        begin: |host| {
            host.bring(POOL, "stopped");
            left::kill_resolver(host);
        },
        tries: Tries::Kills,
        ..START
    };
    cycle(fake, &[without_names]);
    Outcome::Passed
}

pub fn stop_asleep(fake: &Fake) -> Outcome {
    begin(fake, true);
    let asleep = Step { begin: |host| host.bring(POOL, "sleeping"), tries: Tries::Kills, ..STOP };
    cycle(fake, &[asleep]);
    Outcome::Passed
}

/// Secrets brought to a guest that runs, and a data drive that grows.
pub fn secrets_and_drives(fake: &Fake) -> Outcome {
    begin(fake, false);
    let file = fake.path("token");
    let set = Step {
        name: "secrets set",
        begin: |host| {
            host.bring(POOL, "running");
            // Another value each time: what is so already is not brought.
            let was = std::fs::read_to_string(host.path("token")).unwrap_or_default();
            std::fs::write(host.path("token"), format!("{was}x")).expect("a secret");
        },
        command: |host| {
            let file = host.path("token");
            words(&[
                "tenant",
                "secrets",
                "set",
                "aa",
                "TOKEN",
                "--from-file",
                &file.to_string_lossy(),
            ])
        },
        tries: Tries::All,
        again: None,
        is_done: |host| is(host, "running"),
        already: &[],
        boots: Boots::Never,
    };
    cycle(fake, &[set]);
    std::fs::remove_file(file).expect("the secret goes");
    let remove = Step {
        name: "secrets remove",
        begin: |host| {
            host.bring(POOL, "running");
            std::fs::write(host.path("token"), "x").expect("a secret");
            let file = host.path("token").to_string_lossy().into_owned();
            host.ok(&["tenant", "secrets", "set", "aa", "TOKEN", "--from-file", &file]);
        },
        command: |_| words(&["tenant", "secrets", "remove", "aa", "TOKEN", "--force"]),
        // What it says to do when an instance has not got them.
        tries: Tries::Kills,
        again: Some(|_| words(&["tenant", "secrets", "rotate", "aa"])),
        is_done: |host| is(host, "running"),
        already: &[],
        boots: Boots::Never,
    };
    cycle(fake, &[remove]);
    // What its secrets changed is not this step's.
    for status in ["stopped", "running"] {
        fake.bring(POOL, status);
    }
    let grow = Step {
        name: "start with a larger drive",
        begin: |host| {
            host.bring(POOL, "stopped");
            let now = host.records(POOL)[0]["resources"]["data_disk_mib"].as_u64().expect("a size");
            let next = (now + 1).to_string();
            host.ok(&["pool", "update", POOL, "--data-disk", &next]);
        },
        tries: Tries::Kills,
        ..START
    };
    cycle(fake, &[grow]);
    Outcome::Passed
}

const OTHER: &str = "aa/other";

fn has_pool(host: &Host) {
    if !host.pool_dir(OTHER).join("pool.json").exists() {
        let size = ["--cpus", "1", "--mem", "128", "--data-disk", "16"];
        host.ok(&[&["pool", "create", OTHER, "--profile", "minimal"], &size[..]].concat());
    }
}

fn has_image(host: &Host) {
    has_pool(host);
    if !host.pool_dir(OTHER).join("artifacts/current").exists() {
        host.ok(&["pool", "build", OTHER]);
    }
}

fn has_instance(host: &Host) {
    has_image(host);
    if host.records(OTHER).is_empty() {
        host.ok(&["pool", "scale", OTHER, "--running", "1"]);
    }
}

/// A new pool, its image, an instance, its first start, its end, the pool's end.
pub fn pools_and_instances(fake: &Fake) -> Outcome {
    begin(fake, false);
    let create = Step {
        name: "pool create",
        begin: |host| {
            if host.pool_dir(OTHER).exists() {
                host.ok(&["pool", "destroy", OTHER, "--force"]);
            }
        },
        command: |_| {
            let size = ["--cpus", "1", "--mem", "128", "--data-disk", "16"];
            words(&[&["pool", "create", OTHER, "--profile", "minimal"], &size[..]].concat())
        },
        tries: Tries::All,
        again: None,
        is_done: |host| host.pool_dir(OTHER).join("pool.json").exists(),
        already: THERE,
        boots: Boots::Never,
    };
    let build = Step {
        name: "pool build",
        begin: has_pool,
        command: |_| words(&["pool", "build", OTHER]),
        tries: Tries::All,
        again: None,
        is_done: |host| host.pool_dir(OTHER).join("artifacts/current").exists(),
        already: &[],
        boots: Boots::Never,
    };
    let scale = Step {
        name: "pool scale",
        begin: has_image,
        command: |_| words(&["pool", "scale", OTHER, "--running", "1"]),
        tries: Tries::All,
        again: None,
        is_done: |host| host.records(OTHER).len() == 1,
        already: &[],
        boots: Boots::Never,
    };
    let first = Step {
        name: "first start",
        begin: |host| {
            has_instance(host);
            if host.only_status(OTHER) != "created" {
                host.ok(&["instance", "destroy", &host.only(OTHER), "--force"]);
                has_instance(host);
            }
        },
        command: |host| vec!["instance".into(), "start".into(), host.only(OTHER)],
        tries: Tries::All,
        again: None,
        is_done: |host| host.only_status(OTHER) == "running",
        already: &[],
        boots: Boots::Always,
    };
    let destroy = Step {
        name: "instance destroy",
        begin: |host| {
            has_instance(host);
            host.bring(OTHER, "running");
        },
        command: |host| {
            // The second time there is nothing to look its name up in.
            let known = host.path("destroyed");
            if !host.records(OTHER).is_empty() {
                std::fs::write(&known, host.only(OTHER)).expect("a name");
            }
            let path = std::fs::read_to_string(known).expect("a name");
            words(&["instance", "destroy", &path, "--force"])
        },
        tries: Tries::All,
        again: None,
        is_done: |host| host.records(OTHER).is_empty(),
        already: NOT_THERE,
        boots: Boots::Never,
    };
    let end = Step {
        name: "pool destroy",
        begin: has_instance,
        command: |_| words(&["pool", "destroy", OTHER, "--force"]),
        tries: Tries::All,
        again: None,
        is_done: |host| !host.pool_dir(OTHER).exists(),
        already: NOT_THERE,
        boots: Boots::Never,
    };
    cycle(fake, &[create, build, scale, first, destroy, end]);
    Outcome::Passed
}

fn tenant_is_there(host: &Host) -> bool {
    host.path("state/tenants/bb/tenant.json").exists()
}

pub fn tenants(fake: &Fake) -> Outcome {
    begin(fake, false);
    let create = Step {
        name: "tenant create",
        begin: |host| {
            if tenant_is_there(host) {
                host.ok(&["tenant", "destroy", "bb", "--force"]);
            }
        },
        command: |_| words(&["tenant", "create", "bb"]),
        tries: Tries::All,
        again: None,
        is_done: tenant_is_there,
        already: THERE,
        boots: Boots::Never,
    };
    let destroy = Step {
        name: "tenant destroy",
        begin: |host| {
            if !tenant_is_there(host) {
                host.ok(&["tenant", "create", "bb"]);
            }
            if !host.pool_dir("bb/ww").exists() {
                host.make_pool("bb/ww", "0");
                host.ok(&["pool", "scale", "bb/ww", "--running", "1"]);
            }
        },
        command: |_| words(&["tenant", "destroy", "bb", "--force"]),
        tries: Tries::All,
        again: None,
        is_done: |host| !host.path("state/tenants/bb").exists(),
        already: NOT_THERE,
        boots: Boots::Never,
    };
    cycle(fake, &[create, destroy]);
    Outcome::Passed
}
