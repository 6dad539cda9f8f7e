//! References to flakes, as people write them and as records keep them.
//!
//! A closed set of forms: what is kept is handed to `nix` later, so it can be no option, brings no
//! credentials (they would be stored and shown), and is fetched from nowhere that cannot prove who
//! it is.
//!
//! ```text
//! /abs  ./rel  .  ..  path:/abs           a directory          [?dir=…]
//! NAME  flake:NAME                        of nix's registry
//! github:O/R  gitlab:O/R  sourcehut:~O/R  [/REF]               [?ref=…&rev=…&dir=…]
//! https://…  git+https://…  git+ssh://[USER@]…  git+file:///…  tarball+https://…
//! ```
//!
//! `nixos/lib/values.nix` and the JSON Schema have the same rules as a pattern; tests hold them
//! together.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest reference, bytes.
const MAX_LEN: usize = 1024;
/// Parameters that say where in a source or at which revision; no other is passed on.
const PARAMETERS: [&str; 11] = [
    "dir",
    "ref",
    "rev",
    "narHash",
    "submodules",
    "shallow",
    "allRefs",
    "host",
    "lfs",
    "lastModified",
    "revCount",
];
const FORGES: [&str; 3] = ["github", "gitlab", "sourcehut"];
/// Schemes that prove whom they talk to, or talk to nobody.
const SCHEMES: [&str; 8] = [
    "https",
    "git+https",
    "git+ssh",
    "git+file",
    "tarball+https",
    "tarball+file",
    "hg+https",
    "hg+ssh",
];

/// Why a flake reference was refused. Never repeats one that may hold credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFlakeRef {
    /// Nothing there, or too much.
    #[error("a flake reference has 1 to {MAX_LEN} bytes")]
    Length,
    /// `-…`
    #[error("a flake reference does not start with '-'")]
    Option,
    /// `REF#attribute`
    #[error("a flake reference ends before '#': the attribute follows from role and profile")]
    Attribute,
    /// `https://user:word@…`
    #[error("the flake reference holds a user or credentials, which would be stored")]
    Credentials,
    /// `http://…`
    #[error("{0:?} does not prove where a flake comes from")]
    Insecure(String),
    /// `?token=…`
    #[error("a flake reference has no parameter {0:?}")]
    Parameter(String),
    /// Anything else.
    #[error("{0:?} is not a flake reference")]
    Form(String),
}

impl BadFlakeRef {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Credentials => "keep credentials in nix.conf (access-tokens) or an ssh agent",
            Self::Insecure(_) => "use https or ssh",
            Self::Parameter(_) => "use dir, ref, rev or narHash",
            _ => "write a path (., ./images), github:OWNER/REPO or git+https://HOST/REPO",
        }
    }
}

/// A reference to a flake.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FlakeRef(String);

impl FlakeRef {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory with its `flake.nix`, when it names one on this host.
    pub fn dir(&self) -> Option<PathBuf> {
        let (path, parameters) = halves(local(&self.0)?);
        let sub = parameters.split('&').find_map(|pair| pair.strip_prefix("dir="));
        Some(sub.map_or_else(|| path.into(), |sub| Path::new(path).join(sub)))
    }

    /// Whether it means something else in another working directory.
    pub fn is_relative(&self) -> bool {
        local(&self.0).is_some_and(|path| !path.starts_with('/'))
    }

    /// The same flake whatever the working directory, `base` being the present one.
    ///
    /// # Errors
    /// When the whole is too long, or `base` is no text.
    pub fn absolute(&self, base: &Path) -> Result<Self, BadFlakeRef> {
        let Some(given) = local(&self.0).filter(|_| self.is_relative()) else {
            return Ok(self.clone());
        };
        let (path, parameters) = halves(given);
        let whole = clean(&base.join(path));
        let text = whole.to_str().ok_or_else(|| BadFlakeRef::Form(shown(&self.0)))?;
        match parameters {
            "" => text.parse(),
            some => format!("{text}?{some}").parse(),
        }
    }
}

