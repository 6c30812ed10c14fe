//! New decisions, read once for all viewers.
//!
//! One task follows the audit store in commit order and broadcasts what it finds. A viewer that is too slow, or that
//! comes back after an interruption, reads what it missed from the store itself, so that the list has no holes and no
//! doubles. INVARIANT: a row is given to a viewer only if its leaf index is not below the viewer's position in that log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use signet_audit::query::TailCursor;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::store::{Row, Store};

/// How often the store is asked; new decisions show well within a second.
const INTERVAL: Duration = Duration::from_millis(200);
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Batches kept for a slow viewer before it has to read from the store.
const BATCHES: usize = 128;
pub(crate) const BATCH_ROWS: u32 = 1000;

/// Rows committed together, and where the logs stood after them.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) rows: Vec<Row>,
    pub(crate) end: TailCursor,
}

/// The feed that viewers subscribe to.
#[derive(Clone)]
pub struct Live {
    feed: broadcast::Sender<Arc<Batch>>,
}

impl Live {
    #[expect(clippy::new_without_default, reason = "an empty feed is not a default of anything")]
    pub fn new() -> Self {
        Self { feed: broadcast::Sender::new(BATCHES) }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Batch>> {
        self.feed.subscribe()
    }

    /// Follows the store until `cancel`. A store that does not answer is asked again each second.
    pub async fn follow(&self, store: Store, cancel: CancellationToken) {
        let run = async {
            let mut cursor = loop {
                match store.end().await {
                    Ok(cursor) => break cursor,
                    Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
                }
            };
            loop {
                match store.tail(&mut cursor, BATCH_ROWS).await {
                    Ok(rows) if rows.is_empty() => tokio::time::sleep(INTERVAL).await,
                    Ok(rows) => {
                        // No receiver is not a failure: nobody looks.
                        let _ = self.feed.send(Arc::new(Batch { rows, end: cursor.clone() }));
                        tokio::time::sleep(INTERVAL).await;
                    }
                    Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
                }
            }
        };
        cancel.run_until_cancelled(run).await;
    }
}

/// How far a viewer has seen each log.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    leaves: BTreeMap<String, i64>,
}

impl Seen {
    pub(crate) fn at(cursor: &TailCursor) -> Self {
        let text = cursor.to_string();
        let leaves = text
            .split(',')
            .filter_map(|part| part.split_once('='))
            .filter_map(|(log, size)| Some((log.to_owned(), size.parse().ok()?)))
            .collect();
        Self { leaves }
    }

    pub(crate) fn is_new(&self, row: &Row) -> bool {
        self.leaves.get(&row.decision.log).is_none_or(|size| row.leaf_index >= *size)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use crate::store::tests::row;

    #[test]
    fn a_viewer_never_gets_a_row_twice() {
        let seen = Seen::at(&"east/signet-log=7".parse().unwrap());
        let table = [("east/signet-log", 6, false), ("east/signet-log", 7, true), ("west/signet-log", 0, true)];
        for (log, leaf, expected) in table {
            let mut row = row();
            row.decision.log = log.into();
            row.leaf_index = leaf;
            assert_eq!(seen.is_new(&row), expected, "{log} {leaf}");
        }
    }
}
