//! What a spool is told, and what it answers when it cannot.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
    /// The most that the files of the spool may take, bytes. At least 1 MiB.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: u64,
}

fn default_max_bytes() -> u64 {
    256 * 1024 * 1024
}

impl SpoolConfig {
    /// A spool in `dir` with the defaults: `disk`, `deny`, 256 MiB.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            durability: Durability::default(),
            on_full: OnFull::default(),
            max_bytes: default_max_bytes(),
        }
    }

    /// Bytes to which a segment is preallocated: small spools have small segments, so that space returns in parts.
    pub(crate) fn segment_bytes(&self) -> u64 {
        (self.max_bytes / 8).clamp(256 * 1024, 4 * 1024 * 1024)
    }

    pub(crate) fn validate(&self) -> Result<(), SpoolError> {
        if self.max_bytes < 1024 * 1024 {
            let found = self.max_bytes;
            return Err(SpoolError::Config(format!("`max_bytes` is {found}; set it to 1048576 or more")));
        }
        Ok(())
    }
}

/// Why a record was not kept, or a spool not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// No space, and `on_full` is `deny`.
    #[error("the spool is full: the audit service has not acknowledged enough; see its health, or raise `max_bytes`")]
    Full,
    /// Another process has the directory.
    #[error("the spool directory `{}` is in use by another process; give each producer a directory of its own", .0.display())]
    Locked(PathBuf),
    /// A write or fsync failed; the spool takes no more records until the process is restarted.
    #[error("the spool failed and takes no more records until a restart: {0}")]
    Failed(String),
    /// The spool was closed.
    #[error("the spool is closed")]
    Closed,
    /// A file operation while opening failed.
    #[error("cannot {doing} `{}`: {why}; check that the directory exists, is writable and has space", .path.display())]
    Open {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        why: String,
    },
    /// The configuration makes no sense.
    #[error("spool configuration: {0}")]
    Config(String),
    /// No random salt could be had.
    #[error(transparent)]
    Random(#[from] crate::commitment::RandomError),
}

impl SpoolError {
    /// For `map_err` while opening.
    pub(crate) fn opening(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Open { doing, path, why: error.to_string() }
    }
}
