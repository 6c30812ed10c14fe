//! The one place where records enter the store: takes batches from a bounded queue, commits as many as wait in one
//! transaction, then answers.
//!
//! INVARIANT: an answer says `committed` only after the transaction that holds the records was committed. While
//! PostgreSQL is away the same batches are tried again, the queue fills, and streams wait: nothing is dropped.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use signet_observe::Condition;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::merkle::Edge;
use crate::metrics::Metrics;
use crate::store::compact::{Prepared, Reader};
use crate::store::dictionary::Dictionaries;
use crate::store::guard::Guard;
use crate::store::{Store, StoreError};

mod own;
mod plan;
mod rows;
mod transaction;

pub(crate) use transaction::now_us;

/// Batches that wait for the next transaction.
const QUEUE: usize = 64;
/// Bounds of one transaction.
const MAX_RECORDS: usize = 20_000;
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Pause before a failed transaction is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Conflicts remembered so that each is recorded once.
const MAX_CONFLICTS: usize = 10_000;

/// A batch of one producer.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) producer: Arc<str>,
    pub(crate) epoch: Uuid,
    pub(crate) first_sequence: u64,
    pub(crate) entries: Vec<Prepared>,
    pub(crate) closing: bool,
    pub(crate) clock_offset_us: i64,
    pub(crate) reply: oneshot::Sender<Outcome>,
}

/// What becomes of a batch.
pub(crate) type Outcome = Result<Committed, Refused>;

/// What of an epoch is committed once a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The last sequence that the batch reaches. Not the watermark, which may lie beyond records that never came.
    pub(crate) last: u64,
    /// The epoch's closing is committed too.
    pub(crate) closed: bool,
}

/// Why a batch was not taken; the producer keeps it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "record {sequence} of epoch {epoch} was stored before with other bytes; the spool or its producer is not what it was"
    )]
    Conflict { epoch: Uuid, sequence: u64 },
    #[error("epoch {epoch} belongs to another producer")]
    OtherProducer { epoch: Uuid },
    #[error("epoch {epoch} was closed at {last}; nothing can follow")]
    Closed { epoch: Uuid, last: u64 },
    #[error("the store cannot hold this batch; see the audit service's log")]
    Unstorable,
}

/// Where batches go.
#[derive(Debug, Clone)]
pub(crate) struct Queue(mpsc::Sender<Work>);

impl Queue {
    /// Waits for room, then for the commit. `None` when the service is stopping.
    pub(crate) async fn put(&self, work: Work) -> Option<()> {
        self.0.send(work).await.ok()
    }
}

/// The sequencer of one log.
pub(crate) struct Sequencer {
    store: Store,
    guard: Arc<Guard>,
    metrics: Metrics,
    condition: Condition,
    queue: mpsc::Receiver<Work>,
    /// The tree as of the last commit; `None` when that is not known.
    edge: Option<Edge>,
    dictionaries: Dictionaries,
    /// Puts rows together again before they are stored, to see that they can be.
    reader: Reader,
    own: own::OwnEpoch,
    conflicts: HashSet<(Uuid, u64)>,
}

impl Sequencer {
    /// `component` is the SPIFFE ID under which the service records its own findings.
    pub(crate) fn new(
        store: Store,
        guard: Arc<Guard>,
        metrics: Metrics,
        condition: Condition,
        component: &str,
    ) -> (Self, Queue) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let sequencer = Self {
            store,
            guard,
            metrics,
            condition,
            queue,
            edge: None,
            dictionaries: Dictionaries::default(),
            reader: Reader::default(),
            own: own::OwnEpoch::new(component),
            conflicts: HashSet::new(),
        };
        (sequencer, Queue(sender))
    }

    /// Commits batches until `cancel`. Batches that were not answered are delivered again by their producers.
    ///
    /// # Cancel safety
    /// Dropping a transaction rolls it back; nothing was answered for it.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut carried = None;
        loop {
            let first = match carried.take() {
                Some(work) => work,
                None => tokio::select! {
                    () = cancel.cancelled() => return,
                    work = self.queue.recv() => match work {
                        Some(work) => work,
                        None => return,
                    },
                },
            };
            let mut group = vec![first];
            let (mut records, mut bytes) = size_of(&group);
            while let Ok(next) = self.queue.try_recv() {
                let (more_records, more_bytes) = size_of(std::slice::from_ref(&next));
                if records + more_records > MAX_RECORDS || bytes + more_bytes > MAX_BYTES {
                    carried = Some(next);
                    break;
                }
                records += more_records;
                bytes += more_bytes;
                group.push(next);
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.commit(group) => {}
            }
        }
    }

    /// Commits a group, trying until PostgreSQL takes it.
    async fn commit(&mut self, group: Vec<Work>) {
        match self.attempt(&group).await {
            Ok(outcomes) => answer(group, outcomes),
            Err(Failure::Data(error)) => {
                // One batch holds something that PostgreSQL refuses: find it, so that it stops no other.
                tracing::error!(
                    error = signet_observe::error_chain(&error),
                    batches = group.len(),
                    "the store refused data"
                );
                for work in group {
                    let alone = std::slice::from_ref(&work);
                    let outcomes = match self.attempt(alone).await {
                        Ok(outcomes) => outcomes,
                        Err(Failure::Data(error)) => {
                            tracing::error!(error = signet_observe::error_chain(&error), producer = &*work.producer,
                                epoch = %work.epoch, "the store refused this batch");
                            vec![Err(Refused::Unstorable)]
                        }
                    };
                    answer(vec![work], outcomes);
                }
            }
        }
    }

    /// Retries until the transaction committed or PostgreSQL refused the data itself.
    async fn attempt(&mut self, group: &[Work]) -> Result<Vec<Outcome>, Failure> {
        let mut pause = RETRY.0;
        loop {
            let started = Instant::now();
            match self.transaction(group).await {
                Ok(outcomes) => {
                    self.condition.set(Ok::<(), &str>(()));
                    self.metrics.batch_seconds.observe(started.elapsed().as_secs_f64());
                    self.metrics
                        .refused_batches
                        .inc_by(outcomes.iter().filter(|outcome| outcome.is_err()).count() as u64);
                    self.dictionaries.trim();
                    return Ok(outcomes);
                }
                Err(error) => {
                    // Whether it committed is not known: the watermark tells when it is tried again.
                    self.edge = None;
                    self.dictionaries.clear();
                    self.reader = Reader::default();
                    self.conflicts.clear();
                    if is_data_error(&error) {
                        return Err(Failure::Data(error));
                    }
                    self.metrics.store_errors.inc();
                    let text = signet_observe::error_chain(&error);
                    tracing::warn!(error = text, retry_ms = pause.as_millis(), "could not commit; producers wait");
                    self.condition.set(Err::<(), _>(&text));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }
}

/// Why a group was given up on.
enum Failure {
    /// PostgreSQL refused the data: trying again gives the same.
    Data(StoreError),
}

/// Whether the data, not the circumstances, made PostgreSQL refuse: data exceptions, integrity violations and limits.
fn is_data_error(error: &StoreError) -> bool {
    let StoreError::Database(error) = error else { return false };
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

fn size_of(group: &[Work]) -> (usize, usize) {
    let entries = group.iter().flat_map(|work| &work.entries);
    entries.fold((0, 0), |(records, bytes), entry| (records + 1, bytes + entry.canonical.len() + entry.personal.len()))
}

fn answer(group: Vec<Work>, outcomes: Vec<Outcome>) {
    for (work, outcome) in group.into_iter().zip(outcomes) {
        // The stream may be gone; its producer will deliver again.
        let _ = work.reply.send(outcome);
    }
}
