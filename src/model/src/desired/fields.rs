//! Reading one JSON object field by field, so that every mistake is reported with its place.
//!
//! Serde alone stops at the first mistake, does not say where it is, and cannot read the same
//! type strictly for people and tolerantly for daemons.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{MAX_DOCUMENT, Problem, Reader, Unreadable};

/// Longest text shown of a mistake, characters.
const SHOWN: usize = 200;

/// The JSON object a document is.
pub(crate) fn parse(text: &str) -> Result<Map<String, Value>, Unreadable> {
    if text.len() > MAX_DOCUMENT {
        return Err(Unreadable::TooLarge(text.len()));
    }
    if text.trim().is_empty() {
        return Err(Unreadable::Empty);
    }
    // Without the line end: a text cut off within quotes would else look like one with a bad
    // character in them.
    match serde_json::from_str(text.trim_end()) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Unreadable::Shape("it is not an object".into())),
        Err(error) if error.is_eof() => Err(Unreadable::Truncated { line: error.line() }),
        Err(error) => Err(Unreadable::Syntax(error.to_string())),
    }
}

/// One object of a document while it is read.
pub(crate) struct Fields<'a> {
    map: Map<String, Value>,
    /// Its place: `tenants[0] (acme)`.
    place: String,
    known: Vec<&'static str>,
    reader: Reader,
    broken: bool,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Fields<'a> {
    /// The fields of `map`, found at `place`.
    pub(crate) fn of(
        map: Map<String, Value>,
        place: String,
        reader: Reader,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        Self { map, place, known: Vec::new(), reader, broken: false, problems }
    }

    /// The fields of `value`, if it is an object.
    pub(crate) fn of_value(
        value: Value,
        place: String,
        reader: Reader,
        problems: &'a mut Vec<Problem>,
    ) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self::of(map, place, reader, problems)),
            _ => {
                let (problem, hint) = ("is not an object".to_owned(), "write { … }".to_owned());
                problems.push(Problem { object: place, problem, hint });
                None
            }
        }
    }

    /// Adds its name to its place, for messages.
    pub(crate) fn named(&mut self, name: &str) {
        if let Some(Value::String(text)) = self.map.get(name) {
            let short: String = text.chars().take(50).collect();
            self.place = format!("{} ({short})", self.place);
        }
    }

    /// Takes a field out; `null` is as good as absent.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// A field that may be absent.
    pub(crate) fn optional<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        let value = self.take(name)?;
        match serde_json::from_value(value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(name, &plain(&error.to_string()), "docs/agent.md describes every field");
                None
            }
        }
    }

    /// A field with a default.
    pub(crate) fn or<T: DeserializeOwned>(&mut self, name: &'static str, default: T) -> T {
        self.optional(name).unwrap_or(default)
    }

    /// A field that must be there.
    pub(crate) fn required<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        if !self.has(name) {
            self.known.push(name);
            self.wrong(name, "is missing", &format!("add \"{name}\""));
            return None;
        }
        self.optional(name)
    }

    /// An object within this one, empty when absent. A problem in it is a problem of this one.
    pub(crate) fn object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Fields<'_>) -> T,
    ) -> Option<T> {
        let value = self.take(name).unwrap_or_else(|| Value::Object(Map::new()));
        let place = self.place_of(name);
        let Some(mut inner) = Fields::of_value(value, place, self.reader, self.problems) else {
            self.broken = true;
            return None;
        };
        let read = read(&mut inner);
        let is_well = inner.finish();
        self.broken |= !is_well;
        Some(read)
    }

    /// The list in a field, each entry read by itself: a bad one is left out and reported.
    pub(crate) fn list<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Fields<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let entries = match self.take(name)? {
            Value::Array(entries) => entries,
            _ => {
                self.wrong(name, "is not a list", "write [ … ]");
                return None;
            }
        };
        let place = self.place_of(name);
        let mut list = Vec::with_capacity(entries.len());
        for (i, entry) in entries.into_iter().enumerate() {
            let place = format!("{place}[{i}]");
            let fields = Fields::of_value(entry, place, self.reader, self.problems);
            list.extend(fields.and_then(|mut fields| {
                let read = read(&mut fields);
                read.filter(|_| fields.finish())
            }));
        }
        Some(list)
    }

    /// Reports what is left over; whether everything that is known was well: an object with a field
    /// too many can still be held against the others, and its document is refused all the same.
    pub(crate) fn finish(&mut self) -> bool {
        if self.reader == Reader::Strict {
            let left: Vec<String> =
                std::mem::take(&mut self.map).into_iter().map(|e| e.0).collect();
            for name in left {
                let hint = self.guess(&name);
                self.report(&name, "is not a known field", &hint);
            }
        }
        !self.broken
    }

    /// Refuses the whole document for a problem with a field of its outermost object.
    pub(crate) fn refuse_broken(&self) -> Result<(), Unreadable> {
        match self.problems.last() {
            Some(problem) if self.broken => Err(Unreadable::Shape(problem.to_string())),
            _ => Ok(()),
        }
    }

    /// Reports a problem with a field: its object is left out.
    pub(crate) fn wrong(&mut self, name: &str, problem: &str, hint: &str) {
        self.broken = true;
        self.report(name, problem, hint);
    }

    fn report(&mut self, name: &str, problem: &str, hint: &str) {
        let short = |text: &str| text.chars().take(SHOWN).collect::<String>();
        let problem = Problem {
            object: short(&self.place_of(name)),
            problem: short(problem),
            hint: hint.to_owned(),
        };
        self.problems.push(problem);
    }

    fn place_of(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    fn guess(&self, name: &str) -> String {
        let near = self.known.iter().filter(|known| distance(known, name) <= 2);
        match near.min_by_key(|known| distance(known, name)) {
            Some(known) => format!("did you mean \"{known}\"?"),
            None => format!("known here: {}", self.known.join(", ")),
        }
    }
}

/// A decoder's words as people say them; the checks of our own types speak plainly already.
fn plain(error: &str) -> String {
    let Some((found, expected)) = error
        .strip_prefix("invalid type: ")
        .or_else(|| error.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    else {
        return error.to_owned();
    };
    let found = found
        .trim_start_matches("string ")
        .trim_start_matches("integer ")
        .trim_start_matches("boolean ")
        .trim_start_matches("floating point ")
        .replace("map", "{ … }")
        .replace("sequence", "[ … ]");
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i32" | "i64" => "a whole number",
        "a boolean" => "true or false",
        "a string" => "text",
        "a map" => "an object: { … }",
        "a sequence" => "a list: [ … ]",
        other => other.trim_start_matches("a string, "),
    };
    format!("is {found}, should be {expected}")
}

/// Edit distance, for names of at most 60 bytes; more for longer ones.
fn distance(left: &str, right: &str) -> usize {
    if right.len() > 60 {
        return usize::MAX;
    }
    let right: Vec<u8> = right.bytes().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.iter().enumerate() {
            let above = row[j + 1];
            let change = diagonal + usize::from(a != *b);
            row[j + 1] = change.min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}
