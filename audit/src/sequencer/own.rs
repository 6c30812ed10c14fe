//! The service's own records: gaps and conflicts that it found. They enter the log in the transaction that found them,
//! under an epoch of this process.

use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;
use signet_spool::{Kind, Record, Salts};
use uuid::Uuid;

use super::Prepared;
use crate::merkle::leaf_hash;

/// The epoch of this process as a producer.
#[derive(Debug)]
pub(super) struct OwnEpoch {
    pub(super) producer: String,
    pub(super) epoch: Uuid,
}

impl OwnEpoch {
    pub(super) fn new(producer: &str) -> Self {
        Self { producer: producer.to_owned(), epoch: Uuid::now_v7() }
    }

    /// A record of a jump in a producer's sequence.
    pub(super) fn gap(&self, producer: &str, epoch: Uuid, first: u64, last: u64) -> Record {
        Record {
            kind: Kind::Gap,
            action: "audit:gap".to_owned(),
            reason: "sequence_gap".to_owned(),
            count: last.saturating_sub(first).saturating_add(1),
            detail: Some(
                serde_json::json!({ "epoch": epoch, "first_missing": first, "last_missing": last }).to_string(),
            ),
            ..self.record(producer)
        }
    }

    /// A record of a sequence that came again with other bytes.
    pub(super) fn conflict(&self, producer: &str, epoch: Uuid, sequence: u64, stored: &[u8], came: &[u8]) -> Record {
        Record {
            action: "audit:conflict".to_owned(),
            reason: "conflicting_duplicate".to_owned(),
            detail: Some(
                serde_json::json!({
                    "epoch": epoch, "sequence": sequence,
                    "stored": hex::encode(leaf_hash(stored)), "came": hex::encode(leaf_hash(came)),
                })
                .to_string(),
            ),
            ..self.record(producer)
        }
    }

    fn record(&self, subject: &str) -> Record {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
            id: Uuid::now_v7(),
            time_us: i64::try_from(now.as_micros()).unwrap_or(i64::MAX),
            kind: Kind::Event,
            producer: self.producer.clone(),
            source_spiffe_id: Some(subject.to_owned()),
            tls: "none".to_owned(),
            ..Record::default()
        }
    }
}

/// Encodes a record as its producer would.
pub(crate) fn prepare(record: Record) -> Result<Prepared, signet_spool::RandomError> {
    let encoded = record.encode(&mut Salts::new())?;
    Ok(Prepared {
        leaf: leaf_hash(&encoded.canonical),
        opened: pack(&encoded.openings),
        canonical: encoded.canonical,
        record,
    })
}

/// Openings as `signet.openings` keeps them; empty when there are none.
pub(crate) fn pack(openings: &[signet_spool::Opening]) -> Vec<u8> {
    let openings = openings.iter().cloned().map(Into::into).collect();
    signet_api::audit::Entry { canonical: Vec::new(), openings }.encode_to_vec()
}
