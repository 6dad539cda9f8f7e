//! Tenants' secrets: their names, their values, and which of them a pool's instances see.
//!
//! A value is shown by nothing: it has no `Display`, its `Debug` is a placeholder, and it has no
//! `Serialize` of its own. Who really must pass values on says so field by field, with
//! `#[serde(with = "mvm_model::secret::in_clear")]`. Its memory is overwritten when it is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Longest name, bytes.
pub const MAX_NAME: usize = 64;
/// Largest value, bytes.
pub const MAX_VALUE: usize = 256 << 10;
/// Most secrets of one tenant.
pub const MAX_COUNT: usize = 128;
/// Most bytes of all values of one tenant: what every instance's secrets drive has room for.
pub const MAX_TOTAL: usize = 1 << 20;

/// A secret's name; also the name of its file in the guest: `[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// Why a secret was refused. Never says anything of a value but its size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Not a name.
    #[error(
        "a secret's name is 1 to {MAX_NAME} of A-Z, a-z, 0-9, '_', '.' and '-', and does not start with '.' or '-'"
    )]
    Name,
    /// A value with its name, where only a name belongs. What was written is not repeated.
    #[error("only a secret's name belongs here, not its value")]
    NameWithValue,
    /// A value that is empty or too large.
    #[error("the value of {name} has {size} bytes, allowed are 1 to {MAX_VALUE}")]
    Size {
        /// Whose.
        name: SecretName,
        /// Its size.
        size: usize,
    },
    /// Too many.
    #[error("a tenant has at most {MAX_COUNT} secrets, this would be {count}")]
    Count {
        /// How many it would be.
        count: usize,
    },
    /// All together too large.
    #[error("a tenant's secrets have at most {MAX_TOTAL} bytes together, these have {total}")]
    Total {
        /// How large they would be.
        total: usize,
    },
}

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether instances with these scopes see it: a scope `slack` stands for the secret of that
    /// name and for those whose name continues it after a '.', '_' or '-', whatever the case
    /// (`slack`, `slack.token`, `SLACK_BOT_TOKEN`; not `slackware`). Without scopes all are seen.
    pub fn is_in_scope(&self, scopes: Option<&[String]>) -> bool {
        scopes.is_none_or(|scopes| scopes.iter().any(|scope| self.belongs_to(scope)))
    }

    fn belongs_to(&self, scope: &str) -> bool {
        let (name, scope) = (self.0.as_bytes(), scope.as_bytes());
        let begins = |len: usize| name.get(..len).is_some_and(|it| it.eq_ignore_ascii_case(scope));
        !scope.is_empty()
            && begins(scope.len())
            && name.get(scope.len()).is_none_or(|next| b"._-".contains(next))
    }
}

impl FromStr for SecretName {
    type Err = BadSecret;
    fn from_str(text: &str) -> Result<Self, BadSecret> {
        if text.contains('=') {
            return Err(BadSecret::NameWithValue);
        }
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let length = (1..=MAX_NAME).contains(&text.len());
        match length && text.bytes().all(is_good) && !text.starts_with(['.', '-']) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadSecret::Name),
        }
    }
}

impl TryFrom<String> for SecretName {
    type Error = BadSecret;
    fn try_from(text: String) -> Result<Self, BadSecret> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> String {
        name.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A secret's value.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes the bytes over; they are overwritten when the value is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many they are.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Refuses values that cannot be kept, or not all together.
///
/// # Errors
/// The first thing wrong.
pub fn check<'a>(
    secrets: impl IntoIterator<Item = (&'a SecretName, &'a SecretValue)>,
) -> Result<(), BadSecret> {
    let (mut count, mut total) = (0, 0);
    for (name, value) in secrets {
        let size = value.size();
        if !(1..=MAX_VALUE).contains(&size) {
            return Err(BadSecret::Size { name: name.clone(), size });
        }
        (count, total) = (count + 1, total + size);
    }
    match (count, total) {
        (MAX_COUNT.., _) if count > MAX_COUNT => Err(BadSecret::Count { count }),
        (_, MAX_TOTAL..) if total > MAX_TOTAL => Err(BadSecret::Total { total }),
        _ => Ok(()),
    }
}

/// Secrets by name.
pub type Secrets = BTreeMap<SecretName, SecretValue>;

/// Serialises [`Secrets`] with their values, in hexadecimal: for a request between two of our
/// own processes, and nothing that is kept or shown.
pub mod in_clear {
    use serde::{Deserializer, Serializer, de::Error as _};
    use zeroize::Zeroizing;

    use super::{BTreeMap, Deserialize, SecretName, SecretValue, Secrets, Serialize};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Hex(Zeroizing<String>);

    /// Writes names and values.
    ///
    /// # Errors
    /// The serialiser's.
    pub fn serialize<S: Serializer>(secrets: &Secrets, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(secrets.iter().map(|(name, value)| (name, encode(value.expose()))))
    }

    /// Reads names and values.
    ///
    /// # Errors
    /// The deserialiser's, or on odd digits; the text is not repeated.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secrets, D::Error> {
        let texts = BTreeMap::<SecretName, Hex>::deserialize(from)?;
        let values = texts.into_iter().map(|(name, text)| {
            let bytes = decode(&text.0).ok_or_else(|| D::Error::custom("a value is no hex"))?;
            Ok((name, SecretValue::new(bytes)))
        });
        values.collect()
    }

    fn encode(bytes: &[u8]) -> Hex {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
        for byte in bytes {
            text.push(DIGITS[usize::from(byte >> 4)].into());
            text.push(DIGITS[usize::from(byte & 15)].into());
        }
        Hex(text)
    }

    fn decode(text: &str) -> Option<Vec<u8>> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut bytes = Vec::with_capacity(pairs.len());
        for [high, low] in pairs {
            bytes.push(digit(*high)? << 4 | digit(*low)?);
        }
        rest.is_empty().then_some(bytes)
    }
}

#[cfg(test)]
mod tests;
