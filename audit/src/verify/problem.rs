//! What recomputing a log can find.

use serde::Serialize;

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// There is no such log.
    #[error("there is no log of this name")]
    NoSuchLog,
    /// A leaf has no row.
    #[error("record {expected} of the log is missing (the next one is {found})")]
    MissingRecord {
        /// The leaf that should come.
        expected: u64,
        /// The leaf that came.
        found: u64,
    },
    /// Two rows of one leaf.
    #[error("record {leaf_index} of the log is there twice")]
    RepeatedRecord {
        /// The leaf.
        leaf_index: u64,
    },
    /// The row, or a dictionary entry that it names, is not what the tree was made of.
    #[error("record {leaf_index} (`{id}`) was changed: its hash is not in the tree")]
    ChangedRecord {
        /// The leaf.
        leaf_index: u64,
        /// The record.
        id: uuid::Uuid,
    },
    /// A column says another thing than the canonical bytes, of a row that keeps them whole.
    #[error("record {leaf_index} (`{id}`): column `{column}` says another thing than the record's bytes")]
    ChangedColumn {
        /// The leaf.
        leaf_index: u64,
        /// The record.
        id: uuid::Uuid,
        /// Which column.
        column: &'static str,
    },
    /// A tile is not made of the records.
    #[error("tile {index} of level {level} is not made of the records, or missing")]
    TileDiffers {
        /// Its level.
        level: u8,
        /// Its index within the level.
        index: u64,
    },
    /// A producer's sequences are not those that its epoch counts.
    #[error("epoch `{epoch}` says {says} records, {found} of its sequences are stored")]
    EpochDiffers {
        /// The epoch.
        epoch: uuid::Uuid,
        /// Watermark less the missing ones.
        says: i64,
        /// Rows with a sequence up to the watermark.
        found: i64,
    },
    /// A policy bundle is not the one that its digest names.
    #[error("the policy bundle stored as `{digest}` has other files than that digest says")]
    ChangedBundle {
        /// The digest.
        digest: String,
    },
    /// The log is stored under another key.
    #[error("the store says that key `{stored}` signs this log")]
    OtherKey {
        /// What the store says.
        stored: String,
    },
    /// A checkpoint is not signed by the key.
    #[error("the checkpoint of size {size} is not valid: {why}")]
    BadCheckpoint {
        /// Its size.
        size: u64,
        /// What is wrong.
        why: String,
    },
    /// The rows make another root than was signed.
    #[error("the records make another root than the checkpoint of size {size} says")]
    RootDiffers {
        /// Size of the checkpoint.
        size: u64,
    },
    /// A checkpoint of more records than there are.
    #[error("a checkpoint of {signed} records was signed, there are {records}")]
    Behind {
        /// In the checkpoint.
        signed: u64,
        /// Rows.
        records: u64,
    },
    /// A checkpoint that was shown somewhere is not of this history.
    #[error("the log has forked: the checkpoint of size {size} from {place} says another root than the records make")]
    Forked {
        /// Size of the checkpoint.
        size: u64,
        /// Where it was seen.
        place: String,
    },
    /// Somewhere a checkpoint of more records than there are was shown.
    #[error("{place} has a signed checkpoint of {signed} records, there are {records}: the log was cut")]
    Cut {
        /// In the checkpoint.
        signed: u64,
        /// Rows.
        records: u64,
        /// Where it was seen.
        place: String,
    },
    /// A checkpoint that was shown somewhere is not one of this log.
    #[error("the checkpoint from {place} is not valid: {why}")]
    BadSeen {
        /// Where it was seen.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// The log's own size or root is not that of its rows.
    #[error("the log says {size} records and a root that its rows do not make")]
    HeadDiffers {
        /// What the log says.
        size: u64,
    },
    /// A row that claims a place that the log does not have.
    #[error("the row of `{id}` claims to be record {leaf_index}, which lies outside of the log")]
    StrayRecord {
        /// What the row says.
        leaf_index: i64,
        /// The record.
        id: uuid::Uuid,
    },
    /// What says which sequences of which producer the records are does not fit the records.
    #[error("the run of records that begins at {first_leaf} does not fit the records, or the runs beside it")]
    RunDiffers {
        /// First leaf of the run.
        first_leaf: i64,
    },
    /// A dictionary entry was changed; the records that name it are changed with it.
    #[error("entry {id} of dictionary `{table}` is not the one that was stored")]
    ChangedDictionary {
        /// The table.
        table: &'static str,
        /// The entry.
        id: i32,
    },
}
