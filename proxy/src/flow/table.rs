//! All flows of a proxy, and the bound on how many there are.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;

use super::{Flow, FlowKey, LIMIT, OTHER};
use crate::metrics::Direction;

/// The flows that a proxy has seen. None is ever forgotten: a workload's callers and routes are few, and a counter that
/// begins anew misleads.
#[derive(Debug)]
pub struct Flows {
    hasher: RandomState,
    limit: usize,
    table: RwLock<Table>,
    /// One for each direction.
    other: [Arc<Flow>; Direction::ALL.len()],
    pub(super) overflowed: Counter,
}

#[derive(Debug, Default)]
struct Table {
    /// By hash of their keys: a lookup needs no owned key.
    by_hash: HashMap<u64, Vec<Arc<Flow>>>,
    len: usize,
}

impl Default for Flows {
    fn default() -> Self {
        Self::with_limit(LIMIT)
    }
}

impl Flows {
    /// At most `limit` flows besides those that are counted together.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        let other =
            |direction| Arc::new(Flow::new(FlowKey { direction, source: OTHER, destination: OTHER, route: OTHER }));
        Self {
            hasher: RandomState::new(),
            limit,
            table: RwLock::default(),
            other: Direction::ALL.map(other),
            overflowed: Counter::default(),
        }
    }

    /// The series of `key`; those of all others together when there is no place for it, which is counted.
    pub fn get(&self, key: FlowKey<'_>) -> Arc<Flow> {
        let hash = self.hasher.hash_one(key);
        if let Some(flow) = self.table.read().find(hash, key) {
            return flow;
        }
        let mut table = self.table.write();
        // Another may have come first.
        if let Some(flow) = table.find(hash, key) {
            return flow;
        }
        if table.len >= self.limit {
            drop(table);
            self.overflowed.inc();
            return self.other(key.direction);
        }
        let flow = Arc::new(Flow::new(key));
        table.by_hash.entry(hash).or_default().push(Arc::clone(&flow));
        table.len += 1;
        flow
    }

    fn other(&self, direction: Direction) -> Arc<Flow> {
        let [inbound, outbound, forward] = &self.other;
        Arc::clone(match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
            Direction::Forward => forward,
        })
    }

    /// Every flow, those without a place of their own last.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Flow>> {
        let table = self.table.read();
        table.by_hash.values().flatten().chain(&self.other).map(Arc::clone).collect()
    }

    /// How many have a place of their own.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.read().len
    }

    /// Nothing was seen yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    fn find(&self, hash: u64, key: FlowKey<'_>) -> Option<Arc<Flow>> {
        self.by_hash.get(&hash)?.iter().find(|flow| flow.is(key)).map(Arc::clone)
    }
}
