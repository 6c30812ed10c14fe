//! Recomputes a log from its rows and compares it with what was signed.
//!
//! Rows are read by ranges of leaves on a few connections that share one snapshot ([`leaves`]); their leaves go into the
//! tree in order ([`tree`]). Memory is bounded by a few ranges and the tiles above the leaves, whatever the log's size.

use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use sqlx::{PgPool, Postgres, Transaction};

use crate::note::{Checkpoint, VerifierKey};
use crate::query::QueryError;
use crate::store::size_and_root;

mod leaves;
mod problem;
mod rows;
mod tables;
mod tree;
mod whole;

pub use problem::Problem;

use leaves::{RANGE, Worker};
use tree::Tree;

/// Connections that read and hash at once.
const WORKERS: usize = 2;

/// Problems listed; more of them say nothing new.
const MAX_PROBLEMS: usize = 100;

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

/// Recomputes the log `origin` from all its rows in one snapshot, and compares every checkpoint, every tile, the
/// dictionaries, the producers' sequences and the policy bundles. `key` is the verifier key that the reader trusts; `seen`
/// are checkpoints of this log that others were shown. Takes three connections of the pool.
///
/// # Errors
/// When the store does not answer.
pub async fn verify(pool: &PgPool, origin: &str, key: &VerifierKey, seen: &[Seen]) -> Result<Verification, QueryError> {
    let mut transaction = begin(pool, None).await?;
    let mut problems = Vec::new();
    let log: Option<(i16, i64, Vec<u8>, String)> =
        sqlx::query_as("SELECT id, size, root, verifier_key FROM signet.logs WHERE origin = $1")
            .bind(origin)
            .fetch_optional(&mut *transaction)
            .await?;
    let Some((log_id, size, root, stored)) = log else {
        return Ok(Verification {
            log: origin.to_owned(),
            records: 0,
            checkpoint_size: None,
            checkpoints: 0,
            problems: vec![Problem::NoSuchLog],
        });
    };
    if stored.parse::<VerifierKey>().ok().as_ref() != Some(key) {
        problems.push(Problem::OtherKey { stored });
    }
    let signed = tables::checkpoints(&mut transaction, log_id, key, &mut problems).await?;
    let checkpoint_size = signed.keys().next_back().copied();
    let claimed = size.unsigned_abs().max(checkpoint_size.unwrap_or(0));
    let end = tables::extent(&mut transaction, log_id, claimed, &mut problems).await?;
    let upper = tables::upper_tiles(&mut transaction, log_id).await?;
    tables::stray_tiles(&mut transaction, log_id, end, &mut problems).await?;
    tables::runs(&mut transaction, log_id, end, &mut problems).await?;
    tables::epochs(&mut transaction, log_id, &mut problems).await?;
    tables::dictionaries(&mut transaction, &mut problems).await?;
    tables::bundles(&mut transaction, &mut problems).await?;

    let seen = opened(seen, key, &mut problems);
    let mut tree = Tree::new(upper, signed, &seen);
    let records = recompute(pool, &mut transaction, log_id, end, &mut tree, &mut problems).await?;
    let edge = tree.finish(&mut problems);
    if (edge.size(), edge.root()) != size_and_root((size, root)) {
        problems.push(Problem::HeadDiffers { size: size.unsigned_abs() });
    }
    if let Some(signed) = checkpoint_size.filter(|signed| *signed > edge.size()) {
        problems.push(Problem::Behind { signed, records: edge.size() });
    }
    for (place, checkpoint) in seen.iter().filter(|(_, checkpoint)| checkpoint.size > edge.size()) {
        let (signed, records) = (checkpoint.size, edge.size());
        problems.push(Problem::Cut { signed, records, place: (*place).to_owned() });
    }
    problems.truncate(MAX_PROBLEMS);
    Ok(Verification { log: origin.to_owned(), records, checkpoint_size, checkpoints: tree.compared(), problems })
}

/// Hashes all rows and puts their leaves into the tree; how many rows there were.
async fn recompute(
    pool: &PgPool,
    transaction: &mut Transaction<'static, Postgres>,
    log_id: i16,
    end: u64,
    tree: &mut Tree<'_>,
    problems: &mut Vec<Problem>,
) -> Result<u64, QueryError> {
    let snapshot: String = sqlx::query_scalar("SELECT pg_export_snapshot()").fetch_one(&mut **transaction).await?;
    let workers = parking_lot::Mutex::new(Vec::new());
    for _ in 0..WORKERS {
        let worker = Worker::new(begin(pool, Some(&snapshot)).await?, log_id);
        workers.lock().push(worker);
    }
    let mut ranges = futures::stream::iter((0..end).step_by(RANGE))
        .map(|from| {
            let to = end.min(from + RANGE as u64);
            let workers = &workers;
            async move {
                // INVARIANT: `buffered` polls as many at once as there are workers.
                let Some(mut worker) = workers.lock().pop() else { return Err(sqlx::Error::PoolTimedOut.into()) };
                let leaves = worker.leaves(from, to).await;
                workers.lock().push(worker);
                leaves
            }
        })
        .buffered(WORKERS);
    let mut records = 0;
    while let Some(range) = ranges.try_next().await? {
        records += range.records;
        problems.extend(range.problems);
        tree.append(&range.leaves, problems);
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    Ok(records)
}

/// A transaction that reads one state of the database: its own, or the exported one.
async fn begin(pool: &PgPool, snapshot: Option<&str>) -> Result<Transaction<'static, Postgres>, QueryError> {
    let mut transaction = pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *transaction).await?;
    if let Some(snapshot) = snapshot {
        // PostgreSQL made the name: hexadecimal digits and hyphens. A bound value is not allowed here.
        let statement = format!("SET TRANSACTION SNAPSHOT '{}'", snapshot.replace('\'', ""));
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *transaction).await?;
    }
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *transaction).await?;
    Ok(transaction)
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
