//! A record as a small row, and the row as the record's canonical bytes again.
//!
//! What repeats is a number of a dictionary: identities, services, [`shape`]s (what all calls of one kind have in common)
//! and [`context`]s (the values that a policy could read). What opens commitments is packed ([`personal`]); the commitments
//! themselves are computed from it. [`Reader::rebuild`] makes the canonical bytes of all that.
//!
//! INVARIANT: what cannot be rebuilt to the very bytes that came is kept whole, in `rest`
//! ([decision 41](../../../docs/decisions/0041-compact-rows.md)). So a change of a row, or of a dictionary entry that it
//! names, is a change of its leaf.

pub(crate) mod context;
pub(crate) mod personal;
mod prepared;
mod reader;
mod rest;
mod row;
pub(crate) mod shape;

pub(crate) use prepared::{PrepareError, Prepared};
pub(crate) use reader::{Dangling, Reader};
pub(crate) use rest::Rest;
pub(crate) use row::{Numbers, Row, STORED, StoredRow, count};

use crate::query::without_nul;

/// What identifies a value in its dictionary: the start of the SHA-256 of what is stored.
pub(crate) type Key = [u8; 16];

/// The key of what is stored.
pub(crate) fn key(stored: &[u8]) -> Key {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, stored);
    let mut key = [0; 16];
    for (to, from) in key.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    key
}

/// The key of a text, as its dictionary keeps it.
pub(crate) fn text_key(text: &str) -> Key {
    key(without_nul(text).as_bytes())
}
