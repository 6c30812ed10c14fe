//! A record that was checked and is ready to be stored.

use signet_spool::{DecodeError, Fields, Opening, RandomError, Record, Salts, tag};

use super::shape::Shape;
use super::{Key, context, key, personal, text_key};
use crate::merkle::{Hash, leaf_hash};

/// A record that was checked and is ready to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) canonical: Vec<u8>,
    /// What opens its commitments, packed.
    pub(crate) personal: Vec<u8>,
    pub(crate) leaf: Hash,
    pub(crate) keys: Keys,
}

/// What of a record is in dictionaries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    pub(crate) source: Option<Key>,
    pub(crate) service: Key,
    pub(crate) shape: Key,
    /// None for an empty context.
    pub(crate) context: Option<Key>,
}

/// Why a record cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error(transparent)]
    Random(#[from] RandomError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Prepared {
    /// Checks canonical bytes and what opens their commitments.
    ///
    /// # Errors
    /// When they are not a record.
    pub(crate) fn check(canonical: Vec<u8>, openings: &[Opening]) -> Result<Self, DecodeError> {
        let fields = Fields::check(&canonical, openings)?;
        let context = fields.get(tag::CONTEXT).filter(|context| !context.is_empty());
        let keys = Keys {
            source: fields.text(tag::SOURCE_SPIFFE_ID).map(text_key),
            service: fields.text(tag::DESTINATION_SERVICE).map(text_key).unwrap_or_default(),
            shape: Shape::of(&fields).map(|shape| shape.key()).unwrap_or_default(),
            context: context.map(|context| key(&context::template(context))),
        };
        let personal = personal::pack(&fields, openings);
        Ok(Self { leaf: leaf_hash(&canonical), personal, keys, canonical })
    }

    /// Encodes a record as its producer would.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub(crate) fn of(record: &Record) -> Result<Self, PrepareError> {
        let encoded = record.encode(&mut Salts::new())?;
        Ok(Self::check(encoded.canonical, &encoded.openings)?)
    }

    /// Its fields.
    pub(crate) fn fields(&self) -> Fields<'_> {
        // INVARIANT: checked when it was made.
        Fields::split(&self.canonical).unwrap_or_default()
    }
}
