//! Running programs.

use std::time::Duration;

use mvm_guest_proto::message::{Exec, ExecExit, TtySize};

use super::{Agent, LIMIT, is_alive, noise, shell, skipped_without_root, within};
use crate::guest::{Captured, GuestClient, GuestError, Process, ProcessEvent};

const MOST: usize = 16 << 20;

async fn run(client: &GuestClient, script: &str, stdin: &[u8]) -> Captured {
    client.run(shell(script), stdin, MOST, LIMIT).await.unwrap()
}

#[tokio::test]
async fn output_and_exit_code_come_back() {
    let client = Agent::start().await;
    let (agent, client) = (&client, client.client().await);
    let captured = run(&client, "echo out; echo err >&2; exit 7", b"").await;
    let expected =
        Captured { stdout: b"out\n".to_vec(), stderr: b"err\n".to_vec(), exit: ExecExit::Code(7) };
    assert_eq!(captured, expected);
    assert_eq!(run(&client, "kill -9 $$", b"").await.exit, ExecExit::Signal(9));
    assert_eq!(run(&client, "kill -9 $$", b"").await.exit.shell_code(), 137);
    assert!(agent.resident() < 3 * 1024 * 2, "{} KiB", agent.resident());
}

#[tokio::test]
async fn input_goes_in_and_ends() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let bytes = noise(3 << 20);
    assert_eq!(run(&client, "cat", &bytes).await.stdout, bytes);
    // A program that does not read its input ends all the same.
    assert_eq!(run(&client, "exit 3", &bytes).await.exit, ExecExit::Code(3));
}

#[tokio::test]
async fn what_does_not_exist_is_said() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let missing = |exec| async { client.exec(exec, LIMIT).await.map(drop).unwrap_err() };
    let program = Exec { argv: vec!["/no/such/program".into()], ..Exec::default() };
    assert!(matches!(missing(program).await, GuestError::NotFound { .. }));
    let user = Exec { user: Some("nobody-here".into()), ..shell("true") };
    assert!(matches!(missing(user).await, GuestError::NotFound { .. }));
    let cwd = Exec { cwd: Some("/no/such/dir".into()), ..shell("true") };
    let error = missing(cwd).await;
    assert!(error.to_string().contains("/no/such/dir"), "{error}");
    let nothing = missing(Exec::default()).await;
    assert!(matches!(nothing, GuestError::Failed { .. }), "{nothing}");
}

#[tokio::test]
async fn environment_and_directory_are_the_guests_own() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let mut exec = shell("echo $GREETING; pwd; echo $HOME; env | wc -l");
    exec.env.insert("GREETING".into(), "hello = 'there'".into());
    exec.cwd = Some("/usr".into());
    let captured = client.run(exec, b"", MOST, LIMIT).await.unwrap();
    let text = String::from_utf8(captured.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["hello = 'there'", "/usr"]);
    // The agent's own environment does not leak in.
    assert!(lines[3].parse::<u32>().unwrap() < 12, "{text}");
}

#[tokio::test]
async fn a_program_runs_as_the_user_it_was_asked_for() {
    if skipped_without_root("a_program_runs_as_the_user_it_was_asked_for") {
        return;
    }
    let agent = Agent::start().await;
    let client = agent.client().await;
    let exec = Exec { user: Some("65534:65534".into()), ..shell("id -u; id -g; id -G") };
    let captured = client.run(exec, b"", MOST, LIMIT).await.unwrap();
    assert_eq!(captured.stdout, b"65534\n65534\n65534\n");
}

