//! Lists by keyset, and one record in full.

use sqlx::{PgPool, Postgres, QueryBuilder, Row as _};
use uuid::Uuid;

use super::filter::{Filter, Position, push_time};
use super::rows::{DECISION_COLUMNS, DecisionRow, EVENT_COLUMNS, EventRow, FullRecord};
use super::{InvalidCursor, QueryError};
use crate::store::compact::{Reader, STORED, StoredRow, personal};

/// Most rows of one page.
pub(super) const MAX_PAGE: u32 = 1_000;

/// Rows, newest first, and where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Page<T> {
    /// Newest first.
    pub rows: Vec<T>,
    /// Cursor of the next (older) page; `None` at the end.
    pub next: Option<String>,
}

/// Decisions and refusals that match, newest first. `after` is `next` of an earlier page; `limit` is cut to 1,000.
///
/// # Errors
/// When the cursor is not one, or the store does not answer.
pub async fn decisions(
    pool: &PgPool,
    filter: &Filter,
    after: Option<&str>,
    limit: u32,
) -> Result<Page<DecisionRow>, QueryError> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(DECISION_COLUMNS).push(" FROM signet.entries WHERE kind_code IN (0, 2)");
    let limit = finish(&mut query, filter, after, limit)?;
    let rows: Vec<DecisionRow> = query.build_query_as().fetch_all(pool).await?;
    Ok(page(rows, limit, |row| (row.time_us, row.decision_id)))
}

/// Events and gaps that match, newest first; `filter.source` is the subject, `filter.service` the object, `filter.allow`
/// whether it succeeded.
///
/// # Errors
/// When the cursor is not one, or the store does not answer.
pub async fn events(
    pool: &PgPool,
    filter: &Filter,
    after: Option<&str>,
    limit: u32,
) -> Result<Page<EventRow>, QueryError> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(EVENT_COLUMNS).push(" FROM signet.entries WHERE kind_code IN (1, 3)");
    let limit = finish(&mut query, filter, after, limit)?;
    let rows: Vec<EventRow> = query.build_query_as().fetch_all(pool).await?;
    Ok(page(rows, limit, |row| (row.time_us, row.event_id)))
}

fn finish(
    query: &mut QueryBuilder<Postgres>,
    filter: &Filter,
    after: Option<&str>,
    limit: u32,
) -> Result<u32, InvalidCursor> {
    filter.push(query);
    if let Some(after) = after {
        let position: Position = after.parse()?;
        query.push(" AND (time, id) < (");
        push_time(query, position.time_us);
        query.push(", ").push_bind(position.id).push(")");
    }
    let limit = limit.clamp(1, MAX_PAGE);
    // One row more says whether there is a next page.
    query.push(" ORDER BY time DESC, id DESC LIMIT ").push_bind(i64::from(limit) + 1);
    Ok(limit)
}

fn page<T>(mut rows: Vec<T>, limit: u32, position: impl Fn(&T) -> (i64, Uuid)) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| {
        let (time_us, id) = position(row);
        Position { time_us, id }.to_string()
    });
    Page { rows, next }
}

/// One record (decision, refusal, event or gap) with everything that was recorded; `None` when there is none.
///
/// # Errors
/// When the store does not answer, or the stored bytes do not decode.
pub async fn by_id(pool: &PgPool, id: Uuid) -> Result<Option<FullRecord>, QueryError> {
    let mut connection = pool.acquire().await?;
    let mut query = QueryBuilder::new("SELECT ");
    query
        .push(DECISION_COLUMNS)
        .push(", ")
        .push(STORED)
        .push(
            ", epoch, sequence, (extract(epoch FROM received_at) * 1000000)::bigint AS received_at_us \
             FROM signet.entries WHERE id = ",
        )
        .push_bind(id)
        .push(" ORDER BY time LIMIT 1");
    let Some(row) = query.build().fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let stored: StoredRow = sqlx::FromRow::from_row(&row)?;
    let undecodable = |why: String| QueryError::Undecodable { id, why };
    let mut rebuilt = Reader::default().canonical(&mut connection, std::slice::from_ref(&stored)).await?;
    let canonical = rebuilt.pop().transpose().map_err(|error| undecodable(error.to_string()))?.unwrap_or_default();
    let openings = personal::openings(&stored.personal);
    let record = signet_spool::Record::decode(&canonical, &openings).map_err(|error| undecodable(error.to_string()))?;
    Ok(Some(FullRecord {
        row: sqlx::FromRow::from_row(&row)?,
        record,
        epoch: row.try_get("epoch")?,
        sequence: row.try_get("sequence")?,
        received_at_us: row.try_get("received_at_us")?,
        canonical,
    }))
}
