//! Alerts in the store and in the log: `signet.alerts` for what is on now, an event for each change.

use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Notice;
use super::book::Change;
use super::webhook::Outbox;
use crate::faults::{Cause, Fault};
use crate::recorder::Recorder;
use crate::store::Store;

/// Between tries while PostgreSQL is away.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// A change of an alert, on its way into store and log.
#[derive(Debug, Clone)]
pub(super) struct Changed {
    pub(super) fault: Fault,
    pub(super) change: Change,
    /// Who reports it: empty for what every replica sees alike, and one of them says.
    pub(super) replica: String,
    pub(super) notice: Notice,
}

/// The task that keeps alerts.
pub(super) struct Keeper {
    pub(super) store: Store,
    pub(super) recorder: Recorder,
    pub(super) outbox: Outbox,
    pub(super) queue: mpsc::Receiver<Changed>,
}

impl Keeper {
    /// Keeps what changes until `cancel`.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let keep = async {
            while let Some(changed) = self.queue.recv().await {
                self.keep(&changed).await;
            }
        };
        cancel.run_until_cancelled(keep).await;
    }

    async fn keep(&self, changed: &Changed) {
        let first = loop {
            match self.write(changed).await {
                Ok(first) => break first,
                Err(error) => {
                    tracing::debug!(error = signet_observe::error_chain(&error), "cannot keep an alert yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        if !first {
            return;
        }
        if changed.replica.is_empty() {
            self.outbox.put(&changed.notice);
        }
        let Notice { detail, cause, subject, .. } = &changed.notice;
        let told = serde_json::json!({ "subject": subject, "detail": detail, "replica": changed.replica });
        let (action, allow) = match changed.change {
            Change::Raised => ("audit:alert", false),
            Change::Cleared => ("audit:alert_cleared", true),
        };
        let mut record = self.recorder.event(action, cause, &told);
        record.time_us = changed.notice.at.as_microsecond();
        record.allow = allow;
        record.source_spiffe_id = subject.starts_with("spiffe://").then(|| subject.clone());
        if let Err(error) = self.recorder.record(record).await {
            tracing::error!(error = signet_observe::error_chain(&error), cause, subject, "could not record an alert");
        }
    }

    /// Writes the change; `false` when another replica was first, or it was so already.
    async fn write(&self, changed: &Changed) -> Result<bool, sqlx::Error> {
        let (cause, subject) = (changed.fault.cause.as_str(), crate::query::without_nul(&changed.fault.subject));
        let done = match changed.change {
            Change::Raised => {
                sqlx::query(
                    "INSERT INTO signet.alerts (log_id, replica, cause, subject, detail, raised_at)
                     VALUES ($1, $2, $3, $4, $5, timestamptz 'epoch' + $6 * interval '1 microsecond')
                     ON CONFLICT (log_id, replica, cause, subject) WHERE cleared_at IS NULL DO NOTHING",
                )
                .bind(self.store.log_id())
                .bind(&changed.replica)
                .bind(cause)
                .bind(subject)
                .bind(crate::query::without_nul(&changed.notice.detail))
                .bind(changed.notice.at.as_microsecond())
                .execute(self.store.pool())
                .await?
            }
            Change::Cleared => {
                sqlx::query(
                    "UPDATE signet.alerts SET cleared_at = timestamptz 'epoch' + $5 * interval '1 microsecond'
                     WHERE log_id = $1 AND replica = $2 AND cause = $3 AND subject = $4 AND cleared_at IS NULL",
                )
                .bind(self.store.log_id())
                .bind(&changed.replica)
                .bind(cause)
                .bind(subject)
                .bind(changed.notice.at.as_microsecond())
                .execute(self.store.pool())
                .await?
            }
        };
        Ok(done.rows_affected() > 0)
    }
}

/// The alerts of `replica` that are on, as a service that was started again finds them.
pub(super) async fn active(pool: &PgPool, log_id: i16, replica: &str) -> Result<Vec<(Fault, String)>, sqlx::Error> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT cause, subject, detail FROM signet.alerts WHERE log_id = $1 AND replica = $2 AND cleared_at IS NULL",
    )
    .bind(log_id)
    .bind(replica)
    .fetch_all(pool)
    .await?;
    let known = rows.into_iter();
    Ok(known
        .filter_map(|(cause, subject, detail)| Some((Fault { cause: Cause::named(&cause)?, subject }, detail)))
        .collect())
}

/// Says that `replica` is there and its alerts are true, and ends those of replicas that are gone.
pub(super) async fn refresh(pool: &PgPool, log_id: i16, replica: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE signet.alerts SET seen_at = now() WHERE log_id = $1 AND replica = $2 AND cleared_at IS NULL")
        .bind(log_id)
        .bind(replica)
        .execute(pool)
        .await?;
    sqlx::query(
        "UPDATE signet.alerts SET cleared_at = seen_at
         WHERE log_id = $1 AND replica <> '' AND cleared_at IS NULL AND seen_at < now() - interval '10 minutes'",
    )
    .bind(log_id)
    .execute(pool)
    .await?;
    Ok(())
}
