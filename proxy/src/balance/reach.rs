//! Whether connections to somewhere can be made, as the last attempt showed, and when to look again.
//!
//! Who is found down gets no calls until it has been reached again: by a call that was on its way, or by a probe. Probes of
//! what is down come less and less often.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::member::{millis, ms};

/// From finding it down to the first look; doubles with each look that finds it so.
const AGAIN: Duration = Duration::from_millis(500);
/// No look comes later than this after the one before.
const AGAIN_MOST: Duration = Duration::from_secs(4);

/// Shared by all workers. Races lose an attempt's word at worst, and the next one has its own.
#[derive(Debug, Default)]
pub struct Reach {
    down: AtomicBool,
    /// Looks in a row that found it down.
    failures: AtomicU32,
    /// When to look next, on the clock of [`ms`].
    next: AtomicU64,
}

impl Reach {
    /// Whether the last attempt failed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Whether it is time to look.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        ms(now) >= self.next.load(Ordering::Relaxed)
    }

    /// An attempt failed; `true` when it is news.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        let news = !self.down.swap(true, Ordering::Relaxed);
        if news {
            self.failures.store(0, Ordering::Relaxed);
            self.look_again(AGAIN, now);
        }
        news
    }

    /// A look found it down, as it was before or as news.
    pub(crate) fn still_down(&self, now: Instant) -> bool {
        let news = self.failed(now);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        self.look_again(AGAIN.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(AGAIN_MOST), now);
        news
    }

    /// It answered; `true` when it is news. Costs a read when it is not.
    pub(crate) fn reached(&self) -> bool {
        self.is_down() && self.down.swap(false, Ordering::Relaxed)
    }

    /// No look is needed for `time`.
    pub(crate) fn look_again(&self, time: Duration, now: Instant) {
        self.next.store(ms(now).saturating_add(millis(time)), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_what_is_down_come_less_often_up_to_a_bound_and_start_anew_after_it_was_up() {
        let reach = Reach::default();
        // The clock may begin with the first look at it.
        let start = Instant::now() + Duration::from_secs(1);
        assert!(!reach.is_down() && !reach.reached() && reach.is_due(start));
        assert!(reach.failed(start) && reach.is_down());
        assert!(!reach.failed(start), "calls that fail meanwhile are no news");
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..6 {
            let found = now;
            while !reach.is_due(now) {
                now += Duration::from_millis(100);
            }
            waits.push(now.duration_since(found).as_millis());
            assert!(!reach.still_down(now));
        }
        assert_eq!(waits, [500, 500, 1000, 2000, 4000, 4000]);
        assert!(reach.reached() && !reach.is_down() && !reach.reached());
        assert!(reach.failed(now) && reach.is_due(now + Duration::from_millis(500)));
    }
}
