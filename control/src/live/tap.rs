//! `Status.Tap`: calls as they are answered. Watching is itself recorded, before the first call is shown and at its end.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::Stream;
use signet_api::control::{TapFilter, TapRequest, TapUpdate};
use signet_mtls::SpiffeId;
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{LiveHub, Tapping};
use crate::events::Events;

const SECONDS: u32 = 60;
/// The longest that one may watch; then it is recorded anew.
const MAX_SECONDS: u32 = 600;
const PER_SECOND: u32 = 100;
const MAX_PER_SECOND: u32 = 1_000;
/// Each text of a filter.
const MAX_TEXT: usize = 512;
/// Calls in one update.
const BATCH: usize = 64;
/// How soon drops are told.
const DROPS: Duration = Duration::from_millis(500);

/// As the contract describes them.
pub(crate) type Updates = Pin<Box<dyn Stream<Item = Result<TapUpdate, Status>> + Send>>;

/// Shows calls to `operator` until the time is over or the reader leaves.
///
/// # Errors
/// `INVALID_ARGUMENT`; `RESOURCE_EXHAUSTED` when too many watch already; `UNAVAILABLE` when watching cannot be recorded.
pub(crate) fn tap(
    hub: &LiveHub,
    events: &Events,
    operator: &SpiffeId,
    request: TapRequest,
    cancel: CancellationToken,
) -> Result<Updates, Status> {
    let filter = request.filter.unwrap_or_default();
    check(&filter)?;
    let seconds = in_range("seconds", request.seconds, SECONDS, MAX_SECONDS)?;
    let per_second = in_range("per_second", request.per_second, PER_SECOND, MAX_PER_SECOND)?;
    let tapping = hub
        .tap(filter.clone(), per_second)
        .map_err(|_| Status::resource_exhausted("too many watch calls already; try again later"))?;
    // INVARIANT: proxies know of the tap already, but nothing reaches its reader before this.
    events.tap_began(operator, &filter, seconds).map_err(|error| {
        tracing::error!(%error, "a tap was refused: it could not be recorded");
        Status::unavailable("watching has to be recorded, and the control plane cannot record it now; see its spool")
    })?;
    tracing::info!(%operator, ?filter, seconds, "calls are watched");
    let view = View {
        tapping,
        drops: tokio::time::interval(DROPS),
        ends: Instant::now() + Duration::from_secs(seconds.into()),
        cancel,
        tally: Tally { events: events.clone(), operator: operator.clone(), shown: 0, dropped: 0 },
    };
    Ok(Box::pin(futures::stream::unfold(
        view,
        |mut view| async move { view.next().await.map(|update| (Ok(update), view)) },
    )))
}

fn check(filter: &TapFilter) -> Result<(), Status> {
    let TapFilter { source, destination, route, path_prefix, decision } = filter;
    if [source, destination, route, path_prefix].iter().any(|text| text.len() > MAX_TEXT) {
        return Err(Status::invalid_argument("a text of the filter is longer than 512 bytes"));
    }
    if !matches!(decision.as_str(), "" | "allow" | "deny") {
        return Err(Status::invalid_argument("`decision` has to be `allow`, `deny` or empty"));
    }
    Ok(())
}

fn in_range(name: &str, asked: u32, default: u32, most: u32) -> Result<u32, Status> {
    match asked {
        0 => Ok(default),
        asked if asked <= most => Ok(asked),
        _ => Err(Status::invalid_argument(format!("`{name}` has to be at most {most}"))),
    }
}

struct View {
    tapping: Tapping,
    drops: Interval,
    ends: Instant,
    cancel: CancellationToken,
    tally: Tally,
}

/// What was shown; recorded when it is dropped, however the watching ends.
struct Tally {
    events: Events,
    operator: SpiffeId,
    shown: u64,
    dropped: u64,
}

impl View {
    async fn next(&mut self) -> Option<TapUpdate> {
        loop {
            let mut calls = Vec::new();
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                () = tokio::time::sleep_until(self.ends) => return None,
                count = self.tapping.calls.recv_many(&mut calls, BATCH) => if count == 0 {
                    return None;
                },
                _ = self.drops.tick() => {}
            }
            let dropped = self.tapping.dropped.swap(0, Ordering::Relaxed);
            if calls.is_empty() && dropped == 0 {
                continue;
            }
            self.tally.shown += calls.len() as u64;
            self.tally.dropped += dropped;
            return Some(TapUpdate { calls, dropped });
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.events.tap_ended(&self.operator, self.shown, self.dropped);
    }
}
