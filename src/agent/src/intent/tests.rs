//! Applying declarations to records.
