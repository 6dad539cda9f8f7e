//! What a transition changes on the host it changes through functions that have failpoints: a
//! function of its layers that changes something by itself names its `Effect`, or stands in a list
//! here with the reason. So a new step without a failpoint fails this test, and one with a new
//! `Effect` fails `every_failpoint_is_passed` until something comes to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where transitions are carried out. The driver's own files are among them and in no list: all
/// that they do they do through the others.
const LAYERS: [&str; 14] = [
    "agent/src/driver",
    "agent/src/machine.rs",
    "agent/src/link.rs",
    "agent/src/records.rs",
    "agent/src/records",
    "agent/src/audit.rs",
    "agent/src/pool.rs",
    "agent/src/pool",
    "agent/src/tenant.rs",
    "host/src/file.rs",
    "host/src/snapshot.rs",
    "host/src/drive.rs",
    "host/src/drive",
    "host/src/secrets.rs",
];

/// The same, below: netlink, rules, taps, jails.
const BELOW: [&str; 11] = [
    "host/src/net/link.rs",
    "host/src/net/nft.rs",
    "host/src/net/tap.rs",
    "host/src/net/sysctl.rs",
    "host/src/net/tenant.rs",
    "host/src/net/port.rs",
    "host/src/net/forwarding.rs",
    "host/src/net/dns/mod.rs",
    "host/src/image/store/link.rs",
    "vmm/src/firecracker/jail.rs",
    "vmm/src/supervisor/jailed.rs",
];

/// Calls that change something.
const CHANGES: [&str; 25] = [
    "fs::rename(",
    "fs::remove_file(",
    "fs::remove_dir(",
    "fs::remove_dir_all(",
    "fs::write(",
    "File::create(",
    "hard_link(",
    " symlink(",
    ".set_len(",
    " mount(",
    " umount2(",
    ".spawn()",
    ".write_all_at(",
    "fallocate(",
    "mkfifo(",
    ".link().add(",
    ".link().set(",
    ".link().set_port(",
    ".link().del(",
    ".address().add(",
    ".address().del(",
    "apply_ruleset_raw",
    "tun_set_persist(",
    ".signal(",
    "self.connect().await?",
];

/// Functions that change something without a failpoint of their own.
const WITHOUT: [(&str, &str, &str); 15] = [
    ("agent/src/machine.rs", "claim", "empties a log"),
    ("agent/src/audit.rs", "end", "cuts off a torn line, before the next is written"),
    ("agent/src/records.rs", "keep_spare", "a copy; a record is right without it"),
    ("host/src/drive.rs", "make", "a file beside, before it is formatted and named"),
    ("host/src/drive/small.rs", "put", "a part of overwrite_small"),
    ("host/src/drive/small.rs", "write_files", "takes back what failed"),
    ("host/src/net/dns/mod.rs", "forget", "the socket of a resolver that is gone"),
    ("host/src/net/dns/mod.rs", "spawn", "a part of start"),
    ("host/src/image/store/link.rs", "link", "a part of link_revision"),
    ("vmm/src/firecracker/jail.rs", "log", "in a jail nobody lives in yet, removed whole"),
    ("vmm/src/firecracker/jail.rs", "show", "a part of prepare"),
    ("vmm/src/firecracker/jail.rs", "end_inhabitants", "a part of a jail's removal"),
    ("vmm/src/firecracker/jail.rs", "for_writing", "a part of saving memory, into a draft"),
    ("vmm/src/firecracker/jail.rs", "link", "a part of saving and loading memory"),
    ("vmm/src/supervisor/jailed.rs", "clean", "an empty control group; removed by who comes next"),
];

/// Where a name stands for an effect: functions that have it and are given the call.
const THROUGH: [(&str, &str); 1] = [("host/src/net/link.rs", "apply(\"")];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let all = entries.flatten().flat_map(|entry| files(&entry.path()));
    all.filter(|file| !file.ends_with("tests.rs") && file.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// A file's functions: name and text.
fn functions(text: &str) -> Vec<(String, String)> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let words = line.trim_start().strip_prefix("pub").unwrap_or(line.trim_start());
        let words =
            words.strip_prefix("(crate)").or(words.strip_prefix("(super)")).unwrap_or(words);
        let words = words.trim_start();
        let words = words.strip_prefix("async ").unwrap_or(words);
        match words.strip_prefix("fn ") {
            Some(rest) => {
                let name = rest.split(['(', '<']).next().unwrap_or_default();
                all.push((name.to_owned(), String::new()));
            }
            None => {
                if let Some((_, text)) = all.last_mut() {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
    }
    all
}

#[test]
fn what_changes_the_host_has_failpoints() {
    let root = sources();
    let mut found = BTreeSet::new();
    let mut missing = Vec::new();
    for layer in LAYERS.iter().chain(&BELOW) {
        for file in files(&root.join(layer)) {
            let name = file.strip_prefix(&root).expect("below").to_string_lossy().into_owned();
            let text = fs::read_to_string(&file).expect("a source file");
            for (function, body) in functions(&text) {
                if !CHANGES.iter().any(|change| body.contains(change)) {
                    continue;
                }
                let through = THROUGH.iter().any(|(f, call)| *f == name && body.contains(call));
                let listed = WITHOUT.iter().any(|(f, it, _)| *f == name && *it == function);
                if listed {
                    found.insert((name.clone(), function.clone()));
                }
                if !(body.contains("Effect::") || through || listed) {
                    missing.push(format!("{name}: {function}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "these change the host and have no failpoint: {missing:#?}");
    let stale = WITHOUT.iter().filter(|(file, function, _)| {
        !found.contains(&((*file).to_owned(), (*function).to_owned()))
    });
    let stale: Vec<_> = stale.collect();
    assert!(stale.is_empty(), "these need no exception any more: {stale:#?}");
}
