//! Recomputes a log from its rows and compares it with what was signed.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use serde::Serialize;
use sqlx::PgPool;

use crate::merkle::{Edge, Hash, leaf_hash};
use crate::note::{Checkpoint, NoteError, VerifierKey};
use crate::query::QueryError;
use crate::store::size_and_root;

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

/// Recomputes the log `origin` from all its rows in one snapshot, and compares every checkpoint, each level-0 tile and
/// the columns that the record's bytes determine. `key` is the verifier key that the reader trusts; `seen` are checkpoints
/// of this log that others were shown.
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
    let log: Option<(i16, i64, Vec<u8>)> = sqlx::query_as("SELECT id, size, root FROM signet.logs WHERE origin = $1")
        .bind(origin)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some((log_id, size, root)) = log else {
        report.problems.push(Problem::NoSuchLog);
        return Ok(report);
    };
    let notes: Vec<(i64, String)> =
        sqlx::query_as("SELECT size, note FROM signet.checkpoints WHERE log_id = $1 ORDER BY size")
            .bind(log_id)
            .fetch_all(&mut *transaction)
            .await?;
    let mut signed: BTreeMap<u64, Hash> = BTreeMap::new();
    for (size, note) in notes {
        let size = size.unsigned_abs();
        match key.open_checkpoint(&note) {
            Ok(checkpoint) if checkpoint.size == size => {
                signed.insert(size, checkpoint.root);
            }
            Ok(_) => report.problems.push(bad(size, &NoteError::Checkpoint("it is of another size"))),
            Err(error) => report.problems.push(bad(size, &error)),
        }
    }
    report.checkpoint_size = signed.keys().next_back().copied();
    let seen = opened(seen, key, &mut report.problems);

    let tiles: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT tile_index, hashes FROM signet.tiles WHERE log_id = $1 AND level = 0 ORDER BY tile_index",
    )
    .bind(log_id)
    .fetch_all(&mut *transaction)
    .await?;
    let tiles: BTreeMap<u64, Vec<Hash>> =
        tiles.into_iter().map(|(index, hashes)| (index.unsigned_abs(), hashes.as_chunks::<32>().0.to_vec())).collect();

    let mut edge = Edge::default();
    let mut changed = BTreeMap::new();
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
                        edge.append(leaf, &mut changed);
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
            edge.append(leaf, &mut changed);
            changed.clear();
            compare(&edge, &mut report);
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

fn tile_leaf(tiles: &BTreeMap<u64, Vec<Hash>>, leaf_index: u64) -> Option<Hash> {
    let place = usize::try_from(leaf_index % 256).ok()?;
    tiles.get(&(leaf_index / 256))?.get(place).copied()
}

const ROWS: &str = "SELECT r.leaf_index, r.id, r.allow, (extract(epoch FROM r.time) * 1000000)::bigint AS time_us, \
     e.producer, s.value AS source, v.value AS service, a.value AS action, p.value AS policies, c.value AS commit, \
     g.value AS digest, n.value AS reason, r.canonical \
     FROM signet.records r \
     LEFT JOIN signet.epochs e ON e.id = r.epoch_id \
     LEFT JOIN signet.identities s ON s.id = r.source_id \
     LEFT JOIN signet.services v ON v.id = r.service_id \
     LEFT JOIN signet.labels a ON a.id = r.action_id \
     LEFT JOIN signet.policy_sets p ON p.id = r.policy_set_id \
     LEFT JOIN signet.labels c ON c.id = r.commit_id \
     LEFT JOIN signet.labels g ON g.id = r.digest_id \
     LEFT JOIN signet.labels n ON n.id = r.reason_id \
     WHERE r.log_id = $1 ORDER BY r.leaf_index";

#[derive(sqlx::FromRow)]
struct Row {
    leaf_index: i64,
    id: uuid::Uuid,
    allow: bool,
    time_us: i64,
    producer: Option<String>,
    source: Option<String>,
    service: Option<String>,
    action: Option<String>,
    policies: Option<String>,
    commit: Option<String>,
    digest: Option<String>,
    reason: Option<String>,
    canonical: Vec<u8>,
}

impl Row {
    /// The first column that says another thing than the canonical bytes.
    fn contradiction(&self) -> Option<&'static str> {
        use crate::query::{TIME_RANGE_US, without_nul};
        let Ok(record) = signet_spool::Record::decode(&self.canonical, &[]) else { return Some("canonical") };
        let policies: Vec<String> = record.policy_ids.iter().map(|id| id.replace('\n', " ")).collect();
        let same = |column: &Option<String>, value: &str| column.as_deref() == Some(without_nul(value).as_str());
        let time_us = record.time_us.clamp(*TIME_RANGE_US.start(), *TIME_RANGE_US.end());
        [
            ("id", self.id == record.id),
            ("allow", self.allow == record.allow),
            ("time", self.time_us == time_us),
            ("producer", same(&self.producer, &record.producer)),
            ("source_spiffe_id", self.source == record.source_spiffe_id.as_deref().map(without_nul)),
            ("destination_service", same(&self.service, &record.destination_service)),
            ("action", same(&self.action, &record.action)),
            ("policy_ids", same(&self.policies, &policies.join("\n"))),
            ("policy_commit", same(&self.commit, &record.policy_commit)),
            ("bundle_digest", same(&self.digest, &record.bundle_digest)),
            ("reason", same(&self.reason, &record.reason)),
        ]
        .into_iter()
        .find_map(|(column, same)| (!same).then_some(column))
    }
}
