//! Which distribution and architecture this host is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A CPU architecture mvm knows, of the host and therefore of its guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// The architecture this program was compiled for.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// The distribution's word for it (`amd64`, `arm64`).
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The kernel's and Rust's word for it (`x86_64`, `aarch64`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A distribution whose packages mvm knows how to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distro {
    /// Debian 12 and 13.
    Debian,
    /// Ubuntu 24.04.
    Ubuntu,
}

impl Distro {
    /// How the distribution signs its own archives (`Origin:` of its Release files).
    pub fn origin(self) -> &'static str {
        match self {
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
        }
    }
}

/// What `/etc/os-release` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Os {
    /// The distribution, when it is one we know.
    pub distro: Option<Distro>,
    /// Its name for people: `Debian GNU/Linux 12 (bookworm)`.
    pub pretty: String,
    /// Its version: `12`, `24.04`.
    pub version: String,
}

impl Os {
    /// Reads `/etc/os-release` (or `/usr/lib/os-release`); a host without either is unknown.
    pub fn detect() -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| std::fs::read_to_string(Path::new(path)).ok());
        Self::parse(&text.unwrap_or_default())
    }

    /// The host described by the text of an os-release file.
    pub fn parse(text: &str) -> Self {
        let fields = fields(text);
        let get = |key: &str| fields.get(key).cloned().unwrap_or_default();
        let (id, version) = (get("ID"), get("VERSION_ID"));
        let distro = match (id.as_str(), version.as_str()) {
            ("debian", "12" | "13") => Some(Distro::Debian),
            ("ubuntu", "24.04") => Some(Distro::Ubuntu),
            _ => None,
        };
        let pretty = Some(get("PRETTY_NAME")).filter(|name| !name.is_empty());
        Self { distro, pretty: pretty.unwrap_or_else(|| "an unknown system".into()), version }
    }
}

/// `KEY=value`, `KEY="value"` and `KEY='value'` lines; others are ignored.
fn fields(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (key, value) = line.trim().split_once('=')?;
        let value = value.trim();
        let inner = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
        Some((key.to_owned(), inner.unwrap_or(value).to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_supported_systems_are_recognised() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian";
        assert_eq!(Os::parse(debian).distro, Some(Distro::Debian));
        assert_eq!(Os::parse(debian).pretty, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(Os::parse("ID=debian\nVERSION_ID=13").distro, Some(Distro::Debian));
        assert_eq!(Os::parse("ID='ubuntu'\nVERSION_ID='24.04'").distro, Some(Distro::Ubuntu));
    }

    #[test]
    fn other_systems_and_versions_are_not_guessed() {
        for text in
            ["", "ID=fedora\nVERSION_ID=40", "ID=debian\nVERSION_ID=11", "ID=debian", "=\n\"\nID"]
        {
            assert_eq!(Os::parse(text).distro, None, "{text:?}");
        }
        assert_eq!(Os::parse("").pretty, "an unknown system");
    }
}
