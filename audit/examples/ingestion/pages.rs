//! How long the first page of a filtered query takes on a large store.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signet_audit::query::{self, Filter};
use sqlx::PgPool;

/// Pages of each filter.
const ASKED: usize = 60;
/// Rows of a page, as the dashboard's.
const PAGE: u32 = 50;

/// Multiplies the records of a database to `wanted` rows over the days that have partitions. Each has a time and a trace id
/// of its own; the indexes are made afterwards, which is faster and leaves the same.
async fn grow(pool: &PgPool, wanted: i64) -> Result<i64> {
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT c.relname::text, replace(pg_get_indexdef(c.oid), ' ON ONLY ', ' ON ') FROM pg_index i
         JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 'signet.records'::regclass",
    )
    .fetch_all(pool)
    .await?;
    for (name, _) in &indexes {
        sqlx::query(sqlx::AssertSqlSafe(format!("DROP INDEX signet.{name}"))).execute(pool).await?;
    }
    let records: i64 = sqlx::query_scalar("SELECT count(*) FROM signet.records").fetch_one(pool).await?;
    let copies = (wanted / records.max(1) - 1).max(0);
    sqlx::query(
        "INSERT INTO signet.records SELECT
             date_trunc('day', now()) - interval '1 day' + n * (interval '8 days' / $1::bigint::float8) + leaf_index * interval '1 millisecond',
             leaf_index + n * $2::bigint, epoch_id, source_id, service_id, shape_id, context_id, latency_us, log_id, kind, allow, id,
             md5(trace_id::text || n)::uuid, path, personal, rest
         FROM generate_series(1, $1::bigint) AS n CROSS JOIN LATERAL (SELECT * FROM signet.records WHERE leaf_index < $2) r",
    )
    .bind(copies)
    .bind(records)
    .execute(pool)
    .await?;
    for (_, statement) in indexes {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(pool).await?;
    }
    sqlx::query("ANALYZE signet.records").execute(pool).await?;
    Ok(sqlx::query_scalar("SELECT count(*) FROM signet.records").fetch_one(pool).await?)
}

/// Filters, and whether they find something.
fn filters(trace_id: String) -> Vec<(&'static str, Filter, bool)> {
    let source = || Some("spiffe://east.bank.example/ns/bank/sa/caller-0".to_owned());
    let service = || Some("east.bank.example/bank/ledger".to_owned());
    let text = |text: &str| Some(text.to_owned());
    vec![
        ("nothing", Filter::default(), true),
        ("source", Filter { source: source(), ..Filter::default() }, true),
        ("service", Filter { service: service(), ..Filter::default() }, true),
        ("denied", Filter { allow: Some(false), ..Filter::default() }, true),
        (
            "source, service, denied",
            Filter { source: source(), service: service(), allow: Some(false), ..Filter::default() },
            true,
        ),
        ("action", Filter { action: text("http:POST"), ..Filter::default() }, true),
        ("policy", Filter { policy: text("policies/web.cedar#route-3"), ..Filter::default() }, true),
        ("reason, service", Filter { reason: text("forbidden"), service: service(), ..Filter::default() }, true),
        ("an action that nobody took", Filter { action: text("http:DELETE"), ..Filter::default() }, false),
        ("a policy that never decided", Filter { policy: text("nobody's"), ..Filter::default() }, false),
        ("trace id", Filter { trace_id: Some(trace_id), ..Filter::default() }, true),
    ]
}

/// Asks for first pages on `wanted` records and prints how long they took.
pub(crate) async fn measure(pool: &PgPool, wanted: i64) -> Result<()> {
    let records = grow(pool, wanted).await?;
    let trace_id: String =
        sqlx::query_scalar("SELECT trace_id FROM signet.entries ORDER BY time DESC LIMIT 1").fetch_one(pool).await?;
    println!("| first page of {PAGE} of {records} records, filtered by | p50, ms | p95, ms |\n|---|---|---|");
    for (name, filter, finds) in filters(trace_id) {
        let mut took: Vec<Duration> = Vec::with_capacity(ASKED);
        for _ in 0..ASKED {
            let started = Instant::now();
            let page = query::decisions(pool, &filter, None, PAGE).await?;
            took.push(started.elapsed());
            if page.rows.is_empty() == finds {
                bail!("`{name}` found {} rows", page.rows.len());
            }
            // A filter that scans would go on for minutes.
            if took.iter().sum::<Duration>() > Duration::from_secs(10) {
                break;
            }
        }
        took.sort_unstable();
        let of = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default().as_secs_f64() * 1e3;
        println!("| {name} | {:.1} | {:.1} |", of(50), of(95));
    }
    Ok(())
}
