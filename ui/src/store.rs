//! The audit store, as the dashboard asks it: every question has a deadline, and whether the store answers is kept.

mod traffic;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use signet_audit::query::{self, DecisionRow, Filter, QueryError, TailCursor};
use signet_audit::why;
use sqlx::PgPool;
use uuid::Uuid;

use crate::model::{Alert, Decision, DecisionPage, EventPage, Reach, ReachStatus, Traffic, Why};
use crate::problem::Failure;
use crate::selection::Selection;

const DEADLINE: Duration = Duration::from_secs(8);
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 500;
/// Viewers that ask within this share one count.
const TRAFFIC_AGE: Duration = Duration::from_millis(900);

/// A decision with its place in its log.
#[derive(Debug, Clone)]
pub struct Row {
    pub decision: Decision,
    pub leaf_index: i64,
}

/// The audit store.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    reach: Arc<Mutex<Reach>>,
    traffic: Arc<Mutex<Option<(Instant, Traffic)>>>,
    alerts: Arc<Mutex<(Option<Instant>, Vec<Alert>)>>,
}

impl Store {
    pub fn new(pool: PgPool) -> Self {
        let unknown = Reach { status: ReachStatus::Unknown, since: Timestamp::now().to_string(), error: None };
        Self { pool, reach: Arc::new(Mutex::new(unknown)), traffic: Arc::default(), alerts: Arc::default() }
    }

    /// Whether the store answered the last question, and since when.
    pub fn reach(&self) -> Reach {
        self.reach.lock().clone()
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, QueryError>>) -> Result<T, Failure> {
        let outcome = match tokio::time::timeout(DEADLINE, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(QueryError::Cursor(error))) => return Err(Failure::BadRequest(error.to_string())),
            Ok(Err(error @ QueryError::Undecodable { .. })) => {
                return Err(Failure::Internal(signet_observe::error_chain(&error)));
            }
            Ok(Err(error)) => Err(signet_observe::error_chain(&error)),
            Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        self.note(outcome.as_ref().err());
        outcome.map_err(Failure::Store)
    }

    fn note(&self, error: Option<&String>) {
        let status = if error.is_some() { ReachStatus::Unreachable } else { ReachStatus::Reachable };
        let mut reach = self.reach.lock();
        if reach.status != status {
            match error {
                Some(cause) => tracing::warn!(cause, "the audit database does not answer"),
                None => tracing::info!("the audit database answers"),
            }
            *reach = Reach { status, since: Timestamp::now().to_string(), error: None };
        }
        // The cause stays in the log: it may name hosts and users.
        reach.error = error.map(|_| "the audit database does not answer".to_owned());
    }

    pub(crate) async fn decisions(
        &self,
        selection: &Selection,
        cursor: Option<&str>,
        limit: Option<u32>,
    ) -> Result<DecisionPage, Failure> {
        let live = match cursor {
            Some(_) => None,
            // Taken before the page, so that nothing falls between page and stream.
            None => Some(self.end().await?.to_string()),
        };
        if let Some(id) = selection.decision_id() {
            let found = self.row(id).await?.filter(|row| selection.matches(&row.decision));
            return Ok(DecisionPage { items: found.into_iter().map(|row| row.decision).collect(), next: None, live });
        }
        let limit = limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
        let filter = selection.filter();
        let page = self.ask(query::decisions(&self.pool, &filter, cursor, limit)).await?;
        Ok(DecisionPage { items: page.rows.into_iter().map(view::decision).collect(), next: page.next, live })
    }

    async fn row(&self, id: Uuid) -> Result<Option<Row>, Failure> {
        let found = self.ask(query::by_id(&self.pool, id)).await?;
        Ok(found.filter(|full| is_decision(&full.row)).map(|full| view::row(full.row)))
    }

    /// `None` when there is no decision with this id.
    pub(crate) async fn decision(&self, id: Uuid) -> Result<Option<Decision>, Failure> {
        Ok(self.row(id).await?.map(|row| row.decision))
    }

