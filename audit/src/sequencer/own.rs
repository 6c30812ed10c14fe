//! The service's own records: gaps and conflicts that it found. They enter the log in the transaction that found them,
//! under an epoch of this process.

use std::time::{SystemTime, UNIX_EPOCH};

use signet_spool::{Kind, Record};
use uuid::Uuid;

use crate::merkle::Hash;

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
    pub(super) fn conflict(&self, producer: &str, epoch: Uuid, sequence: u64, stored: &Hash, came: &Hash) -> Record {
        Record {
            action: "audit:conflict".to_owned(),
            reason: "conflicting_duplicate".to_owned(),
            detail: Some(
                serde_json::json!({
                    "epoch": epoch, "sequence": sequence,
                    "stored": hex::encode(stored), "came": hex::encode(came),
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
