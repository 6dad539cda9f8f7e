use std::os::fd::AsFd;

use tokio::io::AsyncWriteExt;

use super::*;

const SOON: Duration = Duration::from_millis(200);
const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":22},"package":""},"capabilities":[]}}"#;

/// A monitor that greets, accepts the negotiation, then says `lines` whatever it is asked.
async fn monitor(lines: &str) -> (Qmp, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let opening = format!("{GREETING}\n{{\"return\":{{}},\"id\":1}}\n{lines}");
    theirs.write_all(opening.as_bytes()).await.unwrap();
    (Qmp::negotiate(ours, SOON).await.unwrap(), theirs)
}

#[tokio::test]
async fn the_answer_is_the_one_with_our_id_and_events_are_kept() {
    let (mut qmp, _peer) = monitor(concat!(
        r#"{"event":"STOP","data":{"x":1},"timestamp":{"seconds":1,"microseconds":2}}"#,
        "\n",
        r#"{"return":{"stale":true},"id":99}"#,
        "\n",
        r#"{"return":{"status":"running"},"id":2}"#,
        "\n",
    ))
    .await;
    assert_eq!(qmp.version(), "7.2.22");
    let answer = qmp.execute("query-status", json!({}), SOON).await.unwrap();
    assert_eq!(answer, json!({ "status": "running" }));
    let event = qmp.event("STOP", SOON).await.unwrap().unwrap();
    assert_eq!(event.data, json!({ "x": 1 }));
    assert_eq!(qmp.event("STOP", Duration::from_millis(10)).await.unwrap(), None);
}

#[tokio::test]
async fn a_refusal_is_typed_and_printable() {
    let refusal = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\\u001b[31m\"},\"id\":2}\n";
    let (mut qmp, _peer) = monitor(refusal).await;
    match qmp.execute("cont", json!({}), SOON).await {
        Err(QmpError::Refused { command: "cont", reason }) => assert_eq!(reason, "no\u{fffd}[31m"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_the_late_answer_is_not_taken_for_the_next() {
    let (mut qmp, mut peer) = monitor("").await;
    let silent = qmp.execute("stop", json!({}), Duration::from_millis(30)).await;
    assert!(matches!(silent, Err(QmpError::Deadline { .. })));
    peer.write_all(b"{\"return\":1,\"id\":2}\n{\"return\":2,\"id\":3}\n").await.unwrap();
    assert_eq!(qmp.execute("cont", json!({}), SOON).await.unwrap(), json!(2));
}

#[tokio::test]
async fn half_a_line_before_a_deadline_is_not_lost() {
    let (mut qmp, mut peer) = monitor("{\"return\":").await;
    assert!(qmp.execute("stop", json!({}), Duration::from_millis(30)).await.is_err());
    peer.write_all(b"1,\"id\":2}\n{\"return\":2,\"id\":3}\n").await.unwrap();
    assert_eq!(qmp.execute("cont", json!({}), SOON).await.unwrap(), json!(2));
}

#[tokio::test]
async fn a_hostile_monitor_cannot_fill_our_memory_or_hold_us() {
    let (mut qmp, mut peer) = monitor("").await;
    let flood = tokio::spawn(async move { while peer.write_all(&[b'x'; 65_536]).await.is_ok() {} });
    let endless = qmp.execute("stop", json!({}), Duration::from_secs(5)).await;
    assert!(matches!(endless, Err(QmpError::Protocol(_))), "{endless:?}");
    drop(qmp);
    flood.await.unwrap();

    let (mut qmp, mut peer) = monitor("").await;
    let chatter =
        tokio::spawn(
            async move { while peer.write_all(b"{\"event\":\"NOISE\"}\n").await.is_ok() {} },
        );
    let drowned = qmp.execute("stop", json!({}), SOON).await;
    assert!(matches!(drowned, Err(QmpError::Deadline { .. })), "{drowned:?}");
    assert!(qmp.events.len() <= MAX_EVENTS);
    drop(qmp);
    chatter.await.unwrap();

    for nonsense in ["hello\n", "[]\n", "{\"id\":2}\n"] {
        let (mut qmp, _peer) = monitor(nonsense).await;
        let answer = qmp.execute("stop", json!({}), SOON).await;
        assert!(matches!(answer, Err(QmpError::Protocol(_))), "{nonsense}: {answer:?}");
    }
}

#[tokio::test]
async fn a_monitor_that_is_gone_says_so() {
    let (mut qmp, peer) = monitor("").await;
    drop(peer);
    assert!(matches!(qmp.execute("stop", json!({}), SOON).await, Err(QmpError::Closed)));
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(matches!(Qmp::negotiate(ours, SOON).await, Err(QmpError::Closed)));
}

#[tokio::test]
async fn a_descriptor_rides_with_its_command() {
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    let (mut qmp, peer) = monitor("{\"return\":{},\"id\":2}\n").await;
    let file = tempfile::tempfile().unwrap();
    qmp.pass_fd("memory", file.as_fd(), SOON).await.unwrap();
    let mut bytes = [0; 4096];
    let mut iov = [std::io::IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut fds = Vec::new();
    // The negotiation comes first, without descriptors.
    for _ in 0..2 {
        let flags = MsgFlags::MSG_DONTWAIT;
        let Ok(message) = recvmsg::<()>(peer.as_raw_fd(), &mut iov, Some(&mut space), flags) else {
            break;
        };
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(got) = control {
                fds.extend(got);
            }
        }
    }
    assert_eq!(fds.len(), 1);
    nix::unistd::close(fds[0]).unwrap();
}
