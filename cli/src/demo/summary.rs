//! What a timed demo came to: the calls that the load generator made beside the records that PostgreSQL holds of them.
//!
//! The load generator counts calls by itself and marks them with its trace ids; the records are counted by a query. Neither
//! knows of the other, so that a lost, doubled or missing record shows.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use sqlx::PgPool;

use super::plan::NAMESPACE;
use crate::failure::{Failure, ResultExt};

/// Records of the last calls may still be on their way.
const SETTLE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct Stats {
    trace_prefix: String,
    finished: bool,
    rows: BTreeMap<String, Row>,
}

#[derive(Deserialize)]
struct Row {
    source: String,
    destination: String,
    action: String,
    expect: String,
    cross_cluster: bool,
    traced: bool,
    calls: u64,
    as_expected: u64,
    last_unexpected: Option<String>,
    /// Another row's call that each of these calls makes in its turn, under the same trace.
    makes: Option<String>,
}

/// The totals, and each line that does not add up.
pub(crate) struct Summary {
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) cross_cluster: u64,
    pub(crate) records: i64,
    pub(crate) problems: Vec<String>,
}

/// Waits until the records have arrived, at most a few seconds, then compares.
pub(crate) async fn summarise(stats: &Path, dsn: &str) -> Result<Summary, Failure> {
    let text = std::fs::read_to_string(stats).failed("the load generator left no counts", "see its log")?;
    let stats: Stats =
        serde_json::from_str(&text).failed("the load generator's counts cannot be read", "see its log")?;
    let pool = PgPool::connect(dsn).await.unreachable("cannot count the records in PostgreSQL", "see its log")?;
    let deadline = Instant::now() + SETTLE;
    loop {
        let summary = compare(&stats, &pool).await?;
        if summary.problems.is_empty() || Instant::now() >= deadline {
            return Ok(summary);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn compare(stats: &Stats, pool: &PgPool) -> Result<Summary, Failure> {
    let failed =
        |error: sqlx::Error| Failure::failed(format!("cannot count the records: {error}")).next("see PostgreSQL's log");
    let records = sqlx::query_scalar("SELECT count(*) FROM decisions").fetch_one(pool).await.map_err(failed)?;
    let mut summary = Summary { allowed: 0, denied: 0, cross_cluster: 0, records, problems: Vec::new() };
    if !stats.finished {
        summary.problems.push("the load generator had to be ended while calls were under way".to_owned());
    }
    for (name, row) in &stats.rows {
        if row.expect == "allow" {
            summary.allowed += row.as_expected;
        } else {
            summary.denied += row.as_expected;
        }
        if row.cross_cluster {
            summary.cross_cluster += row.as_expected;
        }
        if row.as_expected != row.calls {
            let last = row.last_unexpected.as_deref().unwrap_or("unknown");
            summary.problems.push(format!(
                "{name}: {} of {} calls came out otherwise, the last: {last}",
                row.calls - row.as_expected,
                row.calls
            ));
        }
        let recorded = recorded(pool, stats, row).await.map_err(failed)?;
        let made_by_others = stats.rows.values().filter(|other| other.makes.as_ref() == Some(name));
        let calls = row.calls + made_by_others.map(|other| other.calls).sum::<u64>();
        // The ledger itself also connects to its database, without a trace id of ours.
        let enough = if row.traced { recorded == calls } else { recorded >= calls };
        if !enough {
            summary.problems.push(format!("{name}: {calls} calls, but {recorded} records"));
        }
    }
    Ok(summary)
}

/// How many calls of `row` have a record: distinct trace ids, or rows where a TCP connection can carry none.
async fn recorded(pool: &PgPool, stats: &Stats, row: &Row) -> Result<u64, sqlx::Error> {
    let count: i64 = if row.traced {
        sqlx::query_scalar(
            "SELECT count(DISTINCT trace_id) FROM decisions WHERE trace_id LIKE $1 AND source_spiffe_id = $2 \
             AND (destination_service LIKE $3 OR destination_service LIKE $4) AND action = $5 AND decision = $6",
        )
        .bind(format!("{}%", stats.trace_prefix))
        .bind(spiffe_id(&row.source))
        .bind(format!("%/{NAMESPACE}/{}", name_of(&row.destination)))
        // A sidecar that knows no such service records the name that was asked for.
        .bind(format!("{}.{NAMESPACE}.svc.%", name_of(&row.destination)))
        .bind(&row.action)
        .bind(&row.expect)
        .fetch_one(pool)
        .await?
    } else {
        sqlx::query_scalar(
            "SELECT count(*) FROM decisions WHERE source_spiffe_id = $1 AND destination_service LIKE $2 AND action = $3 \
             AND decision = $4",
        )
        .bind(spiffe_id(&row.source))
        .bind(format!("%/{NAMESPACE}/{}", name_of(&row.destination)))
        .bind(&row.action)
        .bind(&row.expect)
        .fetch_one(pool)
        .await?
    };
    Ok(u64::try_from(count).unwrap_or_default())
}

fn name_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

fn spiffe_id(key: &str) -> String {
    let cluster = key.split('/').next().unwrap_or(key);
    format!("spiffe://{cluster}.bank.example/ns/{NAMESPACE}/sa/{}", name_of(key))
}

impl Summary {
    pub(crate) fn text(&self, seconds: u64) -> String {
        format!(
            "In {seconds} s: {} calls allowed, {} denied, {} across clusters, {} records in PostgreSQL.",
            self.allowed, self.denied, self.cross_cluster, self.records
        )
    }
}
