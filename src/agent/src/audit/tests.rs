use super::*;

fn log() -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::of(dir.path(), &"acme".parse().unwrap());
    (dir, log)
}

async fn add(log: &Log, event: &str) {
    log.append("acme", event, Outcome::Done, "", "test").await.unwrap();
}

#[tokio::test]
async fn events_are_numbered_and_chained() {
    let (_dir, log) = log();
    for event in ["tenant.create", "pool.create", "instance.start"] {
        add(&log, event).await;
    }
    assert_eq!(log.events().iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(log.verify(), Ok(3));
}

#[tokio::test]
async fn a_changed_removed_or_moved_line_is_found() {
    let (_dir, log) = log();
    for event in ["a", "b", "c", "d"] {
        add(&log, event).await;
    }
    let whole = fs::read_to_string(log.file()).unwrap();
    let lines: Vec<_> = whole.lines().collect();
    for damaged in [
        whole.replace("\"b\"", "\"x\""),
        [lines[0], lines[2], lines[3]].join("\n"),
        [lines[0], lines[2], lines[1], lines[3]].join("\n"),
        whole.replacen('{', "", 1),
    ] {
        fs::write(log.file(), damaged).unwrap();
        assert!(log.verify().is_err());
    }
}

#[tokio::test]
async fn a_torn_line_is_cut_off_and_said() {
    let (_dir, log) = log();
    add(&log, "a").await;
    let mut file = OpenOptions::new().append(true).open(log.file()).unwrap();
    file.write_all(b"{\"seq\":2,\"at\":").unwrap();
    add(&log, "b").await;
    let names: Vec<_> = log.events().into_iter().map(|event| event.event).collect();
    assert_eq!(names, ["a", "audit.recovered", "b"]);
    assert_eq!(log.verify(), Ok(3));
}

#[tokio::test]
async fn a_full_file_is_turned_over_and_the_chain_goes_on() {
    let (_dir, log) = log();
    add(&log, "a").await;
    let filler = fs::read_to_string(log.file()).unwrap();
    // Grown past the bound by a hole's worth of the same line: only its end matters here.
    let times = usize::try_from(FULL).unwrap() / filler.len() + 1;
    fs::write(log.file(), filler.repeat(times)).unwrap();
    add(&log, "b").await;
    assert!(log.older().exists());
    assert!(fs::metadata(log.file()).unwrap().len() < 4096);
    let last = log.events().pop().unwrap();
    assert_eq!((last.event.as_str(), last.seq), ("b", 2));
}
