//! What is not understood, and what is ignored.

use super::*;

#[test]
fn an_unknown_verb_is_told_from_nonsense() {
    let read = |text: &str| Call::from_bytes(text.as_bytes()).unwrap_err();
    assert_eq!(read(r#"{"verb":"levitate"}"#), NotUnderstood::Unsupported("levitate".into()));
    let long = format!(r#"{{"verb":"{}"}}"#, "x".repeat(5000));
    assert_eq!(read(&long), NotUnderstood::Unsupported("x".repeat(64)));
    for nonsense in [r#"{"verb":"exec"}"#, r#"{"verb":7}"#, "[]", "", "null", r#"{"verb":"list"}"#]
    {
        assert!(matches!(read(nonsense), NotUnderstood::Malformed(_)), "{nonsense}");
    }
    let id = format!(r#"{{"verb":"hello","id":"{}"}}"#, "x".repeat(129));
    assert!(matches!(read(&id), NotUnderstood::Malformed(_)));
    let deep = format!(r#"{{"verb":"hello","x":{}1{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    assert!(matches!(read(&deep), NotUnderstood::Malformed(_)));
}

#[test]
fn what_the_future_adds_is_ignored() {
    let call = Call::from_bytes(br#"{"verb":"stat","path":"/a","new":{"x":1},"id":"i"}"#).unwrap();
    assert_eq!((call.id.as_str(), call.request), ("i", Request::Stat(Stat { path: "/a".into() })));
    let message = Message::from_bytes(br#"{"type":"hologram","depth":3}"#);
    assert_eq!(message, Some(Message::Unknown));
    let failure = Failure::from_bytes(br#"{"kind":"quantum","message":"m"}"#);
    assert_eq!(failure, Failure::new(ErrorKind::Failed, "m"));
    let state: WorkloadState = serde_json::from_str("\"levitating\"").unwrap();
    assert_eq!(state, WorkloadState::Unknown);
}

#[test]
fn a_wake_does_not_print_its_entropy() {
    let wake = Wake {
        clock_ns: 1,
        entropy: "5ec4e7".into(),
        secrets_epoch: 0,
        config_epoch: 0,
        identity: None,
    };
    assert!(!format!("{wake:?}").contains("5ec4e7"));
}

#[test]
fn shells_show_signals_above_128() {
    assert_eq!((ExecExit::Code(3).shell_code(), ExecExit::Signal(9).shell_code()), (3, 137));
}
