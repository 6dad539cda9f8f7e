//! Names, scopes, limits, and that values are not told.

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

#[test]
fn a_name_is_safe_as_a_file_name() {
    let long = "A".repeat(MAX_NAME + 1);
    for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "ä", "a\0", "lost+found", &long] {
        assert_eq!(bad.parse::<SecretName>(), Err(BadSecret::Name), "{bad:?}");
    }
    for good in ["A", "SLACK_BOT_TOKEN", "tls.key", "_x-1", "7"] {
        assert_eq!(name(good).as_str(), good);
    }
}

#[test]
fn a_value_beside_its_name_is_refused_and_not_repeated() {
    let error = "TOKEN=hunter2".parse::<SecretName>().unwrap_err();
    assert_eq!(error, BadSecret::NameWithValue);
    assert!(!format!("{error}{error:?}").contains("hunter2"));
}

#[test]
fn a_scope_is_a_name_or_its_beginning_up_to_a_separator() {
    let scopes = ["slack".to_owned(), "tls.key".to_owned()];
    for seen in ["slack", "SLACK_BOT_TOKEN", "slack.token", "Slack-x", "tls.key"] {
        assert!(name(seen).is_in_scope(Some(&scopes)), "{seen} is not seen");
    }
    for hidden in ["slackware", "slac", "my_slack", "tls", "tls.keys"] {
        assert!(!name(hidden).is_in_scope(Some(&scopes)), "{hidden} is seen");
    }
    assert!(name("anything").is_in_scope(None));
    assert!(!name("anything").is_in_scope(Some(&[])));
    assert!(!name("anything").is_in_scope(Some(&[String::new()])));
}

#[test]
fn limits_hold_one_by_one_and_together() {
    let of = |sizes: &[usize]| -> Secrets {
        let value = |size: &usize| SecretValue::new(vec![7; *size]);
        sizes.iter().enumerate().map(|(n, size)| (name(&format!("S{n}")), value(size))).collect()
    };
    assert_eq!(check(&of(&[1, MAX_VALUE])), Ok(()));
    assert!(matches!(check(&of(&[0])), Err(BadSecret::Size { .. })));
    assert!(matches!(check(&of(&[MAX_VALUE + 1])), Err(BadSecret::Size { .. })));
    assert!(matches!(check(&of(&[MAX_VALUE; 5])), Err(BadSecret::Total { .. })));
    assert_eq!(check(&of(&[MAX_VALUE; 4])), Ok(()));
    assert!(matches!(check(&of(&[1; MAX_COUNT + 1])), Err(BadSecret::Count { .. })));
    assert_eq!(check(&of(&[1; MAX_COUNT])), Ok(()));
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Request {
    #[serde(with = "in_clear")]
    secrets: Secrets,
}

#[test]
fn a_value_is_never_shown() {
    let value = SecretValue::new(b"hunter2".to_vec());
    let request = Request { secrets: Secrets::from([(name("TOKEN"), value)]) };
    let shown = format!("{request:?} {request:#?}");
    assert!(shown.contains("TOKEN") && shown.contains("[secret]"));
    assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
}

proptest! {
    #[test]
    fn a_request_carries_every_value(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let request = Request { secrets: [(name("T"), SecretValue::new(bytes))].into() };
        let json = serde_json::to_string(&request).unwrap();
        prop_assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
    }

    #[test]
    fn names_are_never_paths(text in "[ -~]{0,70}") {
        if let Ok(name) = text.parse::<SecretName>() {
            let path = std::path::Path::new("/d").join(name.as_str());
            prop_assert_eq!(path.parent(), Some(std::path::Path::new("/d")));
            prop_assert_eq!(path.file_name().unwrap().to_str(), Some(text.as_str()));
        }
    }
}
