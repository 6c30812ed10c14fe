//! Decisions counted over the last minute, and second by second for the chart.

use std::collections::BTreeMap;

use jiff::Timestamp;
use signet_audit::query::{self, QueryError};
use sqlx::PgPool;

use crate::model::{Encryption, SeriesPoint, Traffic};

const WINDOW_SECONDS: u32 = 60;
/// How far back the chart goes.
const SERIES_SECONDS: i64 = 120;
/// The newest seconds are left out of the chart: not all of their records have arrived.
const SETTLING_SECONDS: i64 = 1;

pub(super) async fn count(pool: &PgPool) -> Result<Traffic, QueryError> {
    let logs = query::posture(pool, WINDOW_SECONDS).await?;
    let sum = |field: fn(&query::Posture) -> i64| logs.iter().map(field).map(natural).sum::<u64>();
    let decisions = sum(|log| log.decisions);
    let carried = sum(|log| log.allowed);
    let encrypted = sum(|log| log.allowed_encrypted);
    Ok(Traffic {
        window_seconds: WINDOW_SECONDS,
        decisions,
        allowed: carried,
        denied: sum(|log| log.denied),
        refused: sum(|log| log.refusals),
        per_second: decisions as f64 / f64::from(WINDOW_SECONDS),
        encryption: Encryption { carried, encrypted, share: (carried > 0).then(|| encrypted as f64 / carried as f64) },
        series: series(pool, Timestamp::now()).await?,
    })
}

/// The unused joins of the view are removed by PostgreSQL's planner.
async fn series(pool: &PgPool, now: Timestamp) -> Result<Vec<SeriesPoint>, QueryError> {
    let end = now.as_second() - SETTLING_SECONDS;
    let start = end - SERIES_SECONDS;
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT floor(extract(epoch FROM time))::bigint AS at,
                COALESCE(sum(count) FILTER (WHERE allow), 0)::bigint AS allowed,
                COALESCE(sum(count) FILTER (WHERE NOT allow), 0)::bigint AS denied
         FROM signet.entries
         WHERE kind IN ('decision', 'refusal') AND time >= to_timestamp($1) AND time < to_timestamp($2)
         GROUP BY at",
    )
    .bind(start as f64)
    .bind(end as f64)
    .fetch_all(pool)
    .await?;
    Ok(fill(start, end, &rows))
}

fn fill(start: i64, end: i64, rows: &[(i64, i64, i64)]) -> Vec<SeriesPoint> {
    let counted: BTreeMap<i64, (i64, i64)> =
        rows.iter().map(|(at, allowed, denied)| (*at, (*allowed, *denied))).collect();
    (start..end)
        .map(|at| {
            let (allowed, denied) = counted.get(&at).copied().unwrap_or_default();
            SeriesPoint { at, allowed: natural(allowed), denied: natural(denied) }
        })
        .collect()
}

fn natural(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn seconds_without_a_decision_are_points_too() {
        let points = fill(10, 13, &[(11, 5, 2)]);
        let seen: Vec<_> = points.iter().map(|point| (point.at, point.allowed, point.denied)).collect();
        assert_eq!(seen, [(10, 0, 0), (11, 5, 2), (12, 0, 0)]);
    }
}
