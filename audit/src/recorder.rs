//! The service as a producer of records about itself and its readers: they go through the sequencer like any other.
//!
//! INVARIANT: one task owns the epoch and its sequence, so that a caller that goes away in the middle leaves no hole and no
//! sequence that is used twice.

use std::sync::Arc;

use signet_spool::{Kind, Record};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::sequencer::{Queue, Refused, Work, now_us};
use crate::store::compact::{PrepareError, Prepared};

/// Records that wait; whoever brings the next one waits too.
const WAITING: usize = 256;
/// Most records of one batch.
const BATCH: usize = 128;

/// Why a record is not in the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRecorded {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("the audit service is stopping")]
    Stopping,
    #[error(transparent)]
    Refused(#[from] Refused),
}

struct Waiting {
    entry: Prepared,
    reply: oneshot::Sender<Result<(), Refused>>,
}

/// Where the service's own records go; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    producer: Arc<str>,
    waiting: mpsc::Sender<Waiting>,
}

/// The task behind [`Recorder`]s.
pub(crate) struct Recording {
    producer: Arc<str>,
    queue: Queue,
    waiting: mpsc::Receiver<Waiting>,
}

impl Recorder {
    /// `component` is the SPIFFE ID under which the service records; nothing is recorded before [`Recording::run`].
    pub(crate) fn new(component: &str, queue: Queue) -> (Self, Recording) {
        let (sender, waiting) = mpsc::channel(WAITING);
        let producer: Arc<str> = component.into();
        (Self { producer: Arc::clone(&producer), waiting: sender }, Recording { producer, queue, waiting })
    }

    /// The SPIFFE ID under which it records.
    pub(crate) fn producer(&self) -> &str {
        &self.producer
    }

    /// An event that succeeded, now.
    pub(crate) fn event(&self, action: impl Into<String>, reason: &str, detail: &serde_json::Value) -> Record {
        Record {
            id: Uuid::now_v7(),
            time_us: now_us(),
            kind: Kind::Event,
            producer: self.producer.to_string(),
            action: action.into(),
            allow: true,
            reason: reason.to_owned(),
            tls: "none".to_owned(),
            detail: Some(detail.to_string()),
            ..Record::default()
        }
    }

    /// Commits a record and gives its id. Waits for as long as PostgreSQL is away.
    ///
    /// # Errors
    /// When it is not committed.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the record may be committed all the same.
    pub(crate) async fn record(&self, record: Record) -> Result<Uuid, NotRecorded> {
        let id = record.id;
        let (reply, outcome) = oneshot::channel();
        let waiting = Waiting { entry: Prepared::of(&record)?, reply };
        self.waiting.send(waiting).await.map_err(|_| NotRecorded::Stopping)?;
        outcome.await.map_err(|_| NotRecorded::Stopping)??;
        Ok(id)
    }
}

impl Recording {
    /// Commits what waits, as a batch each, until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.commit()).await;
    }

    async fn commit(&mut self) {
        let epoch = Uuid::now_v7();
        let mut next = 1;
        let mut waiting = Vec::new();
        while self.waiting.recv_many(&mut waiting, BATCH).await > 0 {
            let (entries, replies): (Vec<_>, Vec<_>) =
                waiting.drain(..).map(|Waiting { entry, reply }| (entry, reply)).unzip();
            let (reply, outcome) = oneshot::channel();
            let work = Work {
                producer: Arc::clone(&self.producer),
                epoch,
                first_sequence: next,
                entries,
                closing: false,
                clock_offset_us: 0,
                reply,
            };
            if self.queue.put(work).await.is_none() {
                return;
            }
            let Ok(outcome) = outcome.await else { return };
            match &outcome {
                Ok(committed) => next = committed.last + 1,
                Err(refused) => tracing::error!(error = %refused, "the service's own records were refused"),
            }
            for reply in replies {
                // Whoever asked may be gone.
                let _ = reply.send(outcome.clone().map(|_| ()));
            }
        }
    }
}
