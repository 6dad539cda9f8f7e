//! What a lock file says, and whether npm did it.
//!
//! npm leaves out an *optional* package without a word when it cannot be had, or when the npm at
//! hand runs on another Node.js than the package likes; the image would depend on that. So the
//! native parts we want are required by name in our `package.json`, all optional ones are left
//! out, and what is required is looked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::super::error::ImageError;
use super::client::NpmError;

#[derive(Deserialize)]
struct Lock {
    packages: BTreeMap<String, Package>,
}

#[derive(Deserialize)]
struct Package {
    #[serde(default)]
    version: String,
    #[serde(default)]
    optional: bool,
    #[serde(default, rename = "devOptional")]
    dev_optional: bool,
    #[serde(default)]
    dev: bool,
}

fn parse(lock: &str) -> Result<Lock, ImageError> {
    serde_json::from_str(lock)
        .map_err(|error| ImageError::Content { what: format!("package-lock.json: {error}") })
}

/// The version of `package` in `lock`.
pub(super) fn version(lock: &str, package: &str) -> Option<String> {
    let mut lock = parse(lock).ok()?;
    Some(lock.packages.remove(&format!("node_modules/{package}"))?.version)
}

/// The packages that must be there, by directory, with their versions.
pub(super) fn wanted(lock: &str) -> Result<BTreeMap<String, String>, ImageError> {
    let packages = parse(lock)?.packages.into_iter();
    let required = |package: &Package| !package.optional && !package.dev && !package.dev_optional;
    let wanted = packages.filter(|(dir, package)| !dir.is_empty() && required(package));
    Ok(wanted.map(|(dir, package)| (dir, package.version)).collect())
}

/// That every one of `wanted` is installed below `work`.
pub(super) fn check(work: &Path, wanted: &BTreeMap<String, String>) -> Result<(), NpmError> {
    for (dir, version) in wanted {
        let text = fs::read(work.join(dir).join("package.json")).unwrap_or_default();
        let found = serde_json::from_slice::<Package>(&text).map(|package| package.version);
        if found.is_ok_and(|found| found == *version) {
            continue;
        }
        return Err(NpmError::Incomplete { package: dir.clone(), version: version.clone() });
    }
    Ok(())
}
