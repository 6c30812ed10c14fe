//! Copies of calls to another service, whose answers nobody sees.
//!
//! A mirrored call is a call like any other at its destination: made with the workload's identity, decided and recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http::request::Parts;
use http::uri::PathAndQuery;
use http_body_util::BodyExt as _;
use tracing::debug;

use super::{Destination, copy_of, filters, replay};
use crate::balance::Tried;
use crate::decide::Host;
use crate::forward;
use crate::outbound::http::Client;
use crate::snapshot::route::Mirror;
use crate::tls::Wire;

/// Copies in flight, of a whole sidecar; more are left out.
const IN_FLIGHT: usize = 256;
/// A copy may take this long.
const LIMIT: Duration = Duration::from_secs(15);

static OPEN: AtomicUsize = AtomicUsize::new(0);

struct Place;

impl Place {
    fn take() -> Option<Self> {
        let taken =
            OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < IN_FLIGHT).then_some(open + 1));
        taken.ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends a copy of the call to `to`, or not, by the mirror's share.
pub(super) fn start(
    client: &Client,
    mirror: &Mirror,
    to: &Arc<Destination>,
    parts: &Parts,
    path: &PathAndQuery,
    host: &Host,
    body: &mut replay::Source,
) {
    let metrics = &client.outbound.shared.metrics;
    if fastrand::u32(..mirror.denominator) >= mirror.numerator {
        return;
    }
    let Some(place) = Place::take() else {
        metrics.mirror_skipped.inc();
        return;
    };
    let wire = Wire::for_protocol(to.service.protocol);
    let mut copy = copy_of(parts);
    filters::modify(&mirror.backend.request_headers, &mut copy.headers);
    let key = to.key(&copy.headers, path.query());
    forward::shape(&mut copy, wire, path.clone(), host);
    body.frame(&mut copy, wire);
    let request = Request::from_parts(copy, body.tap());
    metrics.mirrored.inc();
    let (to, kill) = (Arc::clone(to), client.outbound.stop.kill.clone());
    client.outbound.shared.tasks.spawn(async move {
        let _place = place;
        let sent = async {
            let (_, upstream) = to.pick(&Tried::default(), key)?;
            match upstream.send(request).await {
                Ok(response) => {
                    let mut body = response.into_body();
                    // Read to its end, so that the connection can be used again.
                    while let Some(Ok(_)) = body.frame().await {}
                }
                Err(failure) => {
                    debug!(service = %to.service.service, error = %signet_observe::error_chain(&failure.error), "a mirror gave no answer");
                }
            }
            Some(())
        };
        kill.run_until_cancelled(tokio::time::timeout(LIMIT, sent)).await;
    });
}
