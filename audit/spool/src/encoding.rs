//! The canonical encoding of a record, version 1: frozen, deterministic, strict.
//!
//! `docs/record-encoding.md` describes it byte by byte; a test vector keeps both true.

use crate::commitment::{Opening, RandomError, Salts, digest_bytes};
use crate::record::Record;

/// First byte of every canonical encoding of this version.
pub const VERSION: u8 = 1;

/// The most that an entry of the log may have (C2SP tlog-tiles: 16-bit lengths).
pub const MAX_CANONICAL_BYTES: usize = 65_535;

/// A record as it enters the log, and what opens its commitments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The bytes of the Merkle leaf.
    pub canonical: Vec<u8>,
    /// One for each commitment in `canonical`, by ascending field.
    pub openings: Vec<Opening>,
}

/// Why bytes are not a record of version 1. Offsets count from the first byte of the encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first byte names a version that this decoder does not know.
    #[error("record has version {0}, this decoder reads version {VERSION}")]
    Version(u8),
    /// The encoding is empty or longer than an entry of the log may be.
    #[error("record has {0} bytes, allowed are 1 to {MAX_CANONICAL_BYTES}")]
    Size(usize),
    /// Fewer bytes are left than a length promises.
    #[error("record ends inside the field at byte {0}")]
    Truncated(usize),
    /// Tags do not ascend, or one is repeated.
    #[error("field {tag} at byte {at} is out of order or repeated")]
    Order { tag: u16, at: usize },
    /// A tag that version 1 does not have.
    #[error("field {tag} at byte {at} is unknown to version {VERSION}")]
    UnknownTag { tag: u16, at: usize },
    /// A value that its field does not allow.
    #[error("field {tag} has an invalid value: {why}")]
    Value { tag: u16, why: &'static str },
    /// A field that every record has is absent.
    #[error("field {0} is missing")]
    Missing(u16),
    /// An opening does not open the commitment of its field, or is repeated, out of order or without one.
    #[error("opening of field {field}: {why}")]
    Opening { field: u32, why: &'static str },
}

/// The hash of the Merkle leaf of an entry (RFC 6962, 2.1): `SHA-256(00 || canonical)`.
#[must_use]
pub fn leaf_hash(canonical: &[u8]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(&[0]);
    context.update(canonical);
    digest_bytes(&context.finish())
}

impl Record {
    /// The canonical bytes, and the openings of the personal values in them.
    ///
    /// # Errors
    /// When no random salt can be had.
    pub fn encode(&self, salts: &mut Salts) -> Result<Encoded, RandomError> {
        let _ = salts;
        Err(RandomError)
    }

    /// Reads canonical bytes strictly: what is accepted encodes again to the same bytes (with the same salts).
    /// `openings` may lack any number of openings; those fields are named in [`Record::erased`].
    ///
    /// # Errors
    /// When the bytes are not an encoding of version 1, or an opening does not fit.
    pub fn decode(canonical: &[u8], openings: &[Opening]) -> Result<Self, DecodeError> {
        let _ = openings;
        Err(DecodeError::Size(canonical.len()))
    }
}
