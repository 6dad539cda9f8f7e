//! Against an end that behaves as no Firecracker should.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

const LIMIT: Duration = Duration::from_millis(300);

/// Answers one connection with these bytes and then keeps or closes it.
async fn answering(answer: Vec<u8>, keep: bool) -> (tempfile::TempDir, Api) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&answer).await;
            if keep {
                std::future::pending::<()>().await;
            }
        }
    });
    let api = Api::of(dir.path().to_owned());
    (dir, api)
}

fn call() -> Call {
    Call::patch("/vm", &serde_json::json!({ "state": "Paused" }))
}

#[tokio::test]
async fn a_refusal_is_told_in_its_words_made_printable() {
    let body = r#"{"fault_message":"no\u001b[31m such thing"}"#;
    let answer =
        format!("HTTP/1.1 400 \r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
    let (_dir, api) = answering(answer, false).await;
    let error = api.call(&call(), LIMIT).await.unwrap_err();
    assert_eq!(error.to_string(), "Firecracker refused PATCH /vm: no\u{fffd}[31m such thing");
}

#[tokio::test]
async fn silence_is_over_at_the_deadline() {
    let (_dir, api) = answering(Vec::new(), true).await;
    let error = api.call(&call(), LIMIT).await.unwrap_err();
    assert!(matches!(error, FirecrackerError::Deadline { .. }), "{error}");
}

#[tokio::test]
async fn half_an_answer_garbage_and_an_endless_one_are_errors() {
    let endless =
        [b"HTTP/1.1 200 \r\nContent-Length: 99999999\r\n\r\n".to_vec(), vec![b'x'; 3 << 20]];
    for answer in [
        b"HTTP/1.1 204".to_vec(),
        b"\x00\x01\x02 what".to_vec(),
        b"HTTP/1.1 200 \r\nContent-Length: 10\r\n\r\nhalf".to_vec(),
        endless.concat(),
        Vec::new(),
    ] {
        let (_dir, api) = answering(answer, false).await;
        let error = api.call(&call(), LIMIT * 10).await.unwrap_err();
        assert!(matches!(error, FirecrackerError::Broken { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_request_larger_than_it_takes_is_not_sent() {
    let api = Api::of(Path::new("/nowhere").to_owned());
    let large = Call::put("/boot-source", &"x".repeat(MAX_REQUEST));
    let error = api.call(&large, LIMIT).await.unwrap_err();
    assert!(matches!(error, FirecrackerError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_socket_behind_a_link_is_not_connected_to() {
    let dir = tempfile::tempdir().unwrap();
    let _elsewhere = UnixListener::bind(dir.path().join("bus")).unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("run")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("bus"), root.join(SOCKET)).unwrap();
    let error = Api::of(root).call(&call(), LIMIT).await.unwrap_err();
    assert!(matches!(error, FirecrackerError::Connect { .. }), "{error}");
}
