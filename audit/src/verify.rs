//! Recomputes a log from its rows and compares it with what was signed.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use serde::Serialize;
use signet_policy::BundleSource;
use sqlx::{PgConnection, PgPool};

use crate::merkle::{Edge, Hash, TILE_WIDTH, TileId, leaf_hash};
use crate::note::{Checkpoint, NoteError, VerifierKey};
use crate::query::QueryError;
use crate::store::size_and_root;

mod row;

use row::{ROWS, Row};

/// A checkpoint that someone was shown, to compare the log with: a log that shows two people two histories has forked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it was seen, for the report.
    pub place: String,
    /// The signed note. It must have been taken before the log is verified.
    pub note: String,
}

/// What recomputing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Origin of the log.
    pub log: String,
    /// Rows that were hashed.
    pub records: u64,
    /// Size of the newest checkpoint.
    pub checkpoint_size: Option<u64>,
    /// How many checkpoints were compared with the tree at their size.
    pub checkpoints: u64,
    /// What does not fit; empty when everything does.
    pub problems: Vec<Problem>,
}

impl Verification {
    /// Whether everything fits.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.problems.is_empty()
    }
}

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
    /// The row's bytes are not those that the tree was made of.
    #[error("record {leaf_index} (`{id}`) was changed: its hash is not in the tree")]
    ChangedRecord {
        /// The leaf.
        leaf_index: u64,
        /// The record.
        id: uuid::Uuid,
    },
    /// Columns say another thing than the canonical bytes.
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
}

/// Problems listed; more of them say nothing new.
const MAX_PROBLEMS: usize = 100;

/// Recomputes the log `origin` from all its rows in one snapshot, and compares every checkpoint, every tile, the
/// columns that the record's bytes determine, the producers' sequences and the policy bundles. `key` is the verifier key that the reader
/// trusts; `seen` are checkpoints of this log that others were shown.
///
/// # Errors
/// When the store does not answer.
pub async fn verify(pool: &PgPool, origin: &str, key: &VerifierKey, seen: &[Seen]) -> Result<Verification, QueryError> {
    let mut transaction = pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *transaction).await?;
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *transaction).await?;
    let mut report = Verification {
        log: origin.to_owned(),
        records: 0,
        checkpoint_size: None,
        checkpoints: 0,
        problems: Vec::new(),
    };
    let log: Option<(i16, i64, Vec<u8>, String)> =
        sqlx::query_as("SELECT id, size, root, verifier_key FROM signet.logs WHERE origin = $1")
            .bind(origin)
            .fetch_optional(&mut *transaction)
            .await?;
    let Some((log_id, size, root, stored)) = log else {
        report.problems.push(Problem::NoSuchLog);
        return Ok(report);
    };
    if stored.parse::<VerifierKey>().ok().as_ref() != Some(key) {
        report.problems.push(Problem::OtherKey { stored });
    }
    let notes: Vec<(i64, Vec<u8>, String)> =
        sqlx::query_as("SELECT size, root, note FROM signet.checkpoints WHERE log_id = $1 ORDER BY size")
            .bind(log_id)
            .fetch_all(&mut *transaction)
            .await?;
    let mut signed: BTreeMap<u64, Hash> = BTreeMap::new();
    for (size, root, note) in notes {
        let size = size.unsigned_abs();
        match key.open_checkpoint(&note) {
            Ok(checkpoint) if checkpoint.size == size && root != checkpoint.root => {
                report.problems.push(bad(size, &NoteError::Checkpoint("its column `root` says another one")));
                signed.insert(size, checkpoint.root);
            }
            Ok(checkpoint) if checkpoint.size == size => {
                signed.insert(size, checkpoint.root);
            }
            Ok(_) => report.problems.push(bad(size, &NoteError::Checkpoint("it is of another size"))),
            Err(error) => report.problems.push(bad(size, &error)),
        }
    }
    report.checkpoint_size = signed.keys().next_back().copied();
    let seen = opened(seen, key, &mut report.problems);

    let tiles: Vec<(i16, i64, Vec<u8>)> =
        sqlx::query_as("SELECT level, tile_index, hashes FROM signet.tiles WHERE log_id = $1")
            .bind(log_id)
            .fetch_all(&mut *transaction)
            .await?;
    let mut tiles: Tiles = tiles
        .into_iter()
        .map(|(level, index, hashes)| {
            let tile = TileId { level: u8::try_from(level).unwrap_or(u8::MAX), index: index.unsigned_abs() };
            (tile, hashes.as_chunks::<32>().0.to_vec())
        })
        .collect();

    let mut edge = Edge::default();
    let mut made = Tiles::new();
    let compare = |edge: &Edge, report: &mut Verification| {
        if let Some(root) = signed.get(&edge.size()) {
            report.checkpoints += 1;
            if edge.root() != *root {
                report.problems.push(Problem::RootDiffers { size: edge.size() });
            }
        }
        for (place, checkpoint) in seen.iter().filter(|(_, checkpoint)| checkpoint.size == edge.size()) {
            report.checkpoints += 1;
            if edge.root() != checkpoint.root {
                report.problems.push(Problem::Forked { size: checkpoint.size, place: (*place).to_owned() });
            }
        }
    };
    compare(&edge, &mut report);
    {
        let mut rows = sqlx::query_as::<_, Row>(ROWS).bind(log_id).fetch(&mut *transaction);
        while let Some(row) = rows.try_next().await? {
            if report.problems.len() >= MAX_PROBLEMS {
                return Ok(report);
            }
            report.records += 1;
            let leaf_index = row.leaf_index.unsigned_abs();
            match leaf_index.cmp(&edge.size()) {
                std::cmp::Ordering::Less => {
                    report.problems.push(Problem::RepeatedRecord { leaf_index });
                    continue;
                }
                std::cmp::Ordering::Greater => {
                    report.problems.push(Problem::MissingRecord { expected: edge.size(), found: leaf_index });
                    // Go on with what the tree has there, so that later changes are named too.
                    while edge.size() < leaf_index {
                        let leaf = tile_leaf(&tiles, edge.size()).unwrap_or([0; 32]);
                        edge.append(leaf, &mut made);
                    }
                }
                std::cmp::Ordering::Equal => {}
            }
            let leaf = leaf_hash(&row.canonical);
            if tile_leaf(&tiles, leaf_index) != Some(leaf) {
                report.problems.push(Problem::ChangedRecord { leaf_index, id: row.id });
            }
            if let Some(column) = row.contradiction() {
                report.problems.push(Problem::ChangedColumn { leaf_index, id: row.id, column });
            }
            edge.append(leaf, &mut made);
            // Full ones only: the last tile of a level is compared at the end.
            made.retain(|tile, hashes| {
                let full = !hashes.is_empty();
                if full {
                    compare_tile(&mut tiles, *tile, hashes, &mut report);
                }
                !full
            });
            compare(&edge, &mut report);
        }
    }
    edge.flush(&mut made);
    for (tile, hashes) in &made {
        compare_tile(&mut tiles, *tile, hashes, &mut report);
    }
    // What is left belongs to no tree of these records.
    let left = tiles.keys().map(|tile| Problem::TileDiffers { level: tile.level, index: tile.index });
    report.problems.extend(left.take(MAX_PROBLEMS));
    let epochs: Vec<(uuid::Uuid, i64, i64)> = sqlx::query_as(EPOCHS).bind(log_id).fetch_all(&mut *transaction).await?;
    report.problems.extend(epochs.into_iter().map(|(epoch, says, found)| Problem::EpochDiffers { epoch, says, found }));
    let bundles: Vec<String> =
        sqlx::query_scalar("SELECT digest FROM signet.bundles ORDER BY 1").fetch_all(&mut *transaction).await?;
    for digest in bundles {
        if !bundle_is_whole(&mut transaction, &digest).await? {
            report.problems.push(Problem::ChangedBundle { digest });
        }
    }
    if (edge.size(), edge.root()) != size_and_root((size, root)) {
        report.problems.push(Problem::HeadDiffers { size: size.unsigned_abs() });
    }
    if let Some(signed) = report.checkpoint_size.filter(|signed| *signed > edge.size()) {
        report.problems.push(Problem::Behind { signed, records: edge.size() });
    }
    for (place, checkpoint) in seen.iter().filter(|(_, checkpoint)| checkpoint.size > edge.size()) {
        let (signed, records) = (checkpoint.size, edge.size());
        report.problems.push(Problem::Cut { signed, records, place: (*place).to_owned() });
    }
    Ok(report)
}

