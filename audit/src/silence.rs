//! Producers that fell silent: an epoch that is open and of which nothing came for a while, heartbeats neither.
//!
//! What such a producer still had in its spool may be lost with its disk, and no jump in a sequence would ever show it. So
//! its silence is a record of its own (`epoch_silent`, a gap of unknown size), and its coming back is another.
//!
//! INVARIANT: nobody is called silent for what this service or PostgreSQL could not hear: time counts only while the
//! watch itself ran without a stop. One replica watches at a time.

use std::time::Duration;

use futures::future::try_join_all;
use signet_spool::{Kind, Record};
use sqlx::PgConnection;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::recorder::Recorder;
use crate::store::Store;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// A look that comes later than this found the service, or PostgreSQL, stopped.
const STOPPED: Duration = Duration::from_secs(3);
/// Most epochs of one look; the rest come with the next.
const MOST: i64 = 500;
/// The advisory lock of the replica that watches a log: this and the log's number.
const LOCK: i32 = 0x5349_4c45;

/// The watch over the producers of one log.
pub(crate) struct Silence {
    store: Store,
    recorder: Recorder,
    after: Duration,
    metrics: Metrics,
}

/// An epoch that changes its state.
#[derive(sqlx::FromRow)]
struct Found {
    id: i32,
    epoch: Uuid,
    producer: String,
    watermark: i64,
    /// When the last of it was committed, Unix microseconds.
    last_seen_us: i64,
    closed: bool,
}

/// Why a look did not come to its end; the next one begins anew.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] sqlx::Error),
    #[error(transparent)]
    Record(#[from] crate::recorder::NotRecorded),
}

impl Silence {
    pub(crate) fn new(store: Store, recorder: Recorder, after: Duration, metrics: Metrics) -> Self {
        Self { store, recorder, after, metrics }
    }

    /// Watches until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let watch = async {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut hearing_since = Instant::now();
            let mut last = Instant::now();
            loop {
                ticks.tick().await;
                if last.elapsed() > STOPPED {
                    hearing_since = Instant::now();
                }
                last = Instant::now();
                let judge = hearing_since.elapsed() >= self.after;
                if let Err(error) = self.look(judge).await {
                    tracing::warn!(error = signet_observe::error_chain(&error), "could not look for silent producers");
                    hearing_since = Instant::now();
                }
            }
        };
        cancel.run_until_cancelled(watch).await;
    }

    /// Records what changed and marks it.
    async fn look(&self, judge: bool) -> Result<(), Failure> {
        // Ends with the transaction, however that ends.
        let mut transaction = self.store.pool().begin().await?;
        if self.leads(&mut transaction).await? {
            let resumed = self.resumed(&mut transaction).await?;
            let silent = if judge { self.silent(&mut transaction).await? } else { Vec::new() };
            for found in &silent {
                tracing::error!(producer = found.producer, epoch = %found.epoch, last = found.watermark,
                    "a producer fell silent without closing its epoch");
            }
            // What is marked has its record. No row is locked meanwhile: the sequencer needs them to commit it.
            let records = resumed.iter().map(|found| self.came_back(found));
            let records = records.chain(silent.iter().map(|found| self.fell_silent(found)));
            try_join_all(records.map(|record| self.recorder.record(record))).await?;
            self.mark(&mut transaction, &resumed, &silent).await?;
            self.metrics.silences.inc_by(silent.len() as u64);
        }
        let silent: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM signet.epochs WHERE log_id = $1 AND NOT closed AND silent_since IS NOT NULL",
        )
        .bind(self.store.log_id())
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        self.metrics.silent_epochs.set(silent);
        Ok(())
    }

    /// Whether this replica is the one that watches, until the end of the transaction.
    async fn leads(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1, $2)")
            .bind(LOCK)
            .bind(i32::from(self.store.log_id()))
            .fetch_one(connection)
            .await
    }

    /// Epochs that were called silent and spoke or were closed since.
    async fn resumed(&self, connection: &mut PgConnection) -> Result<Vec<Found>, sqlx::Error> {
        sqlx::query_as(
            "SELECT id, epoch, producer, watermark, closed, (extract(epoch FROM last_seen) * 1000000)::bigint AS last_seen_us
             FROM signet.epochs WHERE log_id = $1 AND silent_since IS NOT NULL AND (closed OR last_seen > silent_since)
             ORDER BY id LIMIT $2",
        )
        .bind(self.store.log_id())
        .bind(MOST)
        .fetch_all(connection)
        .await
    }

    /// Open epochs of which nothing came for too long. Those of audit services are not looked at: what they record is
    /// committed when it happens.
    async fn silent(&self, connection: &mut PgConnection) -> Result<Vec<Found>, sqlx::Error> {
        sqlx::query_as(
            "SELECT id, epoch, producer, watermark, closed, (extract(epoch FROM last_seen) * 1000000)::bigint AS last_seen_us
             FROM signet.epochs WHERE log_id = $1 AND NOT closed AND silent_since IS NULL AND producer <> $2
                  AND last_seen < now() - $3 * interval '1 second'
             ORDER BY id LIMIT $4",
        )
        .bind(self.store.log_id())
        .bind(self.recorder.producer())
        .bind(i64::try_from(self.after.as_secs()).unwrap_or(i64::MAX))
        .bind(MOST)
        .fetch_all(connection)
        .await
    }

    async fn mark(
        &self,
        connection: &mut PgConnection,
        resumed: &[Found],
        silent: &[Found],
    ) -> Result<(), sqlx::Error> {
        let ids: Vec<i32> = resumed.iter().chain(silent).map(|found| found.id).collect();
        // Since when, as it was seen: one that speaks meanwhile is found to have resumed by the next look.
        let since: Vec<Option<i64>> =
            resumed.iter().map(|_| None).chain(silent.iter().map(|found| Some(found.last_seen_us))).collect();
        sqlx::query(
            "UPDATE signet.epochs e SET silent_since = timestamptz 'epoch' + m.since * interval '1 microsecond'
             FROM UNNEST($1::int[], $2::bigint[]) AS m(id, since) WHERE e.id = m.id",
        )
        .bind(ids)
        .bind(since)
        .execute(connection)
        .await?;
        Ok(())
    }

    fn fell_silent(&self, found: &Found) -> Record {
        let detail = serde_json::json!({
            "epoch": found.epoch, "last_sequence": found.watermark, "last_heard_us": found.last_seen_us,
        });
        // How many records are missing is not known: none may be.
        let event = self.recorder.event("audit:silent", "epoch_silent", &detail);
        Record { kind: Kind::Gap, allow: false, count: 0, source_spiffe_id: Some(found.producer.clone()), ..event }
    }

    fn came_back(&self, found: &Found) -> Record {
        let reason = if found.closed { "epoch_closed" } else { "epoch_resumed" };
        let detail = serde_json::json!({ "epoch": found.epoch, "last_sequence": found.watermark });
        let event = self.recorder.event("audit:heard", reason, &detail);
        Record { source_spiffe_id: Some(found.producer.clone()), ..event }
    }
}
