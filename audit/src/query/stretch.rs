//! Reading a log by leaf index, up to a signed size: what exports, evidence and verification stand on.
//!
//! INVARIANT: below a checkpoint's size a log does not change, so that leaf indexes are a cursor that neither skips nor
//! repeats, whatever is written meanwhile.

use serde::{Deserialize, Serialize};
use signet_spool::{Opening, Record};
use sqlx::postgres::PgRow;
use sqlx::{FromRow as _, PgPool, QueryBuilder, Row as _};
use uuid::Uuid;

use super::filter::{Filter, push_time};
use super::{QueryError, TailCursor};
use crate::merkle::{Hash, leaf_hash};
use crate::note::{Checkpoint, VerifierKey};
use crate::store::compact::{Dangling, Reader, STORED, StoredRow, personal};

/// What of one log an answer covers: leaves `from .. to`, under a checkpoint of `size >= to` leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    /// Origin of the log.
    pub log: String,
    /// First leaf.
    pub from: u64,
    /// The leaf after the last.
    pub to: u64,
    /// Size of the tree that the checkpoint signs.
    pub size: u64,
    /// The signed note.
    pub checkpoint: String,
    /// C2SP verifier key, as the store names it. Whoever checks has it from elsewhere.
    pub verifier_key: String,
}

impl Stretch {
    /// Its checkpoint, when `key` signed it and it covers the stretch.
    ///
    /// # Errors
    /// What does not hold, as a sentence in which `claimant` made the claim: `the export`.
    pub fn open(&self, key: &VerifierKey, claimant: &str) -> Result<Checkpoint, String> {
        let checkpoint = key.open_checkpoint(&self.checkpoint).map_err(|error| error.to_string())?;
        if checkpoint.size == self.size && self.from <= self.to && self.to <= self.size {
            return Ok(checkpoint);
        }
        Err(format!("it signs {} leaves, {claimant} claims {}", checkpoint.size, self.to))
    }
}

/// A record as the store keeps it, with its place.
#[derive(Debug, Clone)]
pub struct StoredRecord {
    /// Place in the log.
    pub leaf_index: u64,
    /// The record, decoded from its canonical bytes.
    pub record: Record,
    /// What the Merkle tree holds.
    pub canonical: Vec<u8>,
    /// What opens its commitments; fewer when personal values were erased.
    pub openings: Vec<Opening>,
    /// The producer's spool.
    pub epoch: Uuid,
    /// Its number there.
    pub sequence: i64,
    /// When the audit service took it, Unix microseconds.
    pub received_at_us: i64,
}

impl StoredRecord {
    /// Its Merkle leaf.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        leaf_hash(&self.canonical)
    }
}

/// A signed note with the lines of the witnesses that cosigned it, and the size that it signs.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct CosignedCheckpoint {
    /// Leaves.
    #[sqlx(try_from = "i64")]
    pub size: u64,
    /// The note.
    pub note: String,
}

/// A checkpoint of a log that covers a leaf: the newest of the last twenty that a witness cosigned, else the newest.
///
/// # Errors
/// When the store does not answer.
pub async fn cosigned_checkpoint(
    pool: &PgPool,
    log: &str,
    leaf: u64,
) -> Result<Option<CosignedCheckpoint>, QueryError> {
    let found = sqlx::query_as(
        "SELECT size, note || COALESCE(lines, '') AS note FROM (
             SELECT c.size, c.note, (SELECT string_agg(s.line, '' ORDER BY s.witness) FROM signet.cosignatures s
                                     WHERE s.log_id = c.log_id AND s.size = c.size) AS lines
             FROM signet.checkpoints c
             WHERE c.log_id = (SELECT id FROM signet.logs WHERE origin = $1) AND c.size > $2
             ORDER BY c.size DESC LIMIT 20) AS newest
         ORDER BY lines IS NULL, size DESC LIMIT 1",
    )
    .bind(super::without_nul(log))
    .bind(crate::store::signed(leaf))
    .fetch_optional(pool)
    .await?;
    Ok(found)
}

/// The newest signed state of each log (or of `only`), from where `after` ends.
///
/// # Errors
/// When the store does not answer.
pub async fn stretches(pool: &PgPool, only: Option<&str>, after: &TailCursor) -> Result<Vec<Stretch>, QueryError> {
    let logs = super::logs(pool).await?;
    let wanted = logs.into_iter().filter(|log| only.is_none_or(|only| only == log.origin));
    Ok(wanted
        .filter_map(|log| {
            let size = log.checkpoint_size?.unsigned_abs();
            let from = after.of(&log.origin).unwrap_or(0).min(size);
            let (checkpoint, verifier_key) = (log.checkpoint?, log.verifier_key);
            Some(Stretch { log: log.origin, from, to: size, size, checkpoint, verifier_key })
        })
        .collect())
}