/// The path of a reference to a directory, with its parameters.
fn local(text: &str) -> Option<&str> {
    let path = text.strip_prefix("path:").unwrap_or(text);
    let is_path = path.starts_with(['/', '.']);
    is_path.then_some(path)
}

fn halves(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

/// Without `.` and `..`, by the text alone: a link stays the link that was named.
fn clean(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut clean, part| {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
        clean
    })
}

fn check(text: &str) -> Result<(), BadFlakeRef> {
    if text.is_empty() || text.len() > MAX_LEN {
        return Err(BadFlakeRef::Length);
    }
    if text.starts_with('-') {
        return Err(BadFlakeRef::Option);
    }
    if text.contains('#') {
        return Err(BadFlakeRef::Attribute);
    }
    let (place, parameters) = halves(text);
    check_place(place)?;
    if text.contains('?') { parameters.split('&').try_for_each(check_parameter) } else { Ok(()) }
}

fn check_place(place: &str) -> Result<(), BadFlakeRef> {
    let bad = || BadFlakeRef::Form(shown(place));
    if let Some(path) = local(place) {
        let starts = ["/", "./", "../"].iter().any(|start| path.starts_with(start));
        let good = (starts || path == "." || path == "..") && !path.chars().any(char::is_control);
        return if good { Ok(()) } else { Err(bad()) };
    }
    match place.split_once(':') {
        None => {
            if is_registered(place) {
                Ok(())
            } else {
                Err(bad())
            }
        }
        Some(("flake", name)) => {
            if is_registered(name) {
                Ok(())
            } else {
                Err(bad())
            }
        }
        Some((forge, rest)) if FORGES.contains(&forge) => check_forge(rest).ok_or_else(bad),
        Some((scheme, rest)) => check_url(scheme, rest),
    }
}

fn is_registered(name: &str) -> bool {
    let (id, rest) = name.split_once('/').unwrap_or((name, "x"));
    id.starts_with(|c: char| c.is_ascii_alphabetic()) && word(id, "_-") && word(rest, "._/-")
}

fn check_forge(rest: &str) -> Option<()> {
    let mut parts = rest.splitn(3, '/');
    let owner = parts.next()?;
    let good = word(owner.strip_prefix('~').unwrap_or(owner), "._%-")
        && word(parts.next()?, "._-")
        && parts.next().is_none_or(|place| word(place, "._/%+-"));
    good.then_some(())
}

fn check_url(scheme: &str, rest: &str) -> Result<(), BadFlakeRef> {
    if rest.contains('@') && !scheme.ends_with("ssh") {
        return Err(BadFlakeRef::Credentials);
    }
    let Some(rest) = rest.strip_prefix("//").filter(|_| word(scheme, "+.-")) else {
        return Err(BadFlakeRef::Form(shown(scheme)));
    };
    if !SCHEMES.contains(&scheme) {
        return Err(BadFlakeRef::Insecure(format!("{}://", shown(scheme))));
    }
    let (user, place) = rest.split_once('@').unwrap_or(("git", rest));
    if !word(user, "._-") || place.contains('@') {
        return Err(BadFlakeRef::Credentials);
    }
    let starts = match scheme.ends_with("file") {
        true => place.starts_with('/'),
        false => place.starts_with(|c: char| c.is_ascii_alphanumeric()),
    };
    let good = starts && word(place, "._~:/%+,=-");
    if good { Ok(()) } else { Err(BadFlakeRef::Form(shown(place))) }
}

fn check_parameter(pair: &str) -> Result<(), BadFlakeRef> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, "#"));
    if !PARAMETERS.contains(&name) {
        return Err(BadFlakeRef::Parameter(shown(name)));
    }
    let good = value.is_empty() || word(value, "._~:/%+,=-");
    if good { Ok(()) } else { Err(BadFlakeRef::Parameter(shown(name))) }
}

