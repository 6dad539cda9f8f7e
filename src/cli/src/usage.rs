//! A command line that makes no sense: told as the parser tells it, or as JSON when that was asked.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use mvm_agent::error::{Error, Kind};

use crate::error::report;
use crate::runtime::Form;
use crate::talk;

/// Tells what is wrong with the command line; help and version are no mistakes.
pub fn refuse(mut error: clap::Error) -> ExitCode {
    if is_about_json(&error) {
        // "Use '-- --json'" would hand it to another program, which nobody wants.
        error.remove(ContextKind::TrailingArg);
        error.remove(ContextKind::Suggested);
    }
    if error.use_stderr() && talk::form() == Form::Json {
        return report(Form::Json, &mistake(&error.render().to_string()));
    }
    let _ = error.print();
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn is_about_json(error: &clap::Error) -> bool {
    matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(arg)) if arg == "--json")
}

/// The parser's text in parts: what is wrong, then tips and the usage.
fn mistake(text: &str) -> Error {
    let mut parts = text.split("\n\n").map(|part| {
        part.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    });
    let wrong = parts.next().unwrap_or_default();
    let error = Error::new(Kind::Invalid, "", wrong.trim_start_matches("error: "));
    let rest: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    match rest.is_empty() {
        true => error,
        false => error.hint(rest.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn refused(args: &[&str]) -> clap::Error {
        crate::cli::Cli::try_parse_from(args).unwrap_err()
    }

    #[test]
    fn a_mistake_has_a_message_and_a_hint() {
        let error = mistake(&refused(&["mvm", "tenant", "create"]).render().to_string());
        assert_eq!(error.kind, Kind::Invalid);
        assert!(
            error.message.starts_with("the following required") && !error.message.contains('\n')
        );
        assert!(error.message.contains("<NAME>"), "{}", error.message);
        assert!(error.hint.is_some_and(|hint| hint.contains("Usage: mvm tenant create")));
    }

    #[test]
    fn json_that_a_command_does_not_have_is_told_apart() {
        assert!(is_about_json(&refused(&["mvm", "instance", "shell", "a/b/c", "--json"])));
        assert!(!is_about_json(&refused(&["mvm", "tenant", "list", "--jsn"])));
    }
}
