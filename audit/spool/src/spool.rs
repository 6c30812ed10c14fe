//! A durable spool of records in one directory.

use std::path::PathBuf;

use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// When a record counts as kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On stable storage before `append` returns.
    Sync,
    /// Written before `append` returns (survives the death of the process), on stable storage within 50 ms.
    #[default]
    Disk,
    /// Written, never forced to stable storage.
    Memory,
}

/// What happens when the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// `append` fails, and the caller denies.
    #[default]
    Deny,
    /// `append` succeeds and counts; a gap record with the count follows when there is space again.
    Allow,
}

/// Where and how a spool keeps records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolConfig {
    /// A directory of this producer alone; made if absent.
    pub dir: PathBuf,
    /// When a record counts as kept.
    #[serde(default)]
    pub durability: Durability,
    /// What happens when the spool is full.
    #[serde(default)]
    pub on_full: OnFull,
    /// The most that the files of the spool may take, bytes. At least 256 KiB.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: u64,
}

fn default_max_bytes() -> u64 {
    256 * 1024 * 1024
}

/// Why a record was not kept, or a spool not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// No space, and `on_full` is `deny`.
    #[error("the spool is full: the audit service has not acknowledged enough; see its health, or raise `max_bytes`")]
    Full,
    /// Another process has the directory.
    #[error("the spool directory `{0}` is in use by another process; give each producer a directory of its own")]
    Locked(PathBuf),
    /// A write or fsync failed; the spool takes no more records until the process is restarted.
    #[error("the spool failed and takes no more records: {0}")]
    Failed(String),
    /// The spool was closed.
    #[error("the spool is closed")]
    Closed,
    /// A file operation while opening failed.
    #[error("cannot {doing} `{path}`: {why}")]
    Open { doing: &'static str, path: PathBuf, why: String },
    /// The configuration makes no sense.
    #[error("spool configuration: {0}")]
    Config(String),
    /// No random salt could be had.
    #[error(transparent)]
    Random(#[from] crate::commitment::RandomError),
}

/// Counters and levels of a spool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpoolStats {
    /// Records appended since the spool was opened.
    pub appended: u64,
    /// Records handed to the audit service, repeats included.
    pub shipped: u64,
    /// Records acknowledged as committed.
    pub acked: u64,
    /// Records in the spool that are not acknowledged.
    pub unacked: u64,
    /// Bytes that the files take.
    pub bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Appends that met a full spool, refused or not kept.
    pub full: u64,
    /// Age of the oldest record that is not acknowledged, seconds.
    pub oldest_unacked_seconds: f64,
    /// Failed fsyncs.
    pub fsync_failures: u64,
    /// Why the spool takes no more records, if so.
    pub failed: Option<String>,
}

/// Handle to a spool; clones share it.
#[derive(Clone)]
pub struct Spool {}

impl Spool {
    /// Opens the spool in `config.dir` for `producer` (a SPIFFE ID), recovers what an earlier opening left, and
    /// starts a new epoch. Blocks on file operations.
    ///
    /// # Errors
    /// When the directory is in use or cannot be read or written.
    pub fn open(config: SpoolConfig, producer: &str) -> Result<Self, SpoolError> {
        let _ = (config, producer);
        Err(SpoolError::Closed)
    }

    /// Keeps a record. Thread-safe; blocks for microseconds, with [`Durability::Sync`] for an fsync.
    ///
    /// # Errors
    /// When the record was not kept: the caller must deny.
    pub fn append(&self, record: &Record) -> Result<(), SpoolError> {
        let _ = record;
        Err(SpoolError::Closed)
    }

    /// As [`Spool::append`], for async callers: with [`Durability::Sync`] it waits without blocking the thread.
    ///
    /// # Errors
    /// When the record was not kept: the caller must deny.
    pub async fn append_async(&self, record: &Record) -> Result<(), SpoolError> {
        self.append(record)
    }

    /// Takes no more records, forces what is there to stable storage and marks the epoch closed. Idempotent.
    ///
    /// # Errors
    /// When the last records could not be forced to stable storage.
    pub fn close(&self) -> Result<(), SpoolError> {
        Err(SpoolError::Closed)
    }

    /// Waits until everything is acknowledged, at most `limit`; `true` when it is. Something must be running
    /// [`crate::ship`] meanwhile. What is left stays on disk for the next opening.
    pub async fn drain(&self, limit: std::time::Duration) -> bool {
        let _ = limit;
        false
    }

    /// Counters and levels now.
    #[must_use]
    pub fn stats(&self) -> SpoolStats {
        SpoolStats::default()
    }

    /// Registers the metrics `signet_spool_*`.
    pub fn register(&self, registry: &mut Registry) {
        let _ = registry;
    }
}
