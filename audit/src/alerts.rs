//! Watching the watcher: what fails in recording is an alert within 30 s: a metric, a call to a webhook, a record.
//!
//! Faults come from two places. What this replica alone sees (its readiness, the streams that it holds) it answers for by its
//! own name. What every replica reads from the store alike (silent and skipping producers, clocks, reviews) is said by the
//! one that writes it first. A webhook is called for the first kind also while PostgreSQL is away; records and rows follow
//! when it is back.

use std::time::Duration;

use serde::Serialize;
use signet_observe::Readiness;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::config::AlertsConfig;
use crate::faults::{Cause, Fault, Faults, Known};
use crate::metrics::Metrics;
use crate::recorder::Recorder;
use crate::store::Store;

mod book;
mod facts;
mod kept;
mod webhook;

use book::{Book, Change};
use kept::{Changed, Keeper};
use webhook::{BadWebhook, Courier, Outbox};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long the store may take to answer a look; the next one asks again.
const DEADLINE: Duration = Duration::from_secs(2);
/// Every so many looks, the rows of this replica are said to be true still.
const REFRESH: u64 = 15;
/// Changes that wait for PostgreSQL.
const WAITING: usize = 1_024;

/// What a webhook is sent, as JSON.
#[derive(Debug, Clone, Serialize)]
struct Notice {
    version: &'static str,
    /// Origin of the log.
    log: String,
    cause: &'static str,
    subject: String,
    /// `raised` or `cleared`.
    state: &'static str,
    detail: String,
    at: jiff::Timestamp,
}

/// The watch.
pub(crate) struct Alerts {
    store: Store,
    faults: Faults,
    readiness: Readiness,
    review_every: Option<Duration>,
    metrics: Metrics,
    replica: String,
    outbox: Outbox,
    keep: mpsc::Sender<Changed>,
    keeper: Keeper,
    courier: Option<Courier>,
}

impl Alerts {
    /// # Errors
    /// When the webhook's address or secret is unusable.
    pub(crate) fn new(
        config: &AlertsConfig,
        store: Store,
        recorder: Recorder,
        faults: Faults,
        readiness: Readiness,
        metrics: Metrics,
    ) -> Result<Self, BadWebhook> {
        let (outbox, courier) = webhook::open(config.webhook.as_ref(), &metrics)?;
        let (keep, queue) = mpsc::channel(WAITING);
        let keeper = Keeper { store: store.clone(), recorder, outbox: outbox.clone(), queue };
        let (review_every, replica) = (config.review_every(), replica());
        Ok(Self { store, faults, readiness, review_every, metrics, replica, outbox, keep, keeper, courier })
    }

    /// Watches until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.keeper.run(cancel.clone()));
        if let Some(courier) = self.courier {
            tasks.spawn(courier.run(cancel.clone()));
        }
        let watch = Watch {
            store: self.store,
            faults: self.faults,
            readiness: self.readiness,
            review_every: self.review_every,
            metrics: self.metrics,
            replica: self.replica,
            outbox: self.outbox,
            keep: self.keep,
        };
        cancel.run_until_cancelled(watch.run()).await;
        while tasks.join_next().await.is_some() {}
    }
}

/// The part of [`Alerts`] that looks.
struct Watch {
    store: Store,
    faults: Faults,
    readiness: Readiness,
    review_every: Option<Duration>,
    metrics: Metrics,
    replica: String,
    outbox: Outbox,
    keep: mpsc::Sender<Changed>,
}

impl Watch {
    async fn run(self) {
        let (mut own, mut shared) = (Book::default(), Book::default());
        self.resume(&mut own, &mut shared).await;
        let mut facts = Known::new();
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for look in 0_u64.. {
            ticks.tick().await;
            // What was known last stays true while the store does not answer.
            if let Ok(Ok(known)) = tokio::time::timeout(DEADLINE, facts::read(&self.store, self.review_every)).await {
                facts = known;
            }
            if look.is_multiple_of(REFRESH) {
                let refresh = kept::refresh(self.store.pool(), self.store.log_id(), &self.replica);
                if let Ok(Err(error)) = tokio::time::timeout(DEADLINE, refresh).await {
                    tracing::debug!(error = signet_observe::error_chain(&error), "cannot refresh alerts");
                }
            }
            for (fault, detail, change) in own.step(Instant::now(), &self.own_faults()) {
                let changed = self.changed(fault, detail, change, &self.replica);
                self.outbox.put(&changed.notice);
                self.pass_on(changed);
            }
            for (fault, detail, change) in shared.step(Instant::now(), &facts) {
                self.pass_on(self.changed(fault, detail, change, ""));
            }
            self.metrics.alerts(own.active().chain(shared.active()).map(|fault| fault.cause));
        }
    }

    /// Takes up what was on before a restart, once the store says so.
    async fn resume(&self, own: &mut Book, shared: &mut Book) {
        let (pool, log_id) = (self.store.pool(), self.store.log_id());
        loop {
            let found = tokio::try_join!(kept::active(pool, log_id, &self.replica), kept::active(pool, log_id, ""));
            if let Ok((of_replica, of_all)) = found {
                own.resume(Instant::now(), of_replica);
                shared.resume(Instant::now(), of_all);
                return;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// What this replica alone can see.
    fn own_faults(&self) -> Known {
        let mut known = self.faults.known(Instant::now());
        for (condition, why) in self.readiness.failing() {
            let cause = match condition.as_str() {
                "database" => Cause::Ingestion,
                "sequencer" | "checkpoints" => Cause::Sequencing,
                _ => continue,
            };
            known.insert(Fault { cause, subject: condition }, why);
        }
        known
    }

    fn changed(&self, fault: Fault, detail: String, change: Change, replica: &str) -> Changed {
        let state = match change {
            Change::Raised => "raised",
            Change::Cleared => "cleared",
        };
        let cause = fault.cause.as_str();
        match change {
            Change::Raised => tracing::error!(cause, subject = fault.subject, detail, "alert"),
            Change::Cleared => tracing::info!(cause, subject = fault.subject, "alert is over"),
        }
        let notice = Notice {
            version: "signet.alert/v1",
            log: self.store.origin().to_owned(),
            cause,
            subject: fault.subject.clone(),
            state,
            detail,
            at: jiff::Timestamp::now(),
        };
        Changed { fault, change, replica: replica.to_owned(), notice }
    }

    fn pass_on(&self, changed: Changed) {
        if let Err(error) = self.keep.try_send(changed) {
            self.metrics.unkept_alerts.inc();
            let changed = error.into_inner();
            tracing::error!(
                cause = changed.notice.cause,
                subject = changed.notice.subject,
                "too many alerts wait for PostgreSQL; this one will not be recorded"
            );
        }
    }
}

/// What tells this replica from others of its log: the machine's name.
fn replica() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unnamed".to_owned() } else { name.to_owned() }
}
