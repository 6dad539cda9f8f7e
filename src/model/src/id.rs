//! Identities that are not chosen by people: instance ids, object paths, content digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::name::{BadName, InstanceName, PoolName, TenantName};

/// Why an id or a path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Not `i-` and eight lower-case hex digits.
    #[error("{0:?} is not an instance id (i- and eight hex digits)")]
    Instance(String),
    /// Not 64 lower-case hex digits.
    #[error("{0:?} is not a digest (64 hex digits)")]
    Digest(String),
    /// Not `<tenant>/<pool>`.
    #[error("{0:?} is not a pool (write <tenant>/<pool>)")]
    Pool(String),
    /// Not `<tenant>/<pool>/<instance>`.
    #[error("{0:?} is not an instance (write <tenant>/<pool>/<instance>)")]
    Path(String),
    /// A part of the path is not a name.
    #[error(transparent)]
    Name(#[from] BadName),
}

/// An instance's id: `i-` and eight hex digits, unique on a host and never reused while a record
/// of it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(u32);

impl InstanceId {
    /// An id from 32 random bits the caller drew.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("i-{:08x}", self.0))
    }
}

impl FromStr for InstanceId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        lower_hex(text.strip_prefix("i-").unwrap_or_default(), 8)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .map(Self)
            .ok_or_else(|| BadId::Instance(text.chars().take(60).collect()))
    }
}

impl TryFrom<String> for InstanceId {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> String {
        id.to_string()
    }
}

fn lower_hex(text: &str, len: usize) -> Option<&str> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (text.len() == len && text.bytes().all(hex)).then_some(text)
}

/// A SHA-256 digest, shown as 64 hex digits; names an image revision or binds a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(bytes).into())
    }

    /// A digest somebody else computed.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// All 64 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, for tables.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Digest {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        lower_hex(text, 64)
            .map(|hex| Self(hex.to_owned()))
            .ok_or_else(|| BadId::Digest(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Digest {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

/// `<tenant>/<pool>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolPath {
    /// The owning tenant.
    pub tenant: TenantName,
    /// The pool within it.
    pub pool: PoolName,
}

impl FromStr for PoolPath {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [tenant, pool] => Ok(Self { tenant: tenant.parse()?, pool: pool.parse()? }),
            _ => Err(BadId::Pool(text.chars().take(120).collect())),
        }
    }
}

impl TryFrom<String> for PoolPath {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<PoolPath> for String {
    fn from(path: PoolPath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for PoolPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.pool)
    }
}

/// The last part of an instance path: an id, or the name of a named instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstanceRef {
    /// By id.
    Id(InstanceId),
    /// By name.
    Name(InstanceName),
}

impl FromStr for InstanceRef {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => Ok(Self::Name(text.parse()?)),
        }
    }
}

impl fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// `<tenant>/<pool>/<instance>`, the instance by id or name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstancePath {
    /// The pool it is in.
    pub pool: PoolPath,
    /// Which of the pool's instances.
    pub instance: InstanceRef,
}

impl FromStr for InstancePath {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [tenant, pool, instance] => Ok(Self {
                pool: PoolPath { tenant: tenant.parse()?, pool: pool.parse()? },
                instance: instance.parse()?,
            }),
            _ => Err(BadId::Path(text.chars().take(160).collect())),
        }
    }
}

impl TryFrom<String> for InstancePath {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<InstancePath> for String {
    fn from(path: InstancePath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for InstancePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_with_other_shapes_are_refused() {
        for bad in ["", "a", "aa/bb", "aa/bb/cc/dd", "aa//cc", "../bb/cc", "aa/bb/", "aa/bb/i-XYZ"]
        {
            assert!(bad.parse::<InstancePath>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_instance_is_found_by_id_or_by_name() {
        let by_id: InstancePath = "acme/workers/i-0000beef".parse().unwrap();
        assert_eq!(by_id.instance, InstanceRef::Id(InstanceId::from_bits(0xbeef)));
        let by_name: InstancePath = "acme/workers/alice".parse().unwrap();
        assert!(matches!(by_name.instance, InstanceRef::Name(_)));
        assert_eq!(by_name.to_string(), "acme/workers/alice");
    }

    #[test]
    fn the_digest_of_nothing_is_the_published_one() {
        assert!(Digest::of(b"").as_str().starts_with("e3b0c44298fc1c149afbf4c8996fb924"));
        assert!("E3".repeat(32).parse::<Digest>().is_err());
    }

    proptest! {
        #[test]
        fn ids_survive_text(bits: u32) {
            let id = InstanceId::from_bits(bits);
            prop_assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,80}") {
            let _ = (text.parse::<InstancePath>(), text.parse::<Digest>(), text.parse::<InstanceId>());
        }
    }
}
