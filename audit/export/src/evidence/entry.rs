//! A record with what proves it: canonical bytes, openings of its personal values, and the path to the root.

use serde::{Deserialize, Serialize};
use signet_audit::merkle::Hash;
use signet_audit::query::StoredRecord;
use signet_spool::{Opening, Record};

/// A line of `entries.jsonl`. Bytes are hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) leaf_index: u64,
    /// What the tree holds: the leaf is SHA-256 of a zero byte and these.
    canonical: String,
    openings: Vec<Opened>,
    /// Leaf to root, RFC 6962.
    proof: Vec<String>,
    // Not in the tree: what the store says of the delivery.
    epoch: String,
    sequence: i64,
    received_at_us: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opened {
    field: u32,
    salt: String,
    value: String,
}

impl Entry {
    pub(super) fn new(stored: &StoredRecord, proof: &[Hash]) -> Self {
        let opened = |opening: &Opening| Opened {
            field: opening.field,
            salt: hex::encode(opening.salt),
            value: hex::encode(&opening.value),
        };
        Self {
            leaf_index: stored.leaf_index,
            canonical: hex::encode(&stored.canonical),
            openings: stored.openings.iter().map(opened).collect(),
            proof: proof.iter().map(hex::encode).collect(),
            epoch: stored.epoch.to_string(),
            sequence: stored.sequence,
            received_at_us: stored.received_at_us,
        }
    }

    /// The record, and its path to the root.
    pub(super) fn open(&self) -> Result<(StoredRecord, Vec<Hash>), String> {
        let canonical = hex::decode(&self.canonical).map_err(|_| "its bytes are not hex".to_owned())?;
        let mut openings = Vec::with_capacity(self.openings.len());
        for opened in &self.openings {
            let salt = hex::decode(&opened.salt).ok().and_then(|salt| salt.try_into().ok());
            let (Some(salt), Ok(value)) = (salt, hex::decode(&opened.value)) else {
                return Err("an opening is not hex, or its salt has another length".to_owned());
            };
            openings.push(Opening { field: opened.field, salt, value });
        }
        let mut proof = Vec::with_capacity(self.proof.len());
        for text in &self.proof {
            let hash = hex::decode(text).ok().and_then(|hash| Hash::try_from(hash).ok());
            proof.push(hash.ok_or_else(|| "a hash of its proof is not 32 bytes of hex".to_owned())?);
        }
        let record = Record::decode(&canonical, &openings).map_err(|error| error.to_string())?;
        let stored = StoredRecord {
            leaf_index: self.leaf_index,
            record,
            canonical,
            openings,
            epoch: self.epoch.parse().map_err(|_| "its epoch is not a UUID".to_owned())?,
            sequence: self.sequence,
            received_at_us: self.received_at_us,
        };
        Ok((stored, proof))
    }
}
