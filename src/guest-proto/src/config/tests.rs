//! Old guests read new documents, and refuse what they would misread.

use super::*;

const LEAST: &str = r#"{"schema":1,"instance":"i-00000001","hostname":"h","tenant":"t",
    "pool":"p","role":"worker"}"#;

#[test]
fn the_least_there_can_be_is_enough() {
    let config = GuestConfig::from_bytes(LEAST.as_bytes()).unwrap();
    assert_eq!((config.network, config.workload, config.hooks), (None, None, Hooks::default()));
}

#[test]
fn unknown_fields_and_policies_are_ignored() {
    let text = LEAST.replace(
        "\"role\"",
        r#""planet":"Mars","workload":{"argv":["x"],"restart":"on-tuesdays","cores":3},"role""#,
    );
    let workload = GuestConfig::from_bytes(text.as_bytes()).unwrap().workload.unwrap();
    assert_eq!(workload.restart, Restart::Never);
}

#[test]
fn another_schema_and_nonsense_are_refused() {
    let other = LEAST.replace("\"schema\":1", "\"schema\":2");
    assert_eq!(GuestConfig::from_bytes(other.as_bytes()), Err(ConfigError::Schema(2)));
    for nonsense in ["", "{}", "[1]", &LEAST[..40]] {
        let read = GuestConfig::from_bytes(nonsense.as_bytes());
        assert!(matches!(read, Err(ConfigError::Malformed(_))), "{nonsense:?}");
    }
}
