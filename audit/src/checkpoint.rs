//! Signs the tree head: at most once a second, after growth, and only what continues what was signed before.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use signet_observe::Condition;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::merkle::Hash;
use crate::metrics::Metrics;
use crate::note::{Checkpoint, LogKey};
use crate::store::guard::Guard;
use crate::store::{Store, StoreError, signed};
use crate::witness::{Contradiction, Witnesses};

/// How often the tree is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// A checkpoint that was signed, remembered and stored, so that it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) size: u64,
    root: Hash,
    /// As the log signed it.
    note: String,
    /// Witness and line.
    cosignatures: Vec<(String, String)>,
}

impl Published {
    /// The note, with the cosignatures that there are.
    pub(crate) fn cosigned(&self) -> String {
        let lines = self.cosignatures.iter().map(|(_, line)| line.as_str());
        std::iter::once(self.note.as_str()).chain(lines).collect()
    }
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
    pub(crate) witnesses: Witnesses,
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

    /// Signs the tree as it is, if it grew since the last time. Witnesses are asked before it is shown, and again as long
    /// as it is the newest and some of them have not answered.
    ///
    /// # Errors
    /// When PostgreSQL is away, or what it holds does not continue what was signed.
    pub(crate) async fn sign(&self) -> Result<(), StoreError> {
        let mut connection = self.store.pool().acquire().await?;
        let (size, root) = self.store.head(&mut connection).await?;
        if let Some(latest) = self.latest.load_full()
            && latest.size == size
            && latest.root == root
            && !self.guard.is_contradicted()
        {
            drop(connection);
            return self.cosign(Published::clone(&latest)).await;
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
        drop(connection);
        self.cosign(Published { size, root, note, cosignatures: Vec::new() }).await?;
        self.metrics.checkpoint_size.set(signed(size));
        self.metrics.tree_size.set(signed(size));
        self.metrics.checkpoint_time.set(jiff::Timestamp::now().as_second());
        Ok(())
    }

    /// Publishes a checkpoint with the cosignatures that it can get. What a witness holds against it is looked into before
    /// it is shown.
    async fn cosign(&self, mut published: Published) -> Result<(), StoreError> {
        let before = published.cosignatures.len();
        if before < self.witnesses.count() {
            let have: Vec<String> = published.cosignatures.iter().map(|(witness, _)| witness.clone()).collect();
            let checkpoint = Checkpoint { size: published.size, root: published.root };
            let (cosigned, contradictions) =
                self.witnesses.cosign(&self.store, checkpoint, &published.note, &have).await;
            for Contradiction { witness, checkpoint, note } in contradictions {
                let mut connection = self.store.pool().acquire().await?;
                self.guard.recall(&self.store, &mut connection, checkpoint, &note).await.inspect_err(|_| {
                    tracing::error!(
                        witness,
                        size = checkpoint.size,
                        "the witness holds a checkpoint of ours that the database does not continue"
                    );
                })?;
            }
            self.keep(published.size, &cosigned).await?;
            published.cosignatures.extend(cosigned);
        }
        let lacking = self.witnesses.count().saturating_sub(published.cosignatures.len());
        self.metrics.lacking_cosignatures.set(i64::try_from(lacking).unwrap_or(i64::MAX));
        if published.cosignatures.len() > before
            || self.latest.load().as_ref().is_none_or(|latest| latest.root != published.root)
        {
            self.latest.store(Some(Arc::new(published)));
        }
        Ok(())
    }

    /// Keeps cosignatures beside the checkpoint, for evidence.
    async fn keep(&self, size: u64, cosigned: &[(String, String)]) -> Result<(), StoreError> {
        let (witnesses, lines): (Vec<&str>, Vec<&str>) =
            cosigned.iter().map(|(witness, line)| (witness.as_str(), line.as_str())).unzip();
        if witnesses.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO signet.cosignatures (log_id, size, witness, line)
             SELECT $1, $2, * FROM UNNEST($3::text[], $4::text[]) ON CONFLICT DO NOTHING",
        )
        .bind(self.store.log_id())
        .bind(signed(size))
        .bind(witnesses)
        .bind(lines)
        .execute(self.store.pool())
        .await?;
        Ok(())
    }
}
