//! How many calls may be tried again: a share of all calls, so that retries never become the load that breaks a service.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// One retry, in the unit of the account.
const RETRY: i64 = 1000;
/// What is saved up at most, in retries.
const SAVED: i64 = 100;

/// The retries of one service's callers in this proxy.
#[derive(Debug)]
pub(in crate::outbound) struct Budget {
    /// Each call pays in its share, each retry takes [`RETRY`].
    account: AtomicI64,
    /// Of [`RETRY`], for each call.
    share: i64,
    /// So that a service with few calls has retries at all.
    reserve: Mutex<Reserve>,
    per_second: f64,
}

#[derive(Debug)]
struct Reserve {
    left: f64,
    at: Instant,
}

impl Budget {
    /// `percent` of calls may be retried, and `per_second` in any case.
    pub(in crate::outbound) fn new(percent: u32, per_second: u32) -> Self {
        Self {
            account: AtomicI64::new(0),
            share: i64::from(percent.min(100)) * RETRY / 100,
            reserve: Mutex::new(Reserve { left: f64::from(per_second), at: Instant::now() }),
            per_second: f64::from(per_second),
        }
    }

    /// A call began.
    pub(super) fn called(&self) {
        if self.account.load(Ordering::Relaxed) < SAVED * RETRY {
            self.account.fetch_add(self.share, Ordering::Relaxed);
        }
    }

    /// Whether one retry may be made now; it is then paid for.
    pub(super) fn take(&self, now: Instant) -> bool {
        let paid = self
            .account
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |account| (account >= RETRY).then(|| account - RETRY));
        if paid.is_ok() {
            return true;
        }
        let mut reserve = self.reserve.lock();
        let since = now.saturating_duration_since(reserve.at).as_secs_f64();
        reserve.left = (reserve.left + since * self.per_second).min(self.per_second);
        reserve.at = now;
        if reserve.left < 1.0 {
            return false;
        }
        reserve.left -= 1.0;
        true
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(20, 10)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;

    #[test]
    fn retries_stay_a_share_of_calls_beside_a_reserve() {
        let start = Instant::now();
        let budget = Budget::new(20, 3);
        let mut retried = 0;
        for _ in 0..1000 {
            budget.called();
            retried += u32::from(budget.take(start));
        }
        assert!((200..=203).contains(&retried), "{retried}");
        assert!(!budget.take(start), "nothing is left");
        assert!(budget.take(start + Duration::from_secs(1)), "the reserve fills with time");
    }

    #[test]
    fn what_is_saved_is_bounded() {
        let budget = Budget::new(100, 0);
        for _ in 0..10_000 {
            budget.called();
        }
        let now = Instant::now();
        let taken = (0..10_000).filter(|_| budget.take(now)).count();
        assert!(taken <= 101, "{taken}");
    }
}
