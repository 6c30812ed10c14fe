//! Faults that a TrafficPolicy asks for, so that callers can be tested against a service that is slow or fails. Nothing of
//! a call that is aborted is sent; the destination never hears of it.

use http::Response;

use crate::answer::{self, Form};
use crate::body::Body;
use crate::metrics::Metrics;
use crate::snapshot::traffic::Faults;

/// Whether a share of `permyriad` ten-thousandths is met.
fn drawn(permyriad: u32) -> bool {
    permyriad > 0 && fastrand::u32(..10_000) < permyriad
}

/// Delays the call, then gives the answer of one that is aborted. Each is drawn by itself.
pub(super) async fn make(faults: &Faults, form: Form, metrics: &Metrics) -> Option<Response<Body>> {
    if drawn(faults.delay_permyriad) {
        metrics.fault_delays.inc();
        tokio::time::sleep(faults.delay).await;
    }
    drawn(faults.abort_permyriad).then(|| {
        metrics.fault_aborts.inc();
        answer::injected(form, faults.abort_status, faults.abort_grpc)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[tokio::test]
    async fn shares_are_kept_and_each_fault_is_drawn_by_itself() {
        let metrics = Metrics::register(&mut Registry::default());
        let faults = Faults {
            delay_permyriad: 2_500,
            delay: Duration::ZERO,
            abort_permyriad: 1_000,
            abort_status: StatusCode::IM_A_TEAPOT,
            abort_grpc: 8,
        };
        let mut aborted = 0_u64;
        for _ in 0..4_000 {
            aborted += u64::from(make(&faults, Form::Http, &metrics).await.is_some());
        }
        // Six standard deviations (27 and 19) to either side.
        let delayed = metrics.fault_delays.get();
        assert!((835..1_165).contains(&delayed), "{delayed}");
        assert!((285..515).contains(&aborted), "{aborted}");
        assert_eq!(metrics.fault_aborts.get(), aborted);
    }

    #[test]
    fn all_and_nothing_are_exact() {
        assert!((0..10_000).all(|_| drawn(10_000) && !drawn(0)));
    }
}
