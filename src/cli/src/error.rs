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
            let object =
                if error.object.is_empty() { String::new() } else { format!("{}: ", error.object) };
            eprintln!("error: {object}{}", error.chain());
            if let Some(hint) = &error.hint {
                eprintln!("hint: {hint}");
            }
        }
    }
    ExitCode::from(error.kind.exit_code())
}
