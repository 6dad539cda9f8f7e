use std::process::{Child, Command};

use super::*;

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

#[test]
fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
    let fields = "1 1 0 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 0";
    let stat = parse_stat(&format!("77 (a) b (c)) S {fields}")).unwrap();
    assert_eq!((stat.state, stat.start_ticks), ('S', 4242));
    assert!(parse_stat("77 (short) S 1").is_none());
}

#[test]
fn a_killed_process_is_gone_and_a_second_kill_is_fine() {
    let mut child = sleeper();
    let id = identify(child.id()).unwrap();
    assert!(is_alive(&id));
    let handle = Handle::open(&id).unwrap().unwrap();
    assert_eq!(handle.wait(Duration::from_millis(20)).unwrap(), Waited::StillRunning);
    handle.signal(Signal::SIGKILL).unwrap();
    assert_eq!(handle.wait(Duration::from_secs(5)).unwrap(), Waited::Gone);
    assert!(!is_alive(&id), "a zombie counts as gone");
    child.wait().unwrap();
    handle.signal(Signal::SIGKILL).unwrap();
    assert!(Handle::open(&id).unwrap().is_none());
}

#[test]
fn a_reused_pid_is_never_signalled() {
    let mut child = sleeper();
    let real = identify(child.id()).unwrap();
    let older = ProcessId { start_ticks: real.start_ticks - 1, ..real.clone() };
    let before_reboot = ProcessId { boot_id: "another".into(), ..real.clone() };
    for stranger in [older, before_reboot] {
        assert!(!is_alive(&stranger));
        assert!(Handle::open(&stranger).unwrap().is_none());
    }
    assert!(is_alive(&real));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn kill_waits_until_the_process_is_gone() {
    let mut child = sleeper();
    let id = identify(child.id()).unwrap();
    kill(&id, Duration::from_secs(5)).await.unwrap();
    assert!(!is_alive(&id));
    child.wait().unwrap();
    kill(&id, Duration::from_secs(5)).await.unwrap();
}

#[test]
fn a_sleeping_process_waits_for_no_cpu_and_a_missing_one_neither() {
    let mut child = sleeper();
    let id = identify(child.id()).unwrap();
    assert!(waited_for_cpu(&id) < Duration::from_secs(5));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(waited_for_cpu(&id), Duration::ZERO);
}

#[tokio::test]
async fn how_a_process_ended_is_known_before_it_is_collected_and_on_new_kernels_after() {
    let mut child = Command::new("sh")
        .args(["-c", "read x; exit 3"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let id = identify(child.id()).unwrap();
    let handle = Handle::open(&id).unwrap().unwrap();
    drop(child.stdin.take());
    assert_eq!(handle.wait(Duration::from_secs(5)).unwrap(), Waited::Gone);
    assert_eq!(handle.exit_status(&id).await, Some(3 << 8));
    child.wait().unwrap();
    let kept = handle.exit_status(&id).await;
    assert!(kept.is_none() || kept == Some(3 << 8), "{kept:?}");
}
