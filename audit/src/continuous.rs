//! Continuous export: each record to a system outside as it comes, in the order of the log.
//!
//! INVARIANT: a cursor lies in the store and moves over a batch only after the receiver took it, so that a record is delivered
//! at least once, whatever dies; its place in the log is an id by which a receiver drops what comes again. Only leaves below
//! a signed checkpoint are read, where a log does not change, so that concurrent writes make nothing skipped. One replica
//! exports at a time. A receiver that is slow or away holds up its own cursor and nothing else.

use std::time::Duration;

use signet_spool::Record;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::ExportConfig;
use crate::faults::{Cause, Faults};
use crate::metrics::{Metrics, OfExport};
use crate::outgoing::CallError;
use crate::query::{self, Filter, QueryError, StoredRecord};
use crate::recorder::{NotRecorded, Recorder};
use crate::row::Row;
use crate::store::{Store, signed};

mod hec;
mod otlp;
mod syslog;

use hec::Hec;
use otlp::Otlp;
use syslog::Syslog;

/// Most leaves of a batch.
const BATCH: u64 = 500;
/// How often it looks whether there is more, and whether it may begin.
const POLL: Duration = Duration::from_millis(250);
const STANDBY: Duration = Duration::from_secs(2);
/// Pauses after a batch that was not taken. Short enough that the alert lasts as long as the fault does.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// The advisory lock of the replica that exports: this and a hash of log and name.
const LOCK: i32 = 0x4558_5054;
/// Most characters of a name.
const MAX_NAME: usize = 64;

/// Why a continuous export cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadExport {
    #[error("export `{0}`: a name has 1 to {MAX_NAME} letters, digits, `-` and `_`")]
    Name(String),
    #[error("export names `{0}` twice; each needs a cursor of its own")]
    Twice(String),
    #[error("export `{0}` must have exactly one of hec, otlp and syslog")]
    Way(String),
    #[error("export `{name}`")]
    Target { name: String, source: crate::outgoing::BadTarget },
    #[error("export `{name}`")]
    Secret { name: String, source: crate::secret::BadSecret },
}

/// Why a batch was not taken; it comes again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("the receiver cannot be called")]
    Call(#[from] CallError),
    #[error("the connection failed")]
    Connection(#[from] std::io::Error),
    #[error("{0}")]
    Answer(String),
}

/// A record on its way to a receiver.
#[derive(Debug)]
pub(crate) struct Event {
    /// `<log>/<leaf index>`: the same whenever it comes.
    pub(crate) id: String,
    pub(crate) record: Record,
    /// The record as JSON Lines exports have it.
    pub(crate) json: serde_json::Value,
}

impl Event {
    fn new(log: &str, stored: StoredRecord) -> Result<Self, serde_json::Error> {
        let json = serde_json::to_value(Row { log, stored: &stored })?;
        Ok(Self { id: format!("{log}/{}", stored.leaf_index), record: stored.record, json })
    }
}

/// The way to a receiver.
enum Sink {
    Hec(Hec),
    Otlp(Otlp),
    Syslog(Syslog),
}

impl Sink {
    /// Delivers a batch; returns once the receiver took all of it.
    async fn send(&self, events: &[Event]) -> Result<(), NotTaken> {
        match self {
            Self::Hec(hec) => hec.send(events).await,
            Self::Otlp(otlp) => otlp.send(events).await,
            Self::Syslog(syslog) => syslog.send(events).await,
        }
    }
}

/// One export.
pub(crate) struct Export {
    name: String,
    sink: Sink,
    store: Store,
    recorder: Recorder,
    faults: Faults,
    metrics: Metrics,
}

/// Why an export lost its turn; it begins again.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Store(#[from] sqlx::Error),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Record(#[from] NotRecorded),
    #[error("a record cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error("another replica moved the cursor")]
    Moved,
}

/// The exports of a configuration.
///
/// # Errors
/// When one cannot be set up.
pub(crate) fn open(
    configs: &[ExportConfig],
    store: &Store,
    recorder: &Recorder,
    faults: &Faults,
    metrics: &Metrics,
) -> Result<Vec<Export>, BadExport> {
    let mut exports: Vec<Export> = Vec::with_capacity(configs.len());
    for config in configs {
        let name = config.name.clone();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
            return Err(BadExport::Name(name));
        }
        if exports.iter().any(|export| export.name == name) {
            return Err(BadExport::Twice(name));
        }
        let sink = match (&config.hec, &config.otlp, &config.syslog) {
            (Some(hec), None, None) => Sink::Hec(Hec::new(&name, hec)?),
            (None, Some(otlp), None) => Sink::Otlp(Otlp::new(&name, otlp)?),
            (None, None, Some(syslog)) => Sink::Syslog(Syslog::new(&name, syslog)?),
            _ => return Err(BadExport::Way(name)),
        };
        let (store, recorder, faults, metrics) = (store.clone(), recorder.clone(), faults.clone(), metrics.clone());
        exports.push(Export { name, sink, store, recorder, faults, metrics });
    }
    Ok(exports)
}

