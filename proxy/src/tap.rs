//! Calls shown to whoever watches them, as they are answered.
//!
//! While nobody watches, a call costs one look at a flag. While somebody does, a call that fits costs a few allocations; it
//! never waits: what goes over a tap's rate, or finds its queue full, is dropped and counted.
//!
//! INVARIANT: what is shown is less than what a record holds. Nothing of a body, a query or a header but the trace's id is
//! ever here, and no path where the bundle says that paths are personal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use signet_api::control as wire;
use tokio::sync::mpsc;

use crate::decide::now_us;
use crate::flow::Decided;

/// Taps that a proxy serves at once.
const MAX_TAPS: usize = 16;
/// Calls a second that one tap shows at most, whatever it asks for.
const MAX_PER_SECOND: u32 = 1_000;

/// Whoever watches a proxy's calls now.
#[derive(Default)]
pub struct Taps {
    on: AtomicBool,
    watches: ArcSwap<Vec<Arc<Watch>>>,
}

/// One tap.
struct Watch {
    id: u64,
    filter: wire::TapFilter,
    rate: Rate,
    dropped: AtomicU64,
    queue: mpsc::Sender<wire::TappedCall>,
}

/// A call that somebody watches, between its decision and its answer.
pub(crate) struct Tapped {
    call: wire::TappedCall,
    watches: Vec<Arc<Watch>>,
}

impl Taps {
    /// Whether a call has to be looked at.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Shows `wanted`, and nothing else, through `queue`. A tap that stays keeps its count of drops.
    pub(crate) fn set(&self, wanted: &[wire::Tap], queue: &mpsc::Sender<wire::TappedCall>) {
        let old = self.watches.load();
        let watches: Vec<Arc<Watch>> = wanted
            .iter()
            .take(MAX_TAPS)
            .map(|tap| {
                let same = |watch: &&Arc<Watch>| watch.id == tap.id && watch.queue.same_channel(queue);
                old.iter().find(same).map_or_else(|| Arc::new(Watch::new(tap, queue.clone())), Arc::clone)
            })
            .collect();
        self.on.store(!watches.is_empty(), Ordering::Relaxed);
        self.watches.store(Arc::new(watches));
    }

    /// `call`, when a tap wants it. `allow` is as decided.
    pub(crate) fn take(&self, call: wire::TappedCall, allow: bool) -> Option<Box<Tapped>> {
        let watches = self.watches.load();
        let watches: Vec<_> = watches.iter().filter(|watch| watch.wants(&call, allow)).map(Arc::clone).collect();
        (!watches.is_empty()).then(|| Box::new(Tapped { call, watches }))
    }

    /// What was dropped since this was last asked.
    pub(crate) fn drops(&self) -> Vec<wire::TapDrops> {
        let watches = self.watches.load();
        let dropped =
            |watch: &Arc<Watch>| wire::TapDrops { tap: watch.id, calls: watch.dropped.swap(0, Ordering::Relaxed) };
        watches.iter().map(dropped).filter(|drops| drops.calls > 0).collect()
    }
}

impl Tapped {
    /// The call was answered with `status` (0: no HTTP), `took` after it came.
    pub(crate) fn answered(&self, decided: Decided, status: u16, took: Duration) {
        for watch in &self.watches {
            watch.show(wire::TappedCall {
                tap: watch.id,
                time_us: now_us(),
                status: status.into(),
                allow: decided == Decided::Allow,
                latency_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                ..self.call.clone()
            });
        }
    }
}

impl Watch {
    fn new(tap: &wire::Tap, queue: mpsc::Sender<wire::TappedCall>) -> Self {
        Self {
            id: tap.id,
            filter: tap.filter.clone().unwrap_or_default(),
            rate: Rate::new(tap.per_second.min(MAX_PER_SECOND)),
            dropped: AtomicU64::new(0),
            queue,
        }
    }

    fn wants(&self, call: &wire::TappedCall, allow: bool) -> bool {
        let wire::TapFilter { source, destination, route, path_prefix, decision } = &self.filter;
        let fits = |asked: &str, is: &str| asked.is_empty() || asked == is;
        fits(source, &call.source)
            && fits(destination, &call.destination)
            && fits(route, &call.route)
            && call.path.starts_with(path_prefix)
            && fits(decision, if allow { "allow" } else { "deny" })
    }

    fn show(&self, call: wire::TappedCall) {
        if !self.rate.take(Instant::now()) || self.queue.try_send(call).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// So many in each second.
struct Rate {
    per_second: u32,
    used: Mutex<(Instant, u32)>,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        Self { per_second, used: Mutex::new((Instant::now(), 0)) }
    }

    fn take(&self, now: Instant) -> bool {
        let mut used = self.used.lock();
        if now.saturating_duration_since(used.0) >= Duration::from_secs(1) {
            *used = (now, 0);
        }
        used.1 = used.1.saturating_add(1);
        used.1 <= self.per_second
    }
}

#[cfg(test)]
mod tests;
