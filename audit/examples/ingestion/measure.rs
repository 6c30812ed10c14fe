//! What is measured of the audit service itself.

use std::time::Instant;

use anyhow::{Result, bail};
use signet_audit::verify::verify;
use sqlx::PgPool;

use super::load::Load;
use super::place::Place;

/// Ingests the load into a new database; records a second from the first batch to the last acknowledgement.
pub(crate) async fn ingest(place: &Place, load: &Load, database: &str) -> Result<(PgPool, f64)> {
    let service = place.serve(database).await?;
    place.settle().await?;
    let took = load.send(&service).await?;
    let pool = service.stop().await?;
    let size: i64 = sqlx::query_scalar("SELECT size FROM signet.logs").fetch_one(&pool).await?;
    if usize::try_from(size) != Ok(load.records()) {
        bail!("the tree has {size} records, {} were sent", load.records());
    }
    Ok((pool, load.records() as f64 / took.as_secs_f64()))
}

/// Recomputes the whole log; records a second.
pub(crate) async fn reverify(place: &Place, pool: &PgPool, records: usize) -> Result<f64> {
    let started = Instant::now();
    let report = verify(pool, &place.origin(), &place.key()?, &[]).await?;
    let took = started.elapsed();
    if !report.holds() || usize::try_from(report.records) != Ok(records) {
        bail!("{} records, and these problems: {:?}", report.records, report.problems);
    }
    Ok(records as f64 / took.as_secs_f64())
}

/// What a record takes on disk.
pub(crate) async fn space(pool: &PgPool, records: usize) -> Result<String> {
    let sizes: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT coalesce(p.relname, c.relname)::text, sum(pg_table_size(c.oid))::bigint, sum(pg_indexes_size(c.oid))::bigint
         FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent
         WHERE c.relnamespace = 'signet'::regnamespace AND c.relkind = 'r' GROUP BY 1
         HAVING sum(pg_table_size(c.oid)) > 1000000 ORDER BY 2 DESC",
    )
    .fetch_all(pool)
    .await?;
    let mut out = "| table | heap bytes a record | index bytes a record |\n|---|---|---|\n".to_owned();
    let each = |bytes: i64| bytes as f64 / records as f64;
    let mut whole = (0, 0);
    for (table, heap, indexes) in sizes {
        whole = (whole.0 + heap, whole.1 + indexes);
        out.push_str(&format!("| {table} | {:.0} | {:.0} |\n", each(heap), each(indexes)));
    }
    out.push_str(&format!("| together | {:.0} | {:.0} |\n", each(whole.0), each(whole.1)));
    Ok(out)
}
