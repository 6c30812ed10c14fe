//! What proxies see at this moment, for people who watch: asks for no more than is wanted, and hands on what comes.
//!
//! Nothing is kept: who does not read in time misses calls, which are counted, and nobody waits for anybody.
//!
//! INVARIANT: a proxy is believed about its own workload and the services that it serves, and about nothing else.

mod attach;
mod scope;
mod sum;
mod tap;
mod top;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signet_api::control::{FlowReport, Sightings, Tap, TapFilter, TappedCall, Wanted};
use tokio::sync::{broadcast, mpsc, watch};

pub(crate) use attach::LiveService;
use scope::Scope;
pub(crate) use tap::{Updates as TapUpdates, tap};
pub(crate) use top::{Updates as TopUpdates, top};

/// People who watch flows at once.
const MAX_TOPS: usize = 32;
/// People who watch calls at once; each proxy serves as many.
const MAX_TAPS: usize = 8;
/// How often proxies report their flows while somebody watches.
const FLOWS_EVERY_MS: u32 = 1_000;
/// Reports that wait for each of those who watch.
const REPORTS: usize = 4_096;
/// Calls that wait for one tap's reader.
const CALLS: usize = 2_048;

/// Cheap to clone; clones are one.
#[derive(Clone)]
pub(crate) struct LiveHub(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    wanted: watch::Sender<Wanted>,
    flows: broadcast::Sender<Arc<Reported>>,
}

#[derive(Default)]
struct State {
    tops: usize,
    taps: BTreeMap<u64, OpenTap>,
    next: u64,
}

struct OpenTap {
    wanted: Tap,
    queue: mpsc::Sender<TappedCall>,
    dropped: Arc<AtomicU64>,
}

/// One proxy's report, of what it may speak of.
struct Reported {
    proxy: String,
    report: FlowReport,
}

/// As many watch already as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooMany;

/// Somebody watches flows; dropping it ends that.
struct Watching {
    hub: LiveHub,
    reports: broadcast::Receiver<Arc<Reported>>,
}

/// Somebody watches calls; dropping it ends that.
struct Tapping {
    hub: LiveHub,
    id: u64,
    calls: mpsc::Receiver<TappedCall>,
    dropped: Arc<AtomicU64>,
}

impl LiveHub {
    /// Nobody watches yet.
    pub(crate) fn new() -> Self {
        let shared = Shared {
            state: Mutex::default(),
            wanted: watch::Sender::new(Wanted::default()),
            flows: broadcast::Sender::new(REPORTS),
        };
        Self(Arc::new(shared))
    }

    /// Follows what proxies are to show.
    fn wanted(&self) -> watch::Receiver<Wanted> {
        self.0.wanted.subscribe()
    }

    fn watch(&self) -> Result<Watching, TooMany> {
        let mut state = self.state();
        if state.tops >= MAX_TOPS {
            return Err(TooMany);
        }
        state.tops += 1;
        let reports = self.0.flows.subscribe();
        self.publish(&state);
        drop(state);
        Ok(Watching { hub: self.clone(), reports })
    }

    fn tap(&self, filter: TapFilter, per_second: u32) -> Result<Tapping, TooMany> {
        let mut state = self.state();
        if state.taps.len() >= MAX_TAPS {
            return Err(TooMany);
        }
        state.next += 1;
        let id = state.next;
        let (queue, calls) = mpsc::channel(CALLS);
        let dropped = Arc::<AtomicU64>::default();
        let wanted = Tap { id, filter: Some(filter), per_second };
        state.taps.insert(id, OpenTap { wanted, queue, dropped: Arc::clone(&dropped) });
        self.publish(&state);
        drop(state);
        Ok(Tapping { hub: self.clone(), id, calls, dropped })
    }

    /// Hands on what a proxy shows.
    fn sighted(&self, proxy: &str, scope: &Scope, sightings: Sightings) {
        if let Some(mut report) = sightings.flows {
            report.flows.retain(|flow| scope.covers(&flow.source, &flow.destination));
            // Without a receiver nobody watches any more.
            let _ = self.0.flows.send(Arc::new(Reported { proxy: proxy.to_owned(), report }));
        }
        if sightings.calls.is_empty() && sightings.drops.is_empty() {
            return;
        }
        let state = self.state();
        for call in sightings.calls.into_iter().filter(|call| scope.covers(&call.source, &call.destination)) {
            if let Some(tap) = state.taps.get(&call.tap)
                && tap.queue.try_send(TappedCall { proxy: proxy.to_owned(), ..call }).is_err()
            {
                tap.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        for drops in sightings.drops {
            if let Some(tap) = state.taps.get(&drops.tap) {
                tap.dropped.fetch_add(drops.calls, Ordering::Relaxed);
            }
        }
    }

    fn publish(&self, state: &State) {
        self.0.wanted.send_replace(Wanted {
            flows_every_ms: if state.tops > 0 { FLOWS_EVERY_MS } else { 0 },
            taps: state.taps.values().map(|tap| tap.wanted.clone()).collect(),
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before its lock is given up: a panic elsewhere leaves nothing half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.tops = state.tops.saturating_sub(1);
        self.hub.publish(&state);
    }
}

impl Drop for Tapping {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.taps.remove(&self.id);
        self.hub.publish(&state);
    }
}

#[cfg(test)]
mod tests;
