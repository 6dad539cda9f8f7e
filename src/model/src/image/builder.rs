//! Who builds an image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Unknown;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuilderChoice {
    /// Nix where it can build the image; for mvm's own image set else the embedded builder.
    #[default]
    Auto,
    /// Nix or nobody.
    Nix,
    /// The embedded builder or nobody.
    Embedded,
}

impl FromStr for BuilderChoice {
    type Err = Unknown;
    fn from_str(text: &str) -> Result<Self, Unknown> {
        match text {
            "auto" => Ok(Self::Auto),
            "nix" => Ok(Self::Nix),
            "embedded" => Ok(Self::Embedded),
            _ => Err(Unknown {
                what: "builder",
                given: text.chars().take(40).collect(),
                known: "auto, nix, embedded",
            }),
        }
    }
}

impl fmt::Display for BuilderChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Nix => "nix",
            Self::Embedded => "embedded",
        })
    }
}

/// Who did it; the word a revision's manifest has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builder {
    /// Nix.
    Nix,
    /// The embedded builder.
    Embedded,
    /// Somebody else: the files were imported.
    Import,
}

impl fmt::Display for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nix => "nix",
            Self::Embedded => "embedded",
            Self::Import => "import",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_the_same_word_everywhere() {
        for choice in [BuilderChoice::Auto, BuilderChoice::Nix, BuilderChoice::Embedded] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
            assert_eq!(serde_json::to_string(&choice).unwrap(), format!("\"{choice}\""));
        }
        assert!("docker".parse::<BuilderChoice>().is_err());
    }
}