/// The records of leaves `from .. to` of a log that match, by leaf index. `kinds` are names such as `decision`; none
/// means all.
///
/// # Errors
/// When the store does not answer, or stored bytes do not decode.
pub async fn records(
    pool: &PgPool,
    filter: &Filter,
    kinds: &[String],
    log: &str,
    from: u64,
    to: u64,
) -> Result<Vec<StoredRecord>, QueryError> {
    let mut query = QueryBuilder::new(
        "SELECT epoch, sequence, (extract(epoch FROM received_at) * 1000000)::bigint AS received_at_us, ",
    );
    query.push(STORED).push(" FROM signet.entries WHERE");
    place(&mut query, log, from, to);
    filter.push(&mut query);
    if !kinds.is_empty() {
        query.push(" AND kind = ANY(").push_bind(kinds.to_vec()).push(")");
    }
    query.push(" ORDER BY leaf_index");
    let mut connection = pool.acquire().await?;
    let rows = query.build().fetch_all(&mut *connection).await?;
    let stored = rows.iter().map(StoredRow::from_row).collect::<Result<Vec<_>, _>>()?;
    let rebuilt = Reader::default().canonical(&mut connection, &stored).await?;
    rows.iter().zip(stored).zip(rebuilt).map(|((row, stored), canonical)| record(row, &stored, canonical)).collect()
}

/// The first leaf of a log whose record was made at or after `from_us` (Unix microseconds); nothing when there is none.
/// Later leaves may be of an earlier time: records of a producer that was cut off come late.
///
/// # Errors
/// When the store does not answer.
pub async fn first_since(pool: &PgPool, log: &str, from_us: i64) -> Result<Option<u64>, QueryError> {
    let mut query = QueryBuilder::new("SELECT min(leaf_index) FROM signet.entries WHERE");
    place(&mut query, log, 0, u64::MAX);
    query.push(" AND time >= ");
    push_time(&mut query, from_us);
    let first: Option<i64> = query.build_query_scalar().fetch_one(pool).await?;
    Ok(first.map(i64::unsigned_abs))
}

/// The leaves of `from .. to` that have no row, as ranges; none in a whole log. At most 100 ranges.
///
/// # Errors
/// When the store does not answer.
pub async fn missing(pool: &PgPool, log: &str, from: u64, to: u64) -> Result<Vec<(u64, u64)>, QueryError> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM signet.entries WHERE");
    place(&mut query, log, from, to);
    let there: i64 = query.build_query_scalar().fetch_one(pool).await?;
    if there.unsigned_abs() == to.saturating_sub(from) {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::new("SELECT before + 1, leaf_index FROM (SELECT leaf_index, lag(leaf_index, 1, ");
    query.push_bind(crate::store::signed(from) - 1);
    query.push("::bigint) OVER (ORDER BY leaf_index) AS before FROM (SELECT leaf_index FROM signet.entries WHERE");
    place(&mut query, log, from, to);
    query.push(" UNION ALL SELECT ").push_bind(crate::store::signed(to));
    query.push("::bigint) AS there) AS pairs WHERE leaf_index > before + 1 ORDER BY leaf_index LIMIT 100");
    let ranges: Vec<(i64, i64)> = query.build_query_as().fetch_all(pool).await?;
    Ok(ranges.into_iter().map(|(first, end)| (first.unsigned_abs(), end.unsigned_abs())).collect())
}

fn place(query: &mut QueryBuilder<sqlx::Postgres>, log: &str, from: u64, to: u64) {
    query
        .push(" log_id = (SELECT id FROM signet.logs WHERE origin = ")
        .push_bind(super::without_nul(log).into_owned())
        .push(") AND leaf_index >= ")
        .push_bind(crate::store::signed(from))
        .push(" AND leaf_index < ")
        .push_bind(crate::store::signed(to));
}

fn record(row: &PgRow, stored: &StoredRow, canonical: Result<Vec<u8>, Dangling>) -> Result<StoredRecord, QueryError> {
    let undecodable = |why: String| QueryError::Undecodable { id: stored.id, why };
    let canonical = canonical.map_err(|error| undecodable(error.to_string()))?;
    let openings = personal::openings(&stored.personal);
    let record = Record::decode(&canonical, &openings).map_err(|error| undecodable(error.to_string()))?;
    Ok(StoredRecord {
        leaf_index: stored.as_row().leaf_index.unsigned_abs(),
        record,
        canonical,
        openings,
        epoch: row.try_get("epoch")?,
        sequence: row.try_get("sequence")?,
        received_at_us: row.try_get("received_at_us")?,
    })
}
