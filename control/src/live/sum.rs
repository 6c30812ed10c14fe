//! Reports of many proxies as one.

use std::collections::{BTreeMap, BTreeSet};

use signet_api::control::{FlowCounts, TopUpdate};

use super::Reported;

/// Rows of one update; what does not fit is counted as missed.
const MAX_ROWS: usize = 5_000;
/// Buckets of durations that a report can have.
const MAX_BUCKETS: usize = 32;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: String,
    destination: String,
    route: String,
    direction: String,
}

/// What came since the last update.
#[derive(Default)]
pub(super) struct Sum {
    rows: BTreeMap<Key, FlowCounts>,
    /// Of the buckets that are summed: the first report's.
    bounds_us: Vec<u64>,
    proxies: BTreeSet<String>,
    window_us: u64,
    missed: u64,
}

impl Sum {
    pub(super) fn add(&mut self, reported: &Reported) {
        self.proxies.insert(reported.proxy.clone());
        self.window_us = self.window_us.saturating_add(reported.report.window_us);
        if self.bounds_us.is_empty() {
            self.bounds_us = reported.report.bounds_us.iter().take(MAX_BUCKETS - 1).copied().collect();
        }
        // Durations by other buckets, of another version's proxy, cannot be summed.
        let comparable = reported.report.bounds_us.iter().take(MAX_BUCKETS - 1).eq(&self.bounds_us);
        for flow in &reported.report.flows {
            let key = Key {
                source: flow.source.clone(),
                destination: flow.destination.clone(),
                route: flow.route.clone(),
                direction: flow.direction.clone(),
            };
            let full = self.rows.len() >= MAX_ROWS;
            match self.rows.get_mut(&key) {
                None if full => {
                    self.missed(1);
                    continue;
                }
                Some(row) => add(row, flow),
                None => {
                    let row = FlowCounts { durations: Vec::new(), ..flow.clone() };
                    self.rows.insert(key.clone(), row);
                }
            }
            if comparable && let Some(row) = self.rows.get_mut(&key) {
                add_durations(&mut row.durations, &flow.durations);
            }
        }
    }

    pub(super) fn missed(&mut self, reports: u64) {
        self.missed = self.missed.saturating_add(reports);
    }

    /// All of it, and begins anew. The window is that of one proxy, on average.
    pub(super) fn take(&mut self) -> TopUpdate {
        let sum = std::mem::take(self);
        TopUpdate {
            window_us: sum.window_us.checked_div(sum.proxies.len() as u64).unwrap_or_default(),
            flows: sum.rows.into_values().collect(),
            proxies: u32::try_from(sum.proxies.len()).unwrap_or(u32::MAX),
            missed: sum.missed,
            bounds_us: sum.bounds_us,
        }
    }
}

fn add_durations(to: &mut Vec<u64>, more: &[u64]) {
    to.resize(to.len().max(more.len().min(MAX_BUCKETS)), 0);
    for (bucket, more) in to.iter_mut().zip(more) {
        *bucket = bucket.saturating_add(*more);
    }
}

fn add(to: &mut FlowCounts, more: &FlowCounts) {
    for (count, more) in [
        (&mut to.requests, more.requests),
        (&mut to.denied, more.denied),
        (&mut to.failed, more.failed),
        (&mut to.connections, more.connections),
        (&mut to.connections_denied, more.connections_denied),
        (&mut to.received_bytes, more.received_bytes),
        (&mut to.sent_bytes, more.sent_bytes),
    ] {
        *count = count.saturating_add(more);
    }
}
