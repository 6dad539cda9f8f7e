use std::cell::RefCell;

use super::*;

static GO_ON: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(true);

fn shell<'a>(script: &str, cancel: &'a AtomicBool) -> Job<'a> {
    let mut command = command("sh");
    command.args(["-c", script]);
    let deadline = Duration::from_secs(20);
    Job {
        what: "testing",
        command,
        deadline,
        cancel,
        interrupt: Interrupt::Kill,
        log: None,
        on_line: None,
    }
}

#[test]
fn output_exit_code_and_lines_come_back() {
    let lines = RefCell::new(Vec::new());
    let keep = |line: &str| lines.borrow_mut().push(line.to_owned());
    let mut job = shell("echo one; echo bad >&2; printf two; exit 3", &GO_ON);
    job.on_line = Some(&keep);
    let output = run(job).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!((output.stdout.as_str(), output.tail().as_str()), ("one\ntwo", "bad"));
    // Of either output; which comes first is chance.
    lines.borrow_mut().sort();
    assert_eq!(*lines.borrow(), ["bad", "one", "two"]);
}

#[test]
fn a_child_and_what_it_started_end_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", pid.display());
    let mut job = shell(&script, &GO_ON);
    job.deadline = Duration::from_millis(400);
    let error = run(job).unwrap_err();
    assert!(matches!(error, RunError::Deadline { .. }), "{error}");
    let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let until = Instant::now() + Duration::from_secs(5);
    // Whoever reaps orphans here may take its time: a zombie counts as ended.
    while !(state().is_empty() || state().contains(") Z ")) {
        assert!(Instant::now() < until, "the grandchild lives: {}", state());
        std::thread::yield_now();
    }
}

#[test]
fn a_cancelled_job_is_not_even_started() {
    let error = run(shell("exit 0", &STOP)).unwrap_err();
    assert!(matches!(error, RunError::Cancelled { .. }), "{error}");
}

#[test]
fn a_running_job_is_cancelled() {
    let flag = AtomicBool::new(false);
    let set = |_: &str| flag.store(true, Ordering::Relaxed);
    let mut job = shell("echo started; exec sleep 600", &flag);
    job.on_line = Some(&set);
    assert!(matches!(run(job).unwrap_err(), RunError::Cancelled { .. }));
}

#[test]
fn a_missing_program_is_named() {
    let mut job = shell("", &GO_ON);
    job.command = command("/nonexistent/tool");
    let error = run(job).unwrap_err();
    assert_eq!(error.to_string(), "testing: /nonexistent/tool is not installed");
}

#[test]
fn a_child_that_closes_its_output_is_still_waited_for() {
    let output = run(shell("exec >&- 2>&-; sleep 0.2; exit 7", &GO_ON)).unwrap();
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_daemon_that_keeps_the_pipe_open_does_not_hold_us() {
    let started = Instant::now();
    let output = run(shell("sleep 3 & echo $!", &GO_ON)).unwrap();
    assert!(output.status.success() && started.elapsed() < Duration::from_secs(2));
}

#[test]
fn everything_said_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut job = shell("echo out; echo err >&2", &GO_ON);
    job.log = Some(&log);
    run(job).unwrap();
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.contains("out") && text.contains("err"), "{text:?}");
}
