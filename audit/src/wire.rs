//! Between the wire types of `signet.audit.v1` and those of the spool.

use signet_api::audit;
use signet_spool::Opening;

/// An opening on the wire is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the salt of the opening of field {field} has {length} bytes, it must have 16")]
pub(crate) struct InvalidSalt {
    field: u32,
    length: usize,
}

pub(crate) fn openings(wire: Vec<audit::Opening>) -> Result<Vec<Opening>, InvalidSalt> {
    wire.into_iter()
        .map(|opening| {
            let salt = opening
                .salt
                .as_slice()
                .try_into()
                .map_err(|_| InvalidSalt { field: opening.field, length: opening.salt.len() })?;
            Ok(Opening { field: opening.field, salt, value: opening.value })
        })
        .collect()
}
