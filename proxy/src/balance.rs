//! Power of two choices over peak-EWMA load (Finagle's and linkerd's estimate).
//!
//! Each endpoint keeps a latency estimate that jumps up with a slow answer and decays with time, multiplied by what is
//! in flight. Two endpoints are drawn at random and the cheaper one is taken: no scan, no lock, no herd. Services that a
//! TrafficPolicy governs have more to them: [`spread`], [`ward`].

mod member;
mod reach;
mod ring;
mod spread;
mod ward;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use member::{Member, Slot};
pub use reach::Reach;
pub(crate) use ring::hash;
pub(crate) use spread::{Group, Spread, Tried};
pub use ward::{Limit, Ticket, Ward};

/// After this long without samples an estimate has lost 63% of its weight.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint is assumed to cost before its first answer.
const INITIAL: Duration = Duration::from_millis(30);

/// The load of one endpoint. Shared by all workers.
#[derive(Debug)]
pub struct Load {
    /// Nanoseconds, as `f64` bits.
    estimate: AtomicU64,
    /// Nanoseconds since [`epoch`] of the last sample.
    stamp: AtomicU64,
    pending: AtomicU32,
    /// Nanoseconds since [`epoch`] of the first call since the last sample.
    asked: AtomicU64,
}

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

fn nanos(d: Duration) -> f64 {
    d.as_secs_f64() * 1e9
}

fn since_epoch(now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch()).as_nanos()).unwrap_or(u64::MAX)
}

impl Default for Load {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Load {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            estimate: AtomicU64::new(nanos(INITIAL).to_bits()),
            stamp: AtomicU64::new(since_epoch(now)),
            pending: AtomicU32::new(0),
            asked: AtomicU64::new(0),
        }
    }

    /// What the endpoint costs now; comparable between endpoints only.
    #[must_use]
    pub fn cost(&self, now: Instant) -> f64 {
        self.decayed(now).max(1.0) * f64::from(self.pending.load(Ordering::Relaxed).saturating_add(1))
    }

    #[must_use]
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// How long calls have gone without a sample, those counted whose callers gave up.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Duration {
        let (answered, asked) = (self.stamp.load(Ordering::Relaxed), self.asked.load(Ordering::Relaxed));
        if self.pending() == 0 && answered >= asked {
            return Duration::ZERO;
        }
        Duration::from_nanos(since_epoch(now).saturating_sub(answered.max(asked)))
    }

    /// It is known by other means that the endpoint is there: silence begins anew.
    pub(crate) fn heard(&self, now: Instant) {
        let asked = if self.pending() == 0 { 0 } else { since_epoch(now) };
        self.asked.store(asked, Ordering::Relaxed);
    }

    fn decayed(&self, now: Instant) -> f64 {
        f64::from_bits(self.estimate.load(Ordering::Relaxed)) * self.weight(now)
    }

    fn weight(&self, now: Instant) -> f64 {
        let elapsed = since_epoch(now).saturating_sub(self.stamp.load(Ordering::Relaxed));
        (-(Duration::from_nanos(elapsed).as_secs_f64()) / DECAY.as_secs_f64()).exp()
    }

    /// A sample: a peak is taken as it is, anything lower is averaged in by its age. Races between workers lose a
    /// sample at worst.
    pub fn observe(&self, now: Instant, took: Duration) {
        let sample = nanos(took);
        let old = f64::from_bits(self.estimate.load(Ordering::Relaxed));
        let new = if sample > old {
            sample
        } else {
            let weight = self.weight(now);
            old * weight + sample * (1.0 - weight)
        };
        self.estimate.store(new.to_bits(), Ordering::Relaxed);
        self.stamp.store(since_epoch(now), Ordering::Relaxed);
    }
}

/// One call in flight to an endpoint: counted from `start` until dropped.
#[derive(Debug)]
pub struct InFlight {
    load: Arc<Load>,
    started: Instant,
    /// Of a service that is governed; boxed, because most are not.
    governed: Option<Box<Governed>>,
}

#[derive(Debug, Default)]
struct Governed {
    /// What it counts for in limits.
    _ticket: Option<Ticket>,
    slot: Option<Slot>,
    /// Whose health its trailers are still to tell of.
    untold: Option<Arc<Member>>,
}

impl InFlight {
    #[must_use]
    pub fn start(load: &Arc<Load>, now: Instant) -> Self {
        let first = load.pending.fetch_add(1, Ordering::Relaxed) == 0;
        if first && load.stamp.load(Ordering::Relaxed) >= load.asked.load(Ordering::Relaxed) {
            load.asked.store(since_epoch(now), Ordering::Relaxed);
        }
        Self { load: Arc::clone(load), started: now, governed: None }
    }

    /// Counted by `ticket` too.
    pub(crate) fn counted(mut self, ticket: Ticket) -> Self {
        self.governed.get_or_insert_default()._ticket = Some(ticket);
        self
    }

    /// It has a connection of its own.
    pub(crate) fn on(mut self, slot: Slot) -> Self {
        self.governed.get_or_insert_default().slot = Some(slot);
        self
    }

    /// The connection's place, for whoever keeps the connection.
    pub(crate) fn take_slot(&mut self) -> Option<Slot> {
        self.governed.as_mut()?.slot.take()
    }

    /// Whether it went well is for its trailers to say.
    pub(crate) fn told_by_trailers(mut self, member: Arc<Member>) -> Self {
        self.governed.get_or_insert_default().untold = Some(member);
        self
    }

