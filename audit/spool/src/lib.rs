//! What every producer of audit records uses: the record and its frozen canonical encoding, a durable
//! spool on local disk, and the shipper that carries the spool to the audit service.
//!
//! Invariants:
//! - A record whose [`Spool::append`] returned `Ok` is either acknowledged by the audit service or still in
//!   the spool (within what the configured [`Durability`] promises).
//! - A spool that cannot keep a record says so; callers deny. Nothing is dropped in silence.
//! - The canonical encoding of version 1 never changes (`docs/record-encoding.md`).

mod commitment;
mod encoding;
mod metrics;
mod record;
mod refusals;
mod ship;
mod spool;
#[cfg(test)]
mod testing;

pub use commitment::{Opening, RandomError, Salts, commit};
pub use encoding::{
    ContextEntry, DecodeError, Encoded, Fields, MAX_CANONICAL_BYTES, VERSION, context_entries, context_field,
    leaf_hash, list_items, tag,
};
pub use record::{ContextRef, Enforcement, Kind, Record, RecordRef};
pub use refusals::{RefusalAggregator, Refused};
pub use ship::{ship, ship_over};
pub use spool::{Appending, Durability, OnFull, Spool, SpoolConfig, SpoolError, SpoolStats};
