//! Talk: what is said on stderr beside a result. A person wants progress, notes and the next
//! command; a program that asked for JSON gets none of it, only a failure, as JSON.
//!
//! Which of the two is decided once, from the arguments, before they are parsed: also a mistake in
//! them is answered in the form that was asked for.

use std::ffi::OsString;
use std::fmt::Display;
use std::sync::OnceLock;

use crate::runtime::Form;

/// For whom this process talks.
static FORM: OnceLock<Form> = OnceLock::new();

/// Decides it by the arguments.
pub fn begin(args: impl Iterator<Item = OsString>) {
    let _ = FORM.set(asked(args));
}

/// For whom this process talks; a person where nothing was decided.
pub fn form() -> Form {
    FORM.get().copied().unwrap_or(Form::People)
}

/// Says something to a person.
pub fn say(text: impl Display) {
    if form() == Form::People {
        eprintln!("{text}");
    }
}

/// What follows `--` is another program's.
fn asked(args: impl Iterator<Item = OsString>) -> Form {
    args.take_while(|arg| arg != "--").any(|arg| arg == "--json").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_asked_for_by_our_own_arguments_only() {
        let form = |args: &[&str]| asked(args.iter().map(OsString::from));
        assert_eq!(form(&["pool", "list", "--json"]), Form::Json);
        assert_eq!(form(&["instance", "exec", "a/b/c", "--", "ls", "--json"]), Form::People);
        assert_eq!(form(&[]), Form::People);
    }
}
