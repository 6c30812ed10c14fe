//! What PostgreSQL holds, through the stable view `decisions` alone.

use std::time::Duration;

use anyhow::Context;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::wait;

/// DESIGN, section 8: rows appear within a second. A busy test machine gets more, as this is no measurement.
const APPEAR: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, FromRow)]
pub struct Row {
    pub decision_id: Uuid,
    pub log: String,
    pub proxy: String,
    pub source_spiffe_id: Option<String>,
    pub destination_spiffe_id: Option<String>,
    pub destination_service: String,
    pub action: String,
    pub path: Option<String>,
    pub decision: String,
    pub enforcement: String,
    pub policy_ids: Vec<String>,
    pub policy_commit: String,
    pub bundle_digest: String,
    pub reason: String,
    pub source_address: Option<String>,
    pub tls: String,
    pub trace_id: Option<String>,
    pub latency_us: Option<i64>,
}

const COLUMNS: &str = "decision_id, log, proxy, source_spiffe_id, destination_spiffe_id, destination_service, action, path, \
     decision, enforcement, policy_ids, policy_commit, bundle_digest, reason, source_address, tls, trace_id, latency_us";

/// # Errors
/// When PostgreSQL does not answer.
pub async fn connect(dsn: &str) -> anyhow::Result<PgPool> {
    PgPool::connect(dsn).await.context("cannot connect to the demo's PostgreSQL")
}

/// The record of one decision, as soon as it is there.
///
/// # Errors
/// When it does not come.
pub async fn of_decision(pool: &PgPool, id: Uuid) -> anyhow::Result<Row> {
    let query = format!("SELECT {COLUMNS} FROM decisions WHERE decision_id::text = $1");
    wait::until(&format!("the record of decision {id}"), APPEAR, || async {
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(query.as_str())).bind(id.to_string()).fetch_optional(pool).await?)
    })
    .await
}

/// At least `count` records of a trace, as soon as they are there.
///
/// # Errors
/// When they do not come.
pub async fn of_trace(pool: &PgPool, trace_id: &str, count: usize) -> anyhow::Result<Vec<Row>> {
    let query = format!("SELECT {COLUMNS} FROM decisions WHERE trace_id = $1 ORDER BY time");
    wait::until(&format!("{count} records of trace {trace_id}"), APPEAR, || async {
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(query.as_str())).bind(trace_id).fetch_all(pool).await?;
        Ok((rows.len() >= count).then_some(rows))
    })
    .await
}