/// The checkpoints that `key` signed, with their places; the others are problems.
fn opened<'a>(seen: &'a [Seen], key: &VerifierKey, problems: &mut Vec<Problem>) -> Vec<(&'a str, Checkpoint)> {
    let open = |seen: &'a Seen| match key.open_checkpoint(&seen.note) {
        Ok(checkpoint) => Some((seen.place.as_str(), checkpoint)),
        Err(error) => {
            problems.push(Problem::BadSeen { place: seen.place.clone(), why: error.to_string() });
            None
        }
    };
    seen.iter().filter_map(open).collect()
}

fn bad(size: u64, error: &NoteError) -> Problem {
    Problem::BadCheckpoint { size, why: error.to_string() }
}

type Tiles = BTreeMap<TileId, Vec<Hash>>;

fn tile_leaf(tiles: &Tiles, leaf_index: u64) -> Option<Hash> {
    let place = usize::try_from(leaf_index % TILE_WIDTH).ok()?;
    tiles.get(&TileId { level: 0, index: leaf_index / TILE_WIDTH })?.get(place).copied()
}

/// Compares a tile with the stored one, which is done with then.
fn compare_tile(stored: &mut Tiles, tile: TileId, hashes: &[Hash], report: &mut Verification) {
    if stored.remove(&tile).as_deref() != Some(hashes) && report.problems.len() < MAX_PROBLEMS {
        report.problems.push(Problem::TileDiffers { level: tile.level, index: tile.index });
    }
}

/// Whether the files stored for a bundle make its digest.
async fn bundle_is_whole(connection: &mut PgConnection, digest: &str) -> Result<bool, QueryError> {
    let files: Vec<(String, String)> =
        sqlx::query_as("SELECT path, content FROM signet.bundle_files WHERE digest = $1")
            .bind(digest)
            .fetch_all(connection)
            .await?;
    let source = BundleSource { commit: String::new(), signer: String::new(), files: files.into_iter().collect() };
    Ok(source.digest() == digest)
}

/// Epochs whose rows are not as many as their watermark and their missing sequences say.
const EPOCHS: &str = "SELECT e.epoch, e.watermark - e.missing, count(r.sequence) FROM signet.epochs e \
     LEFT JOIN signet.records r ON r.epoch_id = e.id AND r.log_id = e.log_id AND r.sequence BETWEEN 1 AND e.watermark \
     WHERE e.log_id = $1 GROUP BY e.id HAVING count(r.sequence) <> e.watermark - e.missing ORDER BY e.id LIMIT 100";
