//! Steps of the machine's clock.
//!
//! Open connections wait for ends of certificates and for time bounds of policies by timers, which count what passes and
//! not what the clock says. When the clock is set, by an administrator, after a suspension or by a first synchronisation,
//! they wait for the wrong moment; so somebody has to notice, and all have to look again.

use std::time::{Duration, Instant};

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Less than this is a look that came late, or a clock that is being disciplined: no timer is wrong by more.
const STEP_US: i64 = 500_000;

/// What the clock said last.
pub(super) struct Clock {
    wall_us: i64,
    at: Instant,
}

impl Clock {
    /// `now_us`: UTC microseconds.
    pub(super) fn new(now_us: i64, at: Instant) -> Self {
        Self { wall_us: now_us, at }
    }

    /// By how many microseconds the clock was set since the last look; back is negative.
    pub(super) fn stepped(&mut self, now_us: i64, at: Instant) -> Option<i64> {
        let passed = i64::try_from(at.saturating_duration_since(self.at).as_micros()).unwrap_or(i64::MAX);
        let step = now_us.saturating_sub(self.wall_us).saturating_sub(passed);
        *self = Self { wall_us: now_us, at };
        (step.saturating_abs() >= STEP_US).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use prometheus_client::registry::Registry;
    use signet_mtls::testing::{self, Ca, id};

    use super::*;
    use crate::decide::Enforcer;
    use crate::metrics::Metrics;

    #[test]
    fn steps_in_both_directions_are_told_once_and_passing_time_is_none() {
        const HOUR_US: i64 = 3_600_000_000;
        let start = Instant::now();
        let mut clock = Clock::new(HOUR_US, start);
        let mut wall = HOUR_US;
        for (second, set, told) in [
            (1, 0, None),
            // Late by more than a step is long: both went on.
            (9, 0, None),
            (10, 400_000, None),
            (11, 2 * HOUR_US, Some(2 * HOUR_US)),
            (12, 0, None),
            (13, -HOUR_US, Some(-HOUR_US)),
            (14, -499_999, None),
            (15, i64::MIN / 2, Some(i64::MIN / 2)),
        ] {
            let at = start + Duration::from_secs(second);
            wall = wall.saturating_add(set);
            let passed = i64::try_from(at.duration_since(start).as_micros()).unwrap();
            assert_eq!(clock.stepped(wall + passed, at), told, "second {second}");
        }
    }

    #[test]
    fn a_step_has_everybody_look_again_at_decisions_and_at_certificates() {
        let ca = Ca::new("east.bank.example");
        let source = testing::source(&[&ca], &[id("spiffe://east.bank.example/ns/bank/sa/ledger")]);
        let metrics = Metrics::register(&mut Registry::default());
        let enforcer = Enforcer::new(None, source.current(), std::sync::Arc::clone(&metrics));
        let (changes, trust) = (enforcer.changes(), enforcer.trust_epoch());
        enforcer.clock_stepped(-2_000_000);
        assert!(changes.has_changed().unwrap());
        assert_ne!(enforcer.trust_epoch(), trust);
        assert_eq!(metrics.clock_steps.get(), 1);
    }
}
