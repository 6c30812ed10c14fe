//! The leaves that the rows of a range make, each compared with the stored tile of leaves.

use std::sync::Arc;

use futures::TryStreamExt as _;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::rows::{Malformed, copy_out, parse};
use super::{MAX_PROBLEMS, Problem, whole};
use crate::merkle::{Hash, TILE_WIDTH, sha256};
use crate::query::QueryError;
use crate::store::compact::{Reader, Row};
use crate::store::{MAX_RUN, signed};

/// Leaves of a range: whole tiles.
pub(super) const RANGE: usize = 64 * TILE_WIDTH as usize;

/// What the rows of a range made.
#[derive(Debug)]
pub(super) struct Range {
    /// One for each place; where a row is missing, what the tile says.
    pub(super) leaves: Vec<Hash>,
    pub(super) records: u64,
    pub(super) problems: Vec<Problem>,
}

/// Reads and hashes ranges, over a connection of its own.
pub(super) struct Worker {
    transaction: Transaction<'static, Postgres>,
    log_id: i16,
    /// Lent to the thread that hashes.
    reader: Arc<Reader>,
}

/// A stored tile of leaves, by its index.
type Tile = (i64, Vec<u8>);

/// First leaf, records and epoch of a run.
type Run = (i64, i32, i32);

impl Worker {
    pub(super) fn new(transaction: Transaction<'static, Postgres>, log_id: i16) -> Self {
        Self { transaction, log_id, reader: Arc::default() }
    }

    /// The leaves `from .. to`; `from` begins a tile.
    pub(super) async fn leaves(&mut self, from: u64, to: u64) -> Result<Range, QueryError> {
        let tiles: Vec<Tile> = sqlx::query_as(
            "SELECT tile_index, hashes FROM signet.tiles WHERE log_id = $1 AND level = 0 AND tile_index >= $2 AND tile_index < $3",
        )
        .bind(self.log_id)
        .bind(signed(from / TILE_WIDTH))
        .bind(signed(to.div_ceil(TILE_WIDTH)))
        .fetch_all(&mut *self.transaction)
        .await?;
        let runs: Vec<Run> = sqlx::query_as(
            "SELECT first_leaf, records, epoch_id FROM signet.runs
             WHERE log_id = $1 AND first_leaf > $2 AND first_leaf < $3 ORDER BY first_leaf",
        )
        .bind(self.log_id)
        .bind(signed(from) - signed(MAX_RUN))
        .bind(signed(to))
        .fetch_all(&mut *self.transaction)
        .await?;
        let mut bytes = Vec::with_capacity(RANGE * 256);
        let mut copy = self.transaction.copy_out_raw(&copy_out(self.log_id, from, to)).await?;
        while let Some(message) = copy.try_next().await? {
            bytes.extend_from_slice(&message);
        }
        drop(copy);
        let malformed = |Malformed| QueryError::Store(sqlx::Error::Protocol(Malformed.to_string()));
        let numbers: Vec<_> = parse(&bytes).map_err(malformed)?.iter().map(|row| row.numbers).collect();
        if let Some(reader) = Arc::get_mut(&mut self.reader) {
            reader.resolve(&mut self.transaction, numbers.into_iter()).await?;
        }
        let reader = Arc::clone(&self.reader);
        let hashing = tokio::task::spawn_blocking(move || {
            let rows = parse(&bytes).map_err(malformed)?;
            Ok(hash(&reader, &rows, Stored::new(&tiles, from, to), &runs))
        });
        hashing.await.map_err(|_| QueryError::Store(sqlx::Error::WorkerCrashed))?
    }
}

/// The stored leaves of a range.
struct Stored {
    from: u64,
    leaves: Vec<Option<Hash>>,
    problems: Vec<Problem>,
}