    /// The answer's end has come: its trailers, or that it broke off.
    pub(crate) fn told(&mut self, good: bool, now: Instant) {
        if let Some(member) = self.governed.as_mut().and_then(|governed| governed.untold.take()) {
            member.judged(good, now);
        }
    }

    /// The endpoint answered.
    pub fn answered(&self, now: Instant) {
        self.load.observe(now, now.saturating_duration_since(self.started));
    }

    /// The endpoint failed: it counts as very slow, so that others are preferred for some seconds.
    pub fn failed(&self, now: Instant) {
        self.load.observe(now, Duration::from_secs(5));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Picks one of `items`: the cheaper of two drawn at random. `avoid` is an index that just failed and is taken only
/// when there is no other.
#[must_use]
pub fn pick<T>(items: &[T], load: impl Fn(&T) -> &Load, now: Instant, avoid: Option<usize>) -> Option<usize> {
    pick_by(items, |item| load(item).cost(now), avoid)
}

/// [`pick`] by any cost.
fn pick_by<T>(items: &[T], cost: impl Fn(&T) -> f64, avoid: Option<usize>) -> Option<usize> {
    let n = items.len();
    let draw = |not: Option<usize>| -> usize {
        let free = n - usize::from(not.is_some());
        let i = fastrand::usize(..free.max(1));
        match not {
            Some(not) if i >= not => i + 1,
            _ => i,
        }
    };
    match (n, avoid.filter(|a| *a < n)) {
        (0, _) => None,
        (1, _) => Some(0),
        (2, Some(avoid)) => Some(1 - avoid),
        (_, Some(avoid)) => Some(draw(Some(avoid))),
        (_, None) => {
            let a = draw(None);
            let b = draw(Some(a));
            let cost = |i: usize| items.get(i).map_or(f64::MAX, &cost);
            Some(if cost(b) < cost(a) { b } else { a })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slow_endpoint_gets_a_small_share() {
        let now = Instant::now();
        let loads: Vec<Arc<Load>> = (0..4).map(|_| Arc::new(Load::new(now))).collect();
        for (i, load) in loads.iter().enumerate() {
            let took = if i == 0 { Duration::from_millis(500) } else { Duration::from_millis(1) };
            for step in 0..50 {
                load.observe(now + Duration::from_millis(200 * step), took);
            }
        }
        let at = now + Duration::from_secs(10);
        let mut hits = [0_u32; 4];
        for _ in 0..4000 {
            hits[pick(&loads, |l| l, at, None).unwrap()] += 1;
        }
        // The worst of all loses every draw it is in.
        assert_eq!(hits[0], 0, "{hits:?}");
        assert!(hits[1..].iter().all(|h| *h > 500), "{hits:?}");
    }

    #[test]
    fn silence_begins_with_a_call_and_ends_with_an_answer() {
        let (load, start) = (Arc::new(Load::default()), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(load.silent_for(at(9)), Duration::ZERO);
        let first = InFlight::start(&load, at(10));
        let second = InFlight::start(&load, at(11));
        assert_eq!(load.silent_for(at(12)), Duration::from_secs(2));
        first.answered(at(12));
        assert_eq!(load.silent_for(at(13)), Duration::from_secs(1), "the second is in flight");
        drop((first, second));
        assert_eq!(load.silent_for(at(99)), Duration::ZERO);
        // Callers that give up early do not hide that nobody answers.
        for second in 100..104 {
            drop(InFlight::start(&load, at(second)));
        }
        assert_eq!(load.silent_for(at(104)), Duration::from_secs(4));
        load.heard(at(104));
        assert_eq!(load.silent_for(at(105)), Duration::ZERO);
    }

    #[test]
    fn estimate_jumps_up_and_decays() {
        let now = Instant::now();
        let load = Load::new(now);
        load.observe(now, Duration::from_secs(1));
        let peak = load.cost(now);
        assert!(peak >= 9.9e8);
        assert!(load.cost(now + Duration::from_secs(30)) < peak / 10.0);
    }

    proptest! {
        /// Whatever the loads: the pick is in range, is never the avoided one when another exists, and is never the
        /// single most expensive of three or more... drawn in a pair it must lose.
        #[test]
        fn pick_is_in_range_and_never_the_strict_worst(costs in prop::collection::vec(1_u64..1_000_000, 1..12), avoid in prop::option::of(0_usize..12)) {
            let now = Instant::now();
            let loads: Vec<Load> = costs.iter().map(|c| {
                let l = Load::new(now);
                l.estimate.store((*c as f64).to_bits(), Ordering::Relaxed);
                l
            }).collect();
            let got = pick(&loads, |l| l, now, avoid).unwrap();
            prop_assert!(got < loads.len());
            if let Some(a) = avoid.filter(|a| loads.len() > 1 && *a < loads.len()) {
                prop_assert_ne!(got, a);
            }
            let worst = *costs.iter().max().unwrap();
            let strict = costs.iter().filter(|c| **c == worst).count() == 1;
            if avoid.filter(|a| *a < loads.len()).is_none() && loads.len() > 1 && strict {
                prop_assert_ne!(costs[got], worst);
            }
        }

        #[test]
        fn in_flight_counts_return_to_zero(n in 1_usize..50) {
            let now = Instant::now();
            let load = Arc::new(Load::new(now));
            let held: Vec<InFlight> = (0..n).map(|_| InFlight::start(&load, now)).collect();
            prop_assert_eq!(load.pending() as usize, n);
            drop(held);
            prop_assert_eq!(load.pending(), 0);
        }
    }
}