async fn read_until(process: &Process, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        match tokio::time::timeout(LIMIT, process.next()).await.unwrap().unwrap() {
            ProcessEvent::Stdout(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    seen
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let script = "stty -echo; test -t 0 && stty size; \
                  while read line; do echo got $line; stty size; done; echo end";
    let exec = Exec { tty: Some(TtySize { rows: 24, cols: 80 }), ..shell(script) };
    let process = client.exec(exec, LIMIT).await.unwrap();
    let input = process.input();
    read_until(&process, "24 80").await;
    input.write(b"one\n").await;
    read_until(&process, "24 80").await;
    input.resize(TtySize { rows: 50, cols: 132 }).await;
    input.write(b"two\n").await;
    let seen = read_until(&process, "50 132").await;
    assert!(seen.contains("got two"), "{seen:?}");
    input.close();
    read_until(&process, "end").await;
    assert_eq!(process.next().await.unwrap(), ProcessEvent::Exit(ExecExit::Code(0)));
}

#[tokio::test]
async fn control_c_ends_what_runs_on_a_terminal() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    // Not a shell: one that is about to start the program would take the ^C for itself.
    let argv = ["sleep", "600"].map(str::to_owned).to_vec();
    let tty = Some(TtySize { rows: 24, cols: 80 });
    let process = client.exec(Exec { argv, tty, ..Exec::default() }, LIMIT).await.unwrap();
    process.input().write(&[3]).await;
    assert_eq!(exit_of(&process).await, ExecExit::Signal(2));
}

async fn exit_of(process: &Process) -> ExecExit {
    let end = async {
        loop {
            if let ProcessEvent::Exit(exit) = process.next().await.unwrap() {
                return exit;
            }
        }
    };
    tokio::time::timeout(LIMIT, end).await.unwrap()
}

#[tokio::test]
async fn signals_reach_the_program() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let script = "trap 'exit 9' TERM; echo on; while :; do sleep 0.02; done";
    let process = client.exec(shell(script), LIMIT).await.unwrap();
    read_until(&process, "on").await;
    process.input().signal(15).await;
    assert_eq!(exit_of(&process).await, ExecExit::Code(9));
}

#[tokio::test]
async fn a_program_nobody_waits_for_is_ended_with_its_children() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let process = client.exec(shell("sleep 600 & echo $!; wait"), LIMIT).await.unwrap();
    let child: u32 = read_until(&process, "\n").await.trim().parse().unwrap();
    let pid = process.pid();
    assert!(is_alive(pid) && is_alive(child));
    drop(process);
    within(|| !is_alive(pid) && !is_alive(child)).await;
}

#[tokio::test]
async fn a_program_that_ignores_term_is_killed() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let process =
        client.exec(shell("trap '' TERM HUP; echo on; while :; do sleep 0.1; done"), LIMIT);
    let process = process.await.unwrap();
    read_until(&process, "on").await;
    let pid = process.pid();
    drop(client);
    drop(process);
    within(|| !is_alive(pid)).await;
}

#[tokio::test]
async fn a_program_may_take_only_so_long() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let exec = Exec { timeout_ms: Some(200), ..shell("sleep 600") };
    let error = client.run(exec, b"", MOST, LIMIT).await.unwrap_err();
    let is_timeout = matches!(
        &error,
        GuestError::Failed { kind: mvm_guest_proto::message::ErrorKind::Timeout, .. }
    );
    assert!(is_timeout, "{error:?}");
    // And the caller's own limit.
    let limit = Duration::from_millis(300);
    let error = client.run(shell("sleep 600"), b"", MOST, limit).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_daemon_left_behind_does_not_hold_the_answer() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let captured = run(&client, "sleep 600 & echo $!", b"").await;
    assert_eq!(captured.exit, ExecExit::Code(0));
    let pid: u32 = String::from_utf8(captured.stdout).unwrap().trim().parse().unwrap();
    assert!(is_alive(pid));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
}

#[tokio::test]
async fn output_nobody_reads_stays_in_the_program() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let flood = client.exec(shell("yes"), LIMIT).await.unwrap();
    // While one program's output is stuck, others are answered.
    for _ in 0..20 {
        assert_eq!(run(&client, "echo fine", b"").await.stdout, b"fine\n");
    }
    assert!(agent.resident() < 8 * 1024, "{} KiB", agent.resident());
    drop(flood);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_programs_run_at_once() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let all = (0..40).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { run(&client, &format!("echo {n}; exit {n}"), b"").await })
    });
    for (n, captured) in all.collect::<Vec<_>>().into_iter().enumerate() {
        let captured = captured.await.unwrap();
        assert_eq!(captured.stdout, format!("{n}\n").as_bytes());
        assert_eq!(captured.exit, ExecExit::Code(n as i32));
    }
}
