//! How a failure looks: one line with object and causes, a hint, an exit code; JSON when asked.

use std::process::ExitCode;

use mvm_agent::error::Error;
use serde_json::json;

use crate::runtime::Form;

/// Tells the failure on stderr and gives the exit code.
pub fn report(form: Form, error: &Error) -> ExitCode {
    match form {
        Form::Json => eprintln!(
            "{}",
            json!({
                "kind": error.kind.name(),
                "object": error.object,
                "message": error.chain(),
                "hint": error.hint,
            })
        ),
        Form::People => {
            eprintln!("error: {}", about(&error.object, &error.chain()));
            if let Some(hint) = &error.hint {
                eprintln!("hint: {hint}");
            }
        }
    }
    ExitCode::from(error.kind.exit_code())
}

/// What is said about an object, which is named once.
pub fn about(object: &str, said: &str) -> String {
    let is_named = said
        .split(|c: char| c.is_whitespace() || "'\"(),;".contains(c))
        .any(|word| word == object || word.strip_suffix(':') == Some(object));
    match object.is_empty() || is_named {
        true => said.to_owned(),
        false => format!("{object}: {said}"),
    }
}

/// Tells of something a program should know that is no failure: one line, as a failure is told.
pub fn warn(form: Form, object: &str, said: &str) {
    match form {
        Form::Json => eprintln!(
            "{}",
            json!({ "kind": "warning", "object": object, "message": said, "hint": null })
        ),
        Form::People => eprintln!("warning: {}", about(object, said)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_once() {
        assert_eq!(
            about("a/b/c", "a/b/c is stopped, not running"),
            "a/b/c is stopped, not running"
        );
        assert_eq!(about("nope", "there is no tenant nope"), "there is no tenant nope");
        assert_eq!(about("acme", "cannot reach acme: no route"), "cannot reach acme: no route");
        assert_eq!(about("acme", "acme-two is full"), "acme: acme-two is full");
        assert_eq!(about("", "no agent runs"), "no agent runs");
    }
}
