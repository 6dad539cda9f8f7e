//! One port, many clients.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mvm_guest_proto::block::{Block, BlockKind};
use mvm_guest_proto::message::{ExecExit, ReadFile, WriteFile};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::{Agent, LIMIT, is_alive, noise, shell, within};
use crate::guest::relay::{Patience, serve_with};
use crate::guest::{GuestClient, GuestError, ProcessEvent, Transport, connect_unix, fresh_id};

/// Impatient, so that tests of silence are quick.
const PATIENCE: Patience =
    Patience { absent: Duration::from_millis(300), silent: Duration::from_millis(700) };

/// A relay; ended with the value.
struct Relay {
    dir: TempDir,
    task: JoinHandle<String>,
}

impl Relay {
    async fn start<T>(guest: T) -> Self
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("guest.sock")).unwrap();
        Self { dir, task: tokio::spawn(serve_with(guest, listener, PATIENCE)) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("guest.sock")
    }

    async fn client(&self) -> GuestClient {
        let socket = connect_unix(&self.socket(), LIMIT).await.unwrap();
        GuestClient::connect(socket, Transport::Fresh, LIMIT).await.unwrap()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn with_agent() -> (Agent, Relay) {
    let agent = Agent::start().await;
    let guest = UnixStream::connect(agent.socket()).await.unwrap();
    let relay = Relay::start(guest).await;
    (agent, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_one_port() {
    let (_agent, relay) = with_agent().await;
    let mut tasks = Vec::new();
    for n in 0..8_u8 {
        let client = relay.client().await;
        tasks.push(tokio::spawn(async move {
            let path = format!("/file {n}");
            let bytes = noise(1_000_000 + usize::from(n));
            let write = WriteFile { path: path.clone(), mode: None, size: None, user: None };
            client.write_file(&fresh_id(), write, &mut &bytes[..], LIMIT).await.unwrap();
            let captured =
                client.run(shell(&format!("cat; exit {n}")), &bytes, 1 << 22, LIMIT).await;
            let captured = captured.unwrap();
            assert!(captured.stdout == bytes && captured.exit == ExecExit::Code(n.into()));
            let mut back = Vec::new();
            let read = ReadFile { path, offset: 0, length: None };
            client.read_file(read, &mut back, LIMIT).await.unwrap();
            assert!(back == bytes);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_vanishes_takes_its_requests_with_it() {
    let (_agent, relay) = with_agent().await;
    let (staying, leaving) = (relay.client().await, relay.client().await);
    let left = leaving.exec(shell("sleep 600"), LIMIT).await.unwrap();
    let kept = staying.exec(shell("sleep 600"), LIMIT).await.unwrap();
    let pid = left.pid();
    drop((left, leaving));
    within(|| !is_alive(pid)).await;
    assert!(is_alive(kept.pid()));
}

#[tokio::test]
async fn a_slow_client_slows_itself_only() {
    let (_agent, relay) = with_agent().await;
    let (slow, quick) = (relay.client().await, relay.client().await);
    let flood = slow.exec(shell("yes"), LIMIT).await.unwrap();
    let stuck = slow.exec(shell("sleep 600"), LIMIT).await.unwrap();
    let input = stuck.input();
    // A program that does not read: its input is stuck on every hop.
    let feeding = tokio::spawn(async move { input.write(&noise(5_000_000)).await });
    for _ in 0..20 {
        let captured = quick.run(shell("echo quick"), b"", 1000, LIMIT).await.unwrap();
        assert_eq!(captured.stdout, b"quick\n");
    }
    assert!(!feeding.is_finished());
    let ProcessEvent::Stdout(bytes) = flood.next().await.unwrap() else { panic!("no output") };
    assert!(bytes.starts_with(b"y\n"));
    let pid = stuck.pid();
    feeding.abort();
    drop((stuck, feeding));
    within(|| !is_alive(pid)).await;
}

#[tokio::test]
async fn a_guest_that_was_never_there_is_unavailable() {
    let (ours, _theirs) = tokio::io::duplex(1000);
    let relay = Relay::start(ours).await;
    let client = relay.client().await;
    let began = Instant::now();
    let error = client.hello(LIMIT).await.unwrap_err();
    assert!(matches!(error, GuestError::Unavailable { .. }), "{error:?}");
    assert!(error.is_transient() && began.elapsed() < LIMIT / 2);
}

/// Passes bytes between a relay's lasting port and an agent until the cut.
async fn plug(port: &mut DuplexStream, agent: &Agent, cut: impl Future) {
    let mut socket = UnixStream::connect(agent.socket()).await.unwrap();
    tokio::select! {
        _ = copy_bidirectional(port, &mut socket) => {}
        _ = cut => {}
    }
}

#[tokio::test]
async fn a_guest_that_falls_silent_is_found_again() {
    let (ours, mut port) = tokio::io::duplex(4000);
    let relay = Relay::start(ours).await;
    let client = relay.client().await;
    let first = Agent::start().await;
    let (began, begun) = tokio::sync::oneshot::channel();
    let asking = async {
        client.hello(LIMIT).await.unwrap();
        // Cut somewhere in the middle of this.
        let flood = client.exec(shell("yes"), LIMIT).await.unwrap();
        began.send(()).unwrap();
        let draining = async {
            // Nothing is wrong with a program that says nothing: this may wait for ever.
            loop {
                if let Err(error) = flood.next().await {
                    return error;
                }
            }
        };
        let asking = async {
            loop {
                // Of a question that was heard and not answered only the asker gets tired.
                match client.hello(PATIENCE.silent).await {
                    Ok(_) | Err(GuestError::Timeout { .. }) => {}
                    Err(error) => return error,
                }
            }
        };
        tokio::select! {
            error = draining => error,
            error = asking => error,
        }
    };
    let plugging = async {
        let cut = async {
            begun.await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        plug(&mut port, &first, cut).await;
        drop(first);
        // Nobody answers for a while, and what was on its way is lost.
        tokio::time::sleep(PATIENCE.silent * 2).await;
        port
    };
    let (error, mut port) = tokio::join!(asking, plugging);
    assert!(matches!(error, GuestError::Unavailable { .. }), "{error:?}");
    // Another agent on the same port; clients' connections to the relay stood all the time.
    let second = Agent::start().await;
    tokio::spawn(async move {
        plug(&mut port, &second, tokio::time::sleep(LIMIT)).await;
    });
    let end = Instant::now() + LIMIT;
    loop {
        match client.hello(LIMIT).await {
            Ok(_) => return,
            Err(error) => assert!(error.is_transient() && Instant::now() < end, "{error:?}"),
        }
    }
}

/// Answers every session on a port and breaks it with its first byte; counts them.
async fn break_sessions(mut port: DuplexStream, limit: Duration) -> usize {
    let mut seen = Vec::new();
    let mut broken = 0;
    let breaking = async {
        let mut buffer = [0; 4000];
        loop {
            let n = port.read(&mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..n]);
            let Some(at) = seen.windows(64).position(|bytes| {
                Block::decode(bytes.try_into().unwrap())
                    .is_some_and(|block| block.kind == BlockKind::Open)
            }) else {
                continue;
            };
            let open = Block::decode(seen[at..at + 64].try_into().unwrap()).unwrap();
            seen.clear();
            let accept = Block { kind: BlockKind::Accept, guest: [9; 16], ..open };
            port.write_all(&accept.encode()).await.unwrap();
            port.write_all(&[0xff; 100]).await.unwrap();
            broken += 1;
        }
    };
    let _ = tokio::time::timeout(limit, breaking).await;
    broken
}

#[tokio::test]
async fn a_guest_that_breaks_every_session_is_asked_less_and_less() {
    let (ours, port) = tokio::io::duplex(4000);
    let _relay = Relay::start(ours).await;
    // At once, after 50, 100, 200 and 400 milliseconds; the next would be due after 1.55 s.
    let sessions = break_sessions(port, Duration::from_millis(1200)).await;
    assert!((3..=6).contains(&sessions), "{sessions}");
}

#[tokio::test]
async fn the_relay_ends_with_the_guests_end() {
    let (agent, mut relay) = with_agent().await;
    let client = relay.client().await;
    let running = client.exec(shell("sleep 600"), LIMIT).await.unwrap();
    drop(agent);
    let why = tokio::time::timeout(LIMIT, &mut relay.task).await.unwrap().unwrap();
    assert!(!why.is_empty());
    let error = running.next().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(client.hello(LIMIT).await.unwrap_err().is_transient());
}
