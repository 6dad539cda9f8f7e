//! Who and how the agent is, ports, logs, and what it must not do here.

use std::time::Duration;

use mvm_guest_proto::message::{LogSource, Logs, Poweroff, SleepPrep, Wake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::{Agent, LIMIT, noise};
use crate::guest::{DialError, GuestError, connect_firecracker, connect_unix, fresh_id};

#[tokio::test]
async fn the_agent_says_who_and_how_it_is() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let hello = client.hello(LIMIT).await.unwrap();
    assert_eq!(hello.version, mvm_guest_proto::VERSION);
    assert!(hello.verbs.iter().any(|verb| verb == "sleep-prep"));
    let status = client.status(LIMIT).await.unwrap();
    assert!(status.ready && !status.prepared_to_sleep && status.memory.total_kib > 0);
    assert_eq!(status.boot_id.len(), 36);
}

#[tokio::test]
async fn an_agent_that_lodges_leaves_its_machine_alone() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let id = fresh_id();
    let off = client.poweroff(&id, Poweroff::default(), LIMIT).await;
    assert!(matches!(off, Err(GuestError::Refused { .. })), "{off:?}");
    let prepared = client.sleep_prep("", SleepPrep::default(), LIMIT).await;
    assert!(matches!(prepared, Err(GuestError::Refused { .. })), "{prepared:?}");
    let wake = Wake {
        clock_ns: 0,
        entropy: "00".repeat(32),
        secrets_epoch: 0,
        config_epoch: 0,
        identity: None,
    };
    let woken = client.wake("", wake, LIMIT).await;
    assert!(matches!(woken, Err(GuestError::Refused { .. })), "{woken:?}");
}

#[tokio::test]
async fn a_port_is_a_byte_stream_with_two_ends() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Reads everything first, answers then: both directions end by themselves.
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        bytes.reverse();
        socket.write_all(&bytes).await.unwrap();
    });
    let (mut from, mut to) = tokio::io::split(client.open_port(port, LIMIT).await.unwrap());
    let mut bytes = noise(2_000_000);
    to.write_all(&bytes).await.unwrap();
    to.shutdown().await.unwrap();
    let mut back = Vec::new();
    tokio::time::timeout(LIMIT, from.read_to_end(&mut back)).await.unwrap().unwrap();
    bytes.reverse();
    assert!(back == bytes, "{} bytes came back changed", back.len());
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_refused() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let refused = client.open_port(port, LIMIT).await;
    assert!(matches!(refused, Err(GuestError::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn dropping_a_port_closes_the_connection() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stream = client.open_port(port, LIMIT).await.unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    drop(stream);
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(LIMIT, socket.read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "the guest's end stayed open");
}

#[tokio::test]
async fn the_agents_log_can_be_read_and_followed() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let logs = Logs { source: LogSource::Agent, ..Logs::default() };
    let mut log = client.logs(logs.clone(), LIMIT).await.unwrap();
    let first = log.next().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("ready"), "{first:?}");
    assert_eq!(log.next().await.unwrap(), None);
    let mut log = client.logs(Logs { follow: true, ..logs }, LIMIT).await.unwrap();
    assert_eq!(log.next().await.unwrap(), Some(first));
    let more = tokio::time::timeout(Duration::from_millis(100), log.next()).await;
    assert!(more.is_err(), "a followed log has no end");
}

#[tokio::test]
async fn a_vmm_is_asked_to_connect() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        for answer in ["OK 1073741824\nhello", "", "no idea what you want, this is a long line\n"] {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = [0; 13];
            socket.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"CONNECT 5252\n");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    let mut socket = connect_firecracker(&path, 5252, LIMIT).await.unwrap();
    let mut hello = [0; 5];
    socket.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    for _ in 0..2 {
        let refused = connect_firecracker(&path, 5252, LIMIT).await;
        assert!(matches!(refused, Err(DialError::NotListening { .. })), "{refused:?}");
    }
    let silent = connect_firecracker(&path, 5252, Duration::from_millis(100)).await;
    assert!(matches!(silent, Err(DialError::Timeout { .. })), "{silent:?}");
    let nobody = connect_unix(&dir.path().join("none"), LIMIT).await;
    assert!(matches!(nobody, Err(DialError::Connect { .. })), "{nobody:?}");
}
