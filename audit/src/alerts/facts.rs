//! Faults that the store shows: to every replica the same.

use std::time::Duration;

use crate::faults::{Cause, Fault, Known};
use crate::store::Store;

/// A clock further away than this from the audit service's is a fault.
const CLOCK_OFFSET_US: i64 = 1_000_000;
/// For how long the clock of a producer counts that has not spoken since, seconds.
const RECENT_SECONDS: i64 = 30;
/// Most faults of a kind.
const MOST: i64 = 200;

/// What the store shows now.
pub(super) async fn read(store: &Store, review_every: Option<Duration>) -> Result<Known, sqlx::Error> {
    let mut known = missing(store).await?;
    known.extend(clocks(store).await?);
    if let Some(every) = review_every {
        known.extend(review(store, every).await?);
    }
    Ok(known)
}

/// Producers that skipped records or fell silent.
async fn missing(store: &Store) -> Result<Known, sqlx::Error> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT producer, sum(missing)::bigint, count(*) FILTER (WHERE NOT closed AND silent_since IS NOT NULL)
         FROM signet.epochs WHERE log_id = $1 AND (missing > 0 OR (NOT closed AND silent_since IS NOT NULL))
         GROUP BY producer ORDER BY producer LIMIT $2",
    )
    .bind(store.log_id())
    .bind(MOST)
    .fetch_all(store.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|(subject, missing, silent)| {
            let detail = format!("{missing} records are missing; {silent} epochs fell silent without being closed");
            (Fault { cause: Cause::Missing, subject }, detail)
        })
        .collect())
}

/// Producers whose clock is off.
async fn clocks(store: &Store) -> Result<Known, sqlx::Error> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT producer, max(clock_offset_us) FROM signet.epochs
         WHERE log_id = $1 AND NOT closed AND abs(clock_offset_us) > $2 AND last_seen > now() - $3 * interval '1 second'
         GROUP BY producer ORDER BY producer LIMIT $4",
    )
    .bind(store.log_id())
    .bind(CLOCK_OFFSET_US)
    .bind(RECENT_SECONDS)
    .bind(MOST)
    .fetch_all(store.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|(subject, offset)| {
            (
                Fault { cause: Cause::Clock, subject },
                format!("{} ms away from the audit service's clock", offset / 1_000),
            )
        })
        .collect())
}

/// Whether the log was reviewed in time; a log that is younger than that is.
async fn review(store: &Store, every: Duration) -> Result<Known, sqlx::Error> {
    let overdue: Option<String> = sqlx::query_scalar(
        "SELECT COALESCE(to_char(max(v.at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), 'never')
         FROM signet.logs l LEFT JOIN signet.reviews v ON v.log_id = l.id WHERE l.id = $1
         GROUP BY l.created_at
         HAVING GREATEST(l.created_at, max(v.at)) < now() - $2 * interval '1 millisecond'",
    )
    .bind(store.log_id())
    .bind(i64::try_from(every.as_millis()).unwrap_or(i64::MAX))
    .fetch_optional(store.pool())
    .await?;
    let fault = |last| {
        (Fault { cause: Cause::Review, subject: store.origin().to_owned() }, format!("the last review was: {last}"))
    };
    Ok(overdue.map(fault).into_iter().collect())
}
