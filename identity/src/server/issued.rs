//! The newest SVID of each SPIFFE ID, for operators; written down now and then, so that a restart does not forget.

use std::{collections::BTreeMap, path::PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use signet_api::identity as api;

use crate::{
    ca::Minted,
    store::{self, StoreError},
};

/// Above this, expired ones are forgotten first, then the ones that end first.
const MAX_ROWS: usize = 50_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    serial: String,
    not_before: i64,
    not_after: i64,
    agent: String,
    total: u64,
}

#[derive(Debug, Default)]
struct Index {
    rows: BTreeMap<String, Row>,
    dirty: bool,
}

/// The index.
#[derive(Debug)]
pub(crate) struct Issued {
    path: PathBuf,
    index: Mutex<Index>,
}

impl Issued {
    /// Reads the index of earlier starts; a damaged one is started afresh, as nothing depends on it.
    pub(crate) fn open(path: PathBuf) -> Self {
        let rows = store::read_json(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the index of issued SVIDs starts afresh");
            None
        });
        Self { path, index: Mutex::new(Index { rows: rows.unwrap_or_default(), dirty: false }) }
    }

    /// Notes an SVID that was signed; `agent` asked for it, empty for the server itself.
    pub(crate) fn note(&self, minted: &Minted, agent: &str, now: i64) {
        let mut index = self.index.lock();
        index.dirty = true;
        let total = index.rows.get(minted.id.as_str()).map_or(0, |row| row.total) + 1;
        if index.rows.len() >= MAX_ROWS && total == 1 {
            index.rows.retain(|_, row| row.not_after > now);
            if index.rows.len() >= MAX_ROWS
                && let Some(first) = index.rows.iter().min_by_key(|(_, row)| row.not_after).map(|(id, _)| id.clone())
            {
                index.rows.remove(&first);
            }
        }
        let row = Row {
            serial: minted.serial.clone(),
            not_before: minted.not_before,
            not_after: minted.not_after,
            agent: agent.to_owned(),
            total,
        };
        index.rows.insert(minted.id.to_string(), row);
    }

    /// The rows, by SPIFFE ID.
    pub(crate) fn list(&self) -> Vec<api::IssuedSvid> {
        let index = self.index.lock();
        let rows = index.rows.iter().map(|(spiffe_id, row)| api::IssuedSvid {
            spiffe_id: spiffe_id.clone(),
            serial: row.serial.clone(),
            not_before: row.not_before,
            not_after: row.not_after,
            agent: row.agent.clone(),
            issued_total: row.total,
        });
        rows.collect()
    }

    /// When the first of the live SVIDs ends.
    pub(crate) fn first_expiry(&self, now: i64) -> Option<i64> {
        self.index.lock().rows.values().map(|row| row.not_after).filter(|end| *end > now).min()
    }

    /// Writes the index if it changed.
    ///
    /// # Errors
    /// With the file.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let rows = {
            let mut index = self.index.lock();
            if !std::mem::take(&mut index.dirty) {
                return Ok(());
            }
            index.rows.clone()
        };
        store::write_json(&self.path, &rows)
    }
}
