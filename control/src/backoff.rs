//! Waiting longer after each failure, with jitter, up to a bound.

use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// After success: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Waits between half and the whole of the current step.
    pub(crate) async fn wait(&mut self) {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        tokio::time::sleep(step.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}