impl Export {
    /// Exports until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let exporting = async {
            loop {
                let Err(lost) = self.turn().await;
                tracing::warn!(
                    export = self.name,
                    error = signet_observe::error_chain(&lost),
                    "an export begins again"
                );
                tokio::time::sleep(STANDBY).await;
            }
        };
        cancel.run_until_cancelled(exporting).await;
    }

    /// Exports for as long as this replica holds the lock, which ends with its connection.
    async fn turn(&self) -> Result<std::convert::Infallible, Lost> {
        let mut connection = self.store.pool().acquire().await?.detach();
        while !self.lock(&mut connection).await? {
            tokio::time::sleep(STANDBY).await;
        }
        let mut cursor = self.cursor(&mut connection).await?;
        // Whoever may read is a matter of record, a system too.
        let told = serde_json::json!({ "export": self.name, "from": cursor });
        self.recorder.record(self.recorder.event("audit:continuous_export", "began", &told)).await?;
        let labels = OfExport { export: self.name.clone() };
        let mut pause = PAUSE.0;
        loop {
            let end = self.signed(&mut connection).await?;
            let behind = i64::try_from(end.saturating_sub(cursor)).unwrap_or(i64::MAX);
            self.metrics.export_behind.get_or_create(&labels).set(behind);
            if cursor >= end {
                tokio::time::sleep(POLL).await;
                continue;
            }
            let to = end.min(cursor + BATCH);
            let log = self.store.origin();
            let stored = query::records(self.store.pool(), &Filter::default(), &[], log, cursor, to).await?;
            let missing = (to - cursor).saturating_sub(stored.len() as u64);
            let events: Vec<Event> = stored.into_iter().map(|one| Event::new(log, one)).collect::<Result<_, _>>()?;
            if let Err(error) = self.sink.send(&events).await {
                let why = signet_observe::error_chain(&error);
                tracing::warn!(export = self.name, why, from = cursor, to, "a batch was not taken; it comes again");
                self.metrics.export_failures.get_or_create(&labels).inc();
                self.faults.report(Cause::Export, &self.name, Uuid::nil(), why);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
                continue;
            }
            self.advance(&mut connection, cursor, to).await?;
            cursor = to;
            pause = PAUSE.0;
            self.faults.works(Cause::Export, &self.name, Uuid::nil());
            self.metrics.exported.get_or_create(&labels).inc_by(events.len() as u64);
            if missing > 0 {
                tracing::error!(export = self.name, missing, to, "leaves without a row were passed over");
                self.metrics.export_missing.get_or_create(&labels).inc_by(missing);
            }
        }
    }

    async fn lock(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("SELECT pg_try_advisory_lock($1, hashtext($2))")
            .bind(LOCK)
            .bind(format!("{}/{}", self.store.origin(), self.name))
            .fetch_one(connection)
            .await
    }

    /// Where it goes on; at the first record when it is new.
    async fn cursor(&self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        sqlx::query("INSERT INTO signet.export_cursors (log_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(self.store.log_id())
            .bind(&self.name)
            .execute(&mut *connection)
            .await?;
        let leaf: i64 = sqlx::query_scalar("SELECT leaf FROM signet.export_cursors WHERE log_id = $1 AND name = $2")
            .bind(self.store.log_id())
            .bind(&self.name)
            .fetch_one(connection)
            .await?;
        Ok(leaf.unsigned_abs())
    }

    /// The size of the newest checkpoint.
    async fn signed(&self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        let size: Option<i64> = sqlx::query_scalar("SELECT max(size) FROM signet.checkpoints WHERE log_id = $1")
            .bind(self.store.log_id())
            .fetch_one(connection)
            .await?;
        Ok(size.unwrap_or_default().unsigned_abs())
    }

    async fn advance(&self, connection: &mut PgConnection, from: u64, to: u64) -> Result<(), Lost> {
        let moved = sqlx::query(
            "UPDATE signet.export_cursors SET leaf = $4, moved_at = now() WHERE log_id = $1 AND name = $2 AND leaf = $3",
        )
        .bind(self.store.log_id())
        .bind(&self.name)
        .bind(signed(from))
        .bind(signed(to))
        .execute(connection)
        .await?;
        if moved.rows_affected() == 1 { Ok(()) } else { Err(Lost::Moved) }
    }
}