    /// `None` when there is no decision with this id.
    pub(crate) async fn why(&self, id: Uuid) -> Result<Option<Why>, Failure> {
        let found = self.ask(why::explain(&self.pool, id)).await?;
        Ok(found.filter(|why| is_decision(&why.row)).map(view::why))
    }

    pub(crate) async fn events(&self, cursor: Option<&str>, limit: Option<u32>) -> Result<EventPage, Failure> {
        let limit = limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
        let page = self.ask(query::events(&self.pool, &Filter::default(), cursor, limit)).await?;
        Ok(EventPage { items: page.rows.into_iter().map(view::event).collect(), next: page.next })
    }

    /// Where the logs end now.
    pub(crate) async fn end(&self) -> Result<TailCursor, Failure> {
        self.ask(TailCursor::now(&self.pool)).await
    }

    /// What was committed since `cursor`, which moves.
    pub(crate) async fn tail(&self, cursor: &mut TailCursor, limit: u32) -> Result<Vec<Row>, Failure> {
        let rows = self.ask(query::tail(&self.pool, &Filter::default(), cursor, limit)).await?;
        Ok(rows.into_iter().map(view::row).collect())
    }

    /// The alerts that are on; those that were last heard of while the store does not answer.
    pub(crate) async fn alerts(&self) -> Vec<Alert> {
        let (at, known) = self.alerts.lock().clone();
        if at.is_some_and(|at| at.elapsed() < TRAFFIC_AGE) {
            return known;
        }
        let Ok(rows) = self.ask(query::alerts(&self.pool)).await else { return known };
        let alerts: Vec<Alert> = rows.into_iter().map(view::alert).collect();
        *self.alerts.lock() = (Some(Instant::now()), alerts.clone());
        alerts
    }

    /// Counts over the last minute; `None` while the store does not answer.
    pub(crate) async fn traffic(&self) -> Option<Traffic> {
        if let Some((at, traffic)) = self.traffic.lock().as_ref()
            && at.elapsed() < TRAFFIC_AGE
        {
            return Some(traffic.clone());
        }
        let counted = self.ask(traffic::count(&self.pool)).await;
        let mut kept = self.traffic.lock();
        match counted {
            Ok(traffic) => {
                *kept = Some((Instant::now(), traffic.clone()));
                Some(traffic)
            }
            Err(_) => {
                *kept = None;
                None
            }
        }
    }
}

/// Events have ids too, but are no decisions.
fn is_decision(row: &DecisionRow) -> bool {
    matches!(row.kind.as_str(), "decision" | "refusal")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::Verdict;

    /// A default deny, for tests of what reads rows.
    pub(crate) fn row() -> Row {
        Row {
            decision: Decision {
                id: "01932e4a-0000-7000-8000-000000000001".into(),
                time: "2026-11-22T12:00:00.000001Z".into(),
                log: "east.bank.example/signet-log".into(),
                proxy: "spiffe://east.bank.example/ns/bank/proxy/ledger".into(),
                source: Some("spiffe://east.bank.example/ns/bank/sa/web".into()),
                destination: Some("spiffe://east.bank.example/ns/bank/sa/ledger".into()),
                service: "east.bank.example/bank/ledger".into(),
                action: "http:POST".into(),
                path: Some("/accounts/1/entries".into()),
                decision: Verdict::Deny,
                enforcement: "enforce".into(),
                policy_ids: vec![],
                policy_commit: "0f".repeat(20),
                bundle_digest: "sha256:00".into(),
                reason: "no_permit".into(),
                source_address: Some("127.0.0.1:1".into()),
                tls: "TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384".into(),
                trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
                latency_us: Some(41),
                refusal: false,
                count: 1,
                leaf_index: 7,
            },
            leaf_index: 7,
        }
    }
}
