//! The decisions that the calls counted, beside the records that PostgreSQL holds.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::FromRow;

use super::load::{Expect, Load};
use crate::demo::Demo;
use crate::{records, wait};

/// Until the last records are there; they appear within a second on a machine that has nothing else to do.
const APPEAR: Duration = Duration::from_secs(60);

/// The calls of one kind, by their records. A call that was allowed and then closed by a new commit before its answer has
/// two, and its caller saw the second.
const QUERY: &str = "SELECT substr(trace_id, 17, 2) AS kind, \
     count(*) FILTER (WHERE allow > 0 AND deny = 0) AS allowed, \
     count(*) FILTER (WHERE deny > 0) AS denied, \
     count(*) FILTER (WHERE allow > 0 AND deny > 0) AS closed, \
     count(*) FILTER (WHERE allow > 1 OR deny > 1) AS repeated \
     FROM (SELECT trace_id, count(*) FILTER (WHERE decision = 'allow') AS allow, \
                  count(*) FILTER (WHERE decision = 'deny') AS deny \
           FROM decisions WHERE trace_id LIKE $1 AND action LIKE 'http:%' GROUP BY trace_id) AS calls GROUP BY 1";

#[derive(FromRow, Default, Clone)]
struct Counts {
    kind: String,
    allowed: i64,
    denied: i64,
    closed: i64,
    repeated: i64,
}

fn of_kind(rows: &[Counts], kind: usize) -> Counts {
    rows.iter().find(|row| row.kind == format!("{kind:02x}")).cloned().unwrap_or_default()
}

/// What differs, by kind of call. A gateway's own decisions are not among them.
pub(super) async fn compare(demo: &Demo, load: &Load) -> anyhow::Result<Vec<String>> {
    let pool = records::connect(&demo.endpoints().postgres).await?;
    let pattern = format!("{}%", load.prefix);
    let found = || async { anyhow::Ok(sqlx::query_as::<_, Counts>(QUERY).bind(&pattern).fetch_all(&pool).await?) };
    let counted: Vec<(i64, i64)> = load
        .tallies
        .iter()
        .map(|tally| {
            let of = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            (of(tally.allowed.load(Ordering::Relaxed)), of(tally.denied.load(Ordering::Relaxed)))
        })
        .collect();
    let all = wait::until("a record of each decision", APPEAR, || async {
        let rows = found().await?;
        let there = counted.iter().enumerate().all(|(kind, (allowed, denied))| {
            let stored = of_kind(&rows, kind);
            stored.allowed >= *allowed && stored.denied >= *denied
        });
        Ok(there.then_some(rows))
    })
    .await;
    let mut problems = Vec::new();
    let rows = match all {
        Ok(rows) => rows,
        Err(error) => {
            problems.push(format!("records are missing: {error:#}"));
            found().await?
        }
    };
    for (index, (kind, calls)) in load.kinds.iter().zip(&counted).enumerate() {
        let row = of_kind(&rows, index);
        let stored = (row.allowed, row.denied);
        let mut tell = |what: String| problems.push(format!("{}: {what}", kind.name()));
        if stored != *calls {
            tell(format!("calls counted {calls:?} allowed and denied, PostgreSQL holds {stored:?}"));
        }
        if row.repeated != 0 {
            tell(format!("{} calls have the same decision more than once", row.repeated));
        }
        if row.closed != 0 && kind.expect != Expect::Either {
            tell(format!("{} calls were allowed and then closed, while no commit spoke of them", row.closed));
        }
    }
    let missing: i64 =
        sqlx::query_scalar("SELECT COALESCE(sum(missing), 0)::bigint FROM signet.epochs").fetch_one(&pool).await?;
    if missing != 0 {
        problems.push(format!("{missing} records are missing in producers' sequences (signet.epochs)"));
    }
    Ok(problems)
}
