//! Holding figures against recorded ones: ratios only, because times are the machine's.

use std::collections::BTreeMap;
use std::path::Path;

use mvm_agent::error::{Error, Kind, Result};
use serde::Deserialize;

/// How much worse a ratio may be before it counts.
const MARGIN: f64 = 1.2;

/// Ratios by name; smaller is better.
pub type Ratios = BTreeMap<String, f64>;

/// What of a recorded run is compared.
#[derive(Deserialize)]
struct Recorded {
    ratios: Ratios,
}

/// Compares with a run that `mvm bench --json` wrote.
///
/// # Errors
/// When a ratio is more than a fifth worse, naming all that are, or the file is none.
pub fn check(path: &Path, now: &Ratios) -> Result<()> {
    let name = path.display().to_string();
    let bad = |error: String| {
        Error::new(Kind::Invalid, &name, "this is no recorded benchmark").because(error)
    };
    let bytes = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let recorded: Recorded =
        serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let worse = worse(&recorded.ratios, now);
    match worse.is_empty() {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Failed,
            &name,
            format!("worse than recorded by more than a fifth: {}", worse.join("; ")),
        )
        .hint("measure again on an idle machine before you believe it")),
    }
}

/// What got worse. What was measured only once is no comparison.
fn worse(then: &Ratios, now: &Ratios) -> Vec<String> {
    let line = |(name, then): (&String, &f64)| {
        let now = now.get(name)?;
        (*now > then * MARGIN).then(|| format!("{name}: {now:.2}, was {then:.2}"))
    };
    then.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_allowed_and_more_is_named() {
        let ratios = |values: &[(&str, f64)]| -> Ratios {
            values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        let then = ratios(&[("boot", 1.0), ("wake", 0.5), ("gone", 1.0)]);
        assert!(worse(&then, &ratios(&[("boot", 1.19), ("wake", 0.1), ("new", 9.0)])).is_empty());
        assert_eq!(worse(&then, &ratios(&[("wake", 0.61)])), ["wake: 0.61, was 0.50"]);
    }

    #[test]
    fn a_file_that_is_no_record_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        std::fs::write(&path, r#"{"ratios": {"boot": 1.0}}"#).unwrap();
        assert!(check(&path, &Ratios::from([("boot".into(), 1.1)])).is_ok());
        assert!(check(&path, &Ratios::from([("boot".into(), 1.3)])).is_err());
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(check(&path, &Ratios::new()).unwrap_err().kind, Kind::Invalid);
    }
}
