//! Whether a flake is mvm's own image set, whose profiles the embedded builder makes too.

use std::fs;
use std::path::Path;

use super::guest::checkout_of_this_program;

/// The flake this program was built beside.
const FLAKE: &str = include_str!("../../../../flake.nix");

/// Whether the flake in `dir` is ours: the very text this program was built with, or that of the
/// checkout it was built in (which may have been edited since). Anything less would build an image
/// somebody did not ask for.
pub fn is_own_flake(dir: &Path) -> bool {
    let same_text = || fs::read_to_string(dir.join("flake.nix")).is_ok_and(|text| text == FLAKE);
    let whole = |dir: &Path| dir.canonicalize().ok();
    let in_checkout = || {
        checkout_of_this_program()
            .is_some_and(|root| whole(&root).is_some_and(|root| whole(dir) == Some(root)))
    };
    same_text() || in_checkout()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_ours_and_a_flake_like_it_is_not() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        assert!(is_own_flake(&root));
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_own_flake(dir.path()));
        fs::write(dir.path().join("flake.nix"), format!("{FLAKE}# mine")).unwrap();
        assert!(!is_own_flake(dir.path()));
        fs::write(dir.path().join("flake.nix"), FLAKE).unwrap();
        assert!(is_own_flake(dir.path()));
    }
}
