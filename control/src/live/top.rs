//! `Status.Top`: flows summed over the proxies that see them.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use signet_api::control::{TopRequest, TopUpdate};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::sum::Sum;
use super::{FLOWS_EVERY_MS, LiveHub, Watching};

/// The first update waits this much longer, so that it has the first report of each proxy.
const FIRST: Duration = Duration::from_millis(300);
const LONGEST_MS: u32 = 60_000;

/// As the contract describes them.
pub(crate) type Updates = Pin<Box<dyn Stream<Item = Result<TopUpdate, Status>> + Send>>;

/// Sums what proxies report until the reader leaves.
///
/// # Errors
/// `INVALID_ARGUMENT`, or `RESOURCE_EXHAUSTED` when too many watch already.
pub(crate) fn top(hub: &LiveHub, request: &TopRequest, cancel: CancellationToken) -> Result<Updates, Status> {
    let every_ms = if request.interval_ms == 0 { FLOWS_EVERY_MS } else { request.interval_ms };
    if !(FLOWS_EVERY_MS..=LONGEST_MS).contains(&every_ms) {
        return Err(Status::invalid_argument("`interval_ms` has to be from 1,000 to 60,000"));
    }
    let watching =
        hub.watch().map_err(|_| Status::resource_exhausted("too many watch flows already; try again later"))?;
    let every = Duration::from_millis(every_ms.into());
    let mut ticks = tokio::time::interval_at(Instant::now() + every + FIRST, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let view = View { watching, ticks, sum: Sum::default(), cancel };
    Ok(Box::pin(futures::stream::unfold(
        view,
        |mut view| async move { view.next().await.map(|update| (Ok(update), view)) },
    )))
}

struct View {
    watching: Watching,
    ticks: Interval,
    sum: Sum,
    cancel: CancellationToken,
}

impl View {
    async fn next(&mut self) -> Option<TopUpdate> {
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                _ = self.ticks.tick() => return Some(self.sum.take()),
                reported = self.watching.reports.recv() => match reported {
                    Ok(reported) => self.sum.add(&reported),
                    Err(RecvError::Lagged(missed)) => self.sum.missed(missed),
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}