/// Whether it is letters, digits and `others` only, and not empty.
fn word(text: &str, others: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    !text.is_empty() && text.chars().all(good)
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for FlakeRef {
    type Err = BadFlakeRef;
    fn from_str(text: &str) -> Result<Self, BadFlakeRef> {
        check(text).map(|()| Self(text.to_owned()))
    }
}

impl TryFrom<String> for FlakeRef {
    type Error = BadFlakeRef;
    fn try_from(text: String) -> Result<Self, BadFlakeRef> {
        check(&text).map(|()| Self(text))
    }
}

impl From<FlakeRef> for String {
    fn from(reference: FlakeRef) -> String {
        reference.0
    }
}

impl fmt::Display for FlakeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_forms_are_references() {
        for good in [
            ".",
            "..",
            "./images",
            "/srv/my flake",
            "path:/srv/flake?dir=a/b",
            "nixpkgs",
            "flake:nixpkgs/nixos-26.05",
            "github:myorg/myflake",
            "github:o/r/feature/x?dir=sub",
            "gitlab:group%2Fsub/repo",
            "sourcehut:~me/repo",
            "git+https://host.example/repo.git?ref=main&rev=0123",
            "git+ssh://git@host.example:22/repo",
            "git+file:///srv/repo",
            "https://host.example/x.tar.gz?narHash=sha256-A+b/c=",
        ] {
            assert_eq!(good.parse::<FlakeRef>().map(String::from), Ok(good.to_owned()));
        }
    }

    #[test]
    fn options_attributes_and_half_sentences_are_not() {
        for bad in [
            "",
            "-",
            "--impure",
            ".#attr",
            ".images",
            "~/x",
            "a b",
            "github:owner",
            "github:o/r/",
            "github:o/r?",
            "/x\n",
            "https:",
            "https://",
            "git+file://relative",
            "https://-x/y",
            "$(id)",
            "é",
        ] {
            assert!(bad.parse::<FlakeRef>().is_err(), "{bad:?} was accepted");
        }
        assert!("a".repeat(MAX_LEN + 1).parse::<FlakeRef>().is_err());
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for bad in [
            "https://user:hunter2@host/x.tar.gz",
            "git+https://hunter2@host/x",
            "git+ssh://git:hunter2@host/x",
            "git+https://host/x?token=hunter2",
        ] {
            let error = bad.parse::<FlakeRef>().unwrap_err();
            assert!(!format!("{error} {error:?} {}", error.hint()).contains("hunter2"), "{error}");
        }
        let error = "http://host/x.tar.gz".parse::<FlakeRef>().unwrap_err();
        assert!(matches!(error, BadFlakeRef::Insecure(_)), "{error}");
    }

    #[test]
    fn a_path_is_made_absolute_and_nothing_else_is() {
        let at = |text: &str| {
            let reference: FlakeRef = text.parse().unwrap();
            String::from(reference.absolute(Path::new("/home/me/mvm")).unwrap())
        };
        assert_eq!(at("."), "/home/me/mvm");
        assert_eq!(at("../other/./x?dir=y"), "/home/me/other/x?dir=y");
        assert_eq!(at("path:./x"), "/home/me/mvm/x");
        assert_eq!(at("/srv/x"), "/srv/x");
        assert_eq!(at("github:o/r"), "github:o/r");
    }

    #[test]
    fn a_directory_is_where_its_flake_is() {
        let dir = |text: &str| text.parse::<FlakeRef>().unwrap().dir();
        assert_eq!(dir("/srv/x?dir=y&ref=main"), Some("/srv/x/y".into()));
        assert_eq!(dir("."), Some(".".into()));
        assert_eq!(dir("nixpkgs"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,60}") {
            if let Ok(reference) = text.parse::<FlakeRef>() {
                prop_assert!(!text.starts_with('-') && !text.contains('#'));
                let whole = reference.absolute(Path::new("/base")).unwrap();
                prop_assert!(!whole.is_relative());
                prop_assert_eq!(whole.absolute(Path::new("/other")).unwrap(), whole);
            }
        }
    }
}
