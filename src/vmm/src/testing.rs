//! What unit tests of this crate share.

#[path = "../../../tests/common/skip.rs"]
mod skip;

pub(crate) use skip::skipped_without_root;
