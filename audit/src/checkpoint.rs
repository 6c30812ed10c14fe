//! Signs the tree head: at most once a second, after growth, and only what continues what was signed before.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use signet_observe::Condition;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::note::{Checkpoint, LogKey};
use crate::store::guard::Guard;
use crate::store::{Store, StoreError, signed};

/// How often the tree is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// A checkpoint that was signed, remembered and stored, so that it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) size: u64,
    pub(crate) note: String,
}

/// The newest published checkpoint.
pub(crate) type Latest = Arc<ArcSwapOption<Published>>;

/// Signs checkpoints of one log.
pub(crate) struct Signer {
    pub(crate) store: Store,
    pub(crate) guard: Arc<Guard>,
    pub(crate) key: Arc<LogKey>,
    pub(crate) latest: Latest,
    pub(crate) metrics: Metrics,
    pub(crate) condition: Condition,
}

impl Signer {
    /// Signs until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut interval = tokio::time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = interval.tick() => {}
            }
            match self.sign().await {
                Ok(()) => self.condition.set(Ok::<(), &str>(())),
                Err(error) => {
                    let text = signet_observe::error_chain(&error);
                    if error.is_final() {
                        tracing::error!(error = text, "no checkpoint is signed");
                    } else {
                        tracing::warn!(error = text, "could not sign a checkpoint");
                    }
                    self.condition.set(Err::<(), _>(&text));
                }
            }
        }
    }

    /// Signs the tree as it is, if it grew since the last time.
    ///
    /// # Errors
    /// When PostgreSQL is away, or what it holds does not continue what was signed.
    pub(crate) async fn sign(&self) -> Result<(), StoreError> {
        let mut connection = self.store.pool().acquire().await?;
        let (size, root) = self.store.head(&mut connection).await?;
        if self.latest.load().as_ref().is_some_and(|latest| latest.size == size) {
            return Ok(());
        }
        self.guard.check(&self.store, &mut connection, size, &root).await?;
        let note = self.key.sign_checkpoint(size, &root);
        // Remembered before anyone sees it: whoever was shown a checkpoint can count on it.
        self.guard.remember(Checkpoint { size, root }, &note)?;
        sqlx::query(
            "INSERT INTO signet.checkpoints (log_id, size, root, note) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(self.store.log_id())
        .bind(signed(size))
        .bind(root.as_slice())
        .bind(&note)
        .execute(&mut *connection)
        .await?;
        self.latest.store(Some(Arc::new(Published { size, note })));
        self.metrics.checkpoint_size.set(signed(size));
        self.metrics.tree_size.set(signed(size));
        self.metrics.checkpoint_time.set(jiff::Timestamp::now().as_second());
        Ok(())
    }
}
