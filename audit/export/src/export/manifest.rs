//! What an export says of itself: `FILE.manifest.json`, signed for in `FILE.manifest.note`.

use serde::{Deserialize, Serialize};
use signet_audit::query::{Filter, Stretch};

use crate::Format;

/// Version of the manifest.
pub const VERSION: &str = "signet.export/v1";

/// The manifest of one export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: String,
    /// RFC 3339.
    pub made_at: String,
    /// SPIFFE ID of who exported.
    pub by: String,
    /// Name of the file, `-` for standard output.
    pub file: String,
    /// How it is written.
    pub format: Format,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
    /// How many records it has.
    pub records: u64,
    /// What had to match.
    pub filter: Filter,
    /// Which kinds of records; none means all.
    pub kinds: Vec<String>,
    /// What it covers of each log.
    pub logs: Vec<Covered>,
    /// The records of this export in the logs.
    pub accesses: Vec<Access>,
    /// Where the next export begins (`--after`).
    pub next: String,
    /// The file in parts, so that a change in it is located.
    pub chunks: Vec<Chunk>,
}

/// What an export covers of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// Leaves and checkpoint.
    #[serde(flatten)]
    pub stretch: Stretch,
    /// Records in the file.
    pub records: u64,
    /// Leaves without a row in the store: purged, or removed. At most 100 ranges for each 5,000 leaves.
    pub missing: Vec<Missing>,
}

/// Leaves `from .. to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// First leaf.
    pub from: u64,
    /// The leaf after the last.
    pub to: u64,
}

/// The record of an access in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Origin of the log.
    pub log: String,
    /// UUID of the event `audit:export` there.
    pub access_id: String,
}

/// Bytes `offset .. offset + bytes` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
    /// Records in it; none in the frame of a file.
    pub records: u64,
    /// Log and leaf of the first record.
    pub first: (String, u64),
    /// Log and leaf of the last record.
    pub last: (String, u64),
}

impl Manifest {
    /// As it lies beside the file.
    ///
    /// # Errors
    /// Never: a manifest is JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// How many leaves it covers that have no row.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.logs.iter().flat_map(|log| &log.missing).map(|range| range.to.saturating_sub(range.from)).sum()
    }
}