impl Stored {
    fn new(tiles: &[Tile], from: u64, to: u64) -> Self {
        let mut leaves = vec![None; usize::try_from(to - from).unwrap_or(0)];
        let mut problems = Vec::new();
        let width = TILE_WIDTH as usize;
        for (place, slots) in leaves.chunks_mut(width).enumerate() {
            let index = from / TILE_WIDTH + place as u64;
            let found = tiles.iter().find(|(found, _)| found.unsigned_abs() == index);
            let hashes = found.map(|(_, hashes)| hashes.as_chunks::<32>().0).unwrap_or_default();
            if hashes.len() != slots.len() {
                problems.push(Problem::TileDiffers { level: 0, index });
            }
            for (slot, hash) in slots.iter_mut().zip(hashes) {
                *slot = Some(*hash);
            }
        }
        Self { from, leaves, problems }
    }
}

/// A row's leaf.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// None when the row makes no bytes.
    leaf: Option<Hash>,
    id: Uuid,
    epoch_id: i32,
}

fn hash(reader: &Reader, rows: &[Row<'_>], stored: Stored, runs: &[Run]) -> Range {
    let Stored { from, leaves: stored, mut problems } = stored;
    let mut found: Vec<Option<Found>> = vec![None; stored.len()];
    let mut entry = Vec::with_capacity(2048);
    for row in rows {
        let leaf_index = row.leaf_index.unsigned_abs();
        let place = usize::try_from(leaf_index.wrapping_sub(from)).unwrap_or(usize::MAX);
        let Some(slot) = found.get_mut(place) else { continue };
        if slot.is_some() {
            problems.push(Problem::RepeatedRecord { leaf_index });
            continue;
        }
        // The prefix of a leaf (RFC 6962, 2.1).
        entry.clear();
        entry.push(0);
        let leaf = reader.rebuild(row, &mut entry).is_ok().then(|| sha256(&entry));
        *slot = Some(Found { leaf, id: row.id, epoch_id: row.numbers.epoch });
        if let Some(column) = whole::contradiction(reader, row)
            && problems.len() < MAX_PROBLEMS
        {
            problems.push(Problem::ChangedColumn { leaf_index, id: row.id, column });
        }
    }
    let mut leaves = Vec::with_capacity(stored.len());
    let mut missing = None;
    let mut runs = Epochs { runs, from };
    for ((leaf_index, found), stored) in (from..).zip(&found).zip(stored) {
        let Some(found) = found else {
            missing = missing.or(Some(leaf_index));
            // Go on with what the tree has there, so that later changes are named too.
            leaves.push(stored.unwrap_or([0; 32]));
            continue;
        };
        if let Some(expected) = missing.take() {
            problems.push(Problem::MissingRecord { expected, found: leaf_index });
        }
        if (found.leaf.is_none() || found.leaf != stored) && problems.len() < MAX_PROBLEMS {
            problems.push(Problem::ChangedRecord { leaf_index, id: found.id });
        }
        problems.extend(runs.differs(leaf_index, found.epoch_id));
        leaves.push(found.leaf.unwrap_or([0; 32]));
    }
    if let Some(expected) = missing {
        problems.push(Problem::MissingRecord { expected, found: from + leaves.len() as u64 });
    }
    let records = rows.len() as u64;
    Range { leaves, records, problems }
}

/// The epochs that runs say, leaf by leaf.
struct Epochs<'a> {
    runs: &'a [Run],
    from: u64,
}

impl Epochs<'_> {
    /// The problem with the run of a leaf: it is of another epoch than the row. Each run is named once.
    fn differs(&mut self, leaf_index: u64, epoch_id: i32) -> Option<Problem> {
        while let Some(((first_leaf, records, of), rest)) = self.runs.split_first() {
            let end = first_leaf.saturating_add(i64::from(*records)).unsigned_abs();
            if leaf_index >= end.max(self.from) {
                self.runs = rest;
            } else if leaf_index >= first_leaf.unsigned_abs() && *of != epoch_id {
                self.runs = rest;
                return Some(Problem::RunDiffers { first_leaf: *first_leaf });
            } else {
                break;
            }
        }
        None
    }
}
