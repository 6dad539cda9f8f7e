//! Names people choose: tenant, pool and instance names.
//!
//! One rule for all three, so that a name is always safe as a file name, a DNS label and a word
//! in a table: `[a-z][a-z0-9-]{0,38}[a-z0-9]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes. Short enough for a DNS label with room for a suffix.
pub const MAX_LEN: usize = 40;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} name {shown:?} {problem}")]
pub struct BadName {
    what: &'static str,
    shown: String,
    problem: &'static str,
}

impl BadName {
    /// What a person can do about it.
    pub const HINT: &'static str =
        "use 2 to 40 of a-z, 0-9 and '-', starting with a letter and not ending with '-'";
}

fn check(what: &'static str, name: &str) -> Result<(), BadName> {
    let bad = |problem| Err(BadName { what, shown: name.chars().take(60).collect(), problem });
    let bytes = name.as_bytes();
    if bytes.len() < 2 {
        return bad("is too short (2 to 40 characters)");
    }
    if bytes.len() > MAX_LEN {
        return bad("is too long (2 to 40 characters)");
    }
    if !bytes[0].is_ascii_lowercase() {
        return bad("must start with a lower-case letter");
    }
    if bytes[bytes.len() - 1] == b'-' {
        return bad("must not end with '-'");
    }
    if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') {
        return bad("may hold only lower-case letters, digits and '-'");
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                check($what, text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                check($what, &text).map(|()| Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// A tenant's name, unique on a host.
    TenantName,
    "tenant"
);
name_type!(
    /// A pool's name, unique within its tenant.
    PoolName,
    "pool"
);
name_type!(
    /// The name of a *named* instance, unique within its pool.
    InstanceName,
    "instance"
);
name_type!(
    /// The name of a profile: which of a flake's images.
    ProfileName,
    "profile"
);

impl From<crate::image::Profile> for ProfileName {
    fn from(profile: crate::image::Profile) -> Self {
        Self(profile.as_str().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_could_leave_a_directory_or_a_label() {
        let long = "a".repeat(300);
        for bad in [
            "", "a", "..", "a/b", "../x", "a b", "A1", "1a", "-a", "a-", "a_b", "ä1", "a\0b", &long,
        ] {
            assert!(bad.parse::<TenantName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn accepts_the_names_of_the_documents() {
        for good in ["smoke-app", "dev", "demo-b", "a1", &"a".repeat(40)] {
            assert_eq!(good.parse::<PoolName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn an_error_names_the_object_and_shortens_what_it_shows() {
        let error = "x".repeat(300).parse::<PoolName>().unwrap_err().to_string();
        assert!(error.starts_with("pool name") && error.len() < 150, "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn accepts_exactly_the_documented_pattern(text in "[a-zA-Z0-9/._ -]{0,44}") {
            let expected = text.len() >= 2 && text.len() <= 40
                && text.starts_with(|c: char| c.is_ascii_lowercase())
                && !text.ends_with('-')
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            prop_assert_eq!(text.parse::<TenantName>().is_ok(), expected);
        }

        #[test]
        fn survives_json(text in "[a-z][a-z0-9-]{0,38}[a-z0-9]") {
            let name: TenantName = text.parse().unwrap();
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<TenantName>(&json).unwrap(), name);
        }
    }
}
