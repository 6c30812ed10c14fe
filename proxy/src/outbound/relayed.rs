//! The outbound side's part in the relay: finds the service and an endpoint; the decision is the destination's.

use std::sync::Arc;
use std::time::Instant;

use http::Response;

use super::Outbound;
use super::table::Destination;
use crate::answer::{self, Form};
use crate::balance::Tried;
use crate::body::Body;
use crate::flow::Decided;
use crate::forward;
use crate::relay::{Admitted, Looked, RequestHead, Role, Side};
use crate::serve::{Signal, Signals};
use crate::snapshot::Protocol;
use crate::snapshot::traffic::{Algorithm, Traffic};
use crate::tls::Wire;
use crate::upstream::{Upstream, UpstreamError};

/// One connection of the app.
pub(super) struct Relayed {
    outbound: Arc<Outbound>,
    signals: Signals,
    seen: Signal,
    ending: bool,
    received: Instant,
    /// The service that the connection is for, whatever its requests name.
    only: Option<Arc<Destination>>,
    /// Where the open call goes.
    to: Option<Arc<Destination>>,
    /// The endpoint that was tried, when another may be.
    tried: Option<usize>,
}

impl Relayed {
    pub(super) fn new(outbound: Arc<Outbound>, only: Option<Arc<Destination>>) -> Self {
        let signals = Signals::new(outbound.enforcer.changes(), outbound.stop.drain.clone(), None, None);
        Self {
            outbound,
            signals,
            seen: Signal::Sooner,
            ending: false,
            received: Instant::now(),
            only,
            to: None,
            tried: None,
        }
    }

    fn find(&self, head: &RequestHead, bytes: &[u8]) -> Option<Arc<Destination>> {
        if let Some(only) = &self.only {
            return Some(Arc::clone(only));
        }
        let host = std::str::from_utf8(bytes.get(head.host.clone())?).ok()?;
        let (host, port) = forward::split_host(host)?;
        self.outbound.table.load().find(host, port, 80).map(Arc::clone)
    }
}

/// Whether calls of this route can be relayed. What the relay does not know of a route has to be refused here.
fn suits(route: &Destination) -> bool {
    let unusual = |traffic: &Arc<Traffic>| {
        traffic.faults.is_some() || matches!(traffic.balancing.algorithm, Algorithm::ConsistentHash(_))
    };
    route.service.protocol == Protocol::Http
        && route.routing.is_none()
        && !route.fails_over()
        && !route.service.traffic.as_ref().is_some_and(unusual)
}

impl Role for Relayed {
    fn side(&self) -> Side<'_> {
        Side::Outbound
    }

    async fn admit(&mut self, head: &RequestHead, bytes: &[u8]) -> Admitted {
        self.received = Instant::now();
        let Some(route) = self.find(head, bytes).filter(|route| suits(route)) else { return Admitted::Other };
        match route.pick(&Tried::default(), None) {
            Some((index, upstream)) if upstream.wire() == Wire::Http1 && !upstream.is_remote() => {
                let upstream = Arc::clone(upstream);
                (self.to, self.tried) = (Some(route), Some(index));
                Admitted::Forward(upstream)
            }
            _ => Admitted::Other,
        }
    }

    fn another(&mut self) -> Option<Arc<Upstream>> {
        let (to, index) = (self.to.as_ref()?, self.tried.take()?);
        let mut tried = Tried::default();
        if !to.unsent(&mut tried, index) {
            return None;
        }
        to.pick(&tried, None).map(|(_, upstream)| Arc::clone(upstream))
    }

    fn failed(&self, error: &UpstreamError) -> Response<Body> {
        tracing::debug!(error = %signet_observe::error_chain(error), "no answer");
        answer::unreachable(Form::Http, error)
    }

    fn answered(&mut self, status: u16, at: Instant) {
        let took = at.saturating_duration_since(self.received);
        self.outbound.shared.metrics.outbound.answered(Protocol::Http, status, took);
        if let Some(to) = &self.to {
            to.flow(&self.outbound.shared).answered(Decided::Elsewhere, status, took);
        }
    }

    fn moved(&mut self, (received, sent): (u64, u64)) {
        if let Some(to) = &self.to {
            to.flow(&self.outbound.shared).moved(received, sent);
        }
    }

    async fn signal(&mut self) {
        self.seen = self.signals.next(|| None).await;
    }

    async fn look_again(&mut self, _open: bool) -> Looked {
        self.ending |= self.seen == Signal::Drain;
        Looked::GoesOn
    }

    fn ending(&self) -> bool {
        self.ending
    }

    fn closed(&mut self) {
        (self.to, self.tried) = (None, None);
    }
}
