//! What must hold after a run, whatever happened in it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use parking_lot::Mutex;
use signet_audit::note::VerifierKey;
use signet_audit::verify::{Seen, verify};
use sqlx::PgPool;
use uuid::Uuid;

use crate::books::Books;
use crate::hostile;
use crate::identities;
use crate::processes::{PATIENCE, Run};

/// Compares books and log; a summary, or what is wrong.
pub async fn check(
    pool: &PgPool,
    run: &Run,
    books: &Books,
    notes: &Mutex<BTreeSet<String>>,
) -> Result<String, Vec<String>> {
    signed(pool).await?;
    let recorded: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM signet.records WHERE kind = 0").fetch_all(pool).await.unwrap();
    let mut problems = books.compare(&recorded);

    // Sequences that were late are in by now; gaps are reported of the hostile producer alone, whose batches came early.
    let (missing, open): (i64, i64) = sqlx::query_as(
        "SELECT COALESCE(sum(missing), 0)::bigint, count(*) FILTER (WHERE NOT closed AND producer LIKE '%/proxy/%')
         FROM signet.epochs",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    if missing > 0 {
        problems.push(format!("{missing} sequences are missing"));
    }
    if open > 0 {
        problems.push(format!("{open} epochs of producers are not closed"));
    }
    let gaps: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM signet.entries WHERE kind = 'gap' AND source_spiffe_id IS DISTINCT FROM $1",
    )
    .bind(identities::producer(hostile::INDEX))
    .fetch_one(pool)
    .await
    .unwrap();
    if gaps > 0 {
        problems.push(format!("{gaps} gaps were recorded"));
    }
    let conflicts: i64 = sqlx::query_scalar("SELECT count(*) FROM signet.entries WHERE action = 'audit:conflict'")
        .fetch_one(pool)
        .await
        .unwrap();
    if conflicts > 0 {
        problems.push(format!("{conflicts} conflicts were recorded"));
    }

    let seen: Vec<Seen> = notes
        .lock()
        .iter()
        .map(|note| Seen { place: "a service that served it".to_owned(), note: note.clone() })
        .collect();
    if seen.is_empty() {
        problems.push("no checkpoint was served".to_owned());
    }
    let file: PathBuf = run.directory.join("log.key.pub");
    let key: VerifierKey = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let origin = signet_audit::config::origin(identities::TRUST_DOMAIN);
    let report = verify(pool, &origin, &key, &seen).await.unwrap();
    problems.extend(report.problems.iter().map(ToString::to_string));
    if !problems.is_empty() {
        return Err(problems);
    }
    let duplicates = recorded.iter().filter(|id| books.unanswered.contains(id)).count();
    Ok(format!(
        "{} decisions kept, {} refused, {} unanswered ({duplicates} recorded); {} records, {} checkpoints compared",
        books.kept.len(),
        books.refused.len(),
        books.unanswered.len(),
        report.records,
        report.checkpoints
    ))
}

/// Waits until everything that is stored is signed for.
async fn signed(pool: &PgPool) -> Result<(), Vec<String>> {
    let started = Instant::now();
    loop {
        let behind: Result<bool, _> = sqlx::query_scalar(
            "SELECT size > COALESCE((SELECT max(size) FROM signet.checkpoints), -1) FROM signet.logs",
        )
        .fetch_one(pool)
        .await;
        if behind.is_ok_and(|behind| !behind) {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(vec![format!("waited {PATIENCE:?} for a checkpoint of everything")]);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
