//! The inbound side's part in the relay: decides each request from a slice of the bundle, and the open call again when
//! something changed.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Response};
use signet_policy::Action;
use uuid::Uuid;

use super::{Inbound, Port, Trust};
use crate::answer::{self, Form};
use crate::body::Body;
use crate::decide::{ActionOwned, Again, Asked, Call, Enforcer, Host, Known, Peer, Serves};
use crate::flow::{Decided, Seen};
use crate::metrics::Direction;
use crate::relay::{Admitted, Looked, RequestHead, Role, Side};
use crate::serve::{self, Signal, Signals};
use crate::snapshot::{InboundService, Protocol};
use crate::tls::Wire;
use crate::upstream::{Upstream, UpstreamError};

/// One connection.
pub(super) struct Relayed {
    inbound: Arc<Inbound>,
    peer: Arc<Peer>,
    own: Arc<str>,
    signals: Signals,
    seen: Signal,
    trust: Trust,
    /// End of the peer's certificate, Unix microseconds, until it was reached.
    ends_us: Option<i64>,
    ending: bool,
    /// One for each service of the port.
    known: Vec<Option<Known>>,
    call: OpenCall,
}

/// The call that is open; its strings are kept from call to call.
struct OpenCall {
    method: String,
    path: String,
    host: String,
    received: Instant,
    trace_id: [u8; 16],
    decision_id: Uuid,
    /// Once it was decided.
    seen: Option<Seen>,
    /// The service of this port, by its place, that it was allowed for last; `None`: the call is not open.
    open: Option<(Arc<Port>, usize)>,
    /// Unix microseconds; one word, because it stays with each idle connection.
    due_us: Option<NonZero<i64>>,
}

impl OpenCall {
    fn of<'c>(&'c self, peer: &'c Peer, own: &'c str, service: &'c InboundService, port: &'c Port) -> Call<'c> {
        Call {
            peer,
            destination: Some(own),
            service: &service.service,
            action: Action::Http { method: &self.method, path: &self.path, host: &self.host },
            dst_cluster: &port.cluster,
            dst_port: service.port,
            end_user: None,
            trace_id: Some(self.trace_id),
            received: self.received,
        }
    }
}

impl Relayed {
    pub(super) fn new(inbound: Arc<Inbound>, peer: Arc<Peer>, own: Arc<str>) -> Self {
        // A certificate is valid through the whole second that it names.
        let ends_us = peer.not_after.map(|s| s.saturating_add(1).saturating_mul(1_000_000));
        let signals = Signals::new(inbound.enforcer.changes(), inbound.stop.drain.clone(), None, ends_us);
        Self {
            inbound,
            peer,
            own,
            signals,
            seen: Signal::Sooner,
            trust: Trust::default(),
            ends_us,
            ending: false,
            known: Vec::new(),
            call: OpenCall {
                method: String::new(),
                path: String::new(),
                host: String::new(),
                received: Instant::now(),
                trace_id: [0; 16],
                decision_id: Uuid::nil(),
                seen: None,
                open: None,
                due_us: None,
            },
        }
    }

    async fn decide(&mut self, port: &Arc<Port>) -> Option<Admitted> {
        if let Some((service, wait)) = super::over(port, &self.peer) {
            let call = self.call.of(&self.peer, &self.own, service, port);
            let limited = self.inbound.limited(&call, wait).await;
            let flow = self.inbound.enforcer.flow(&call, Direction::Inbound);
            self.call.seen = Some(self.inbound.enforcer.seen(&call, flow, &limited.verdict));
            let answer = answer::limited(Form::Http, limited.verdict.decision_id, limited.wait);
            return Some(Admitted::Answer(Box::new(answer)));
        }
        self.known.resize_with(port.services.len(), || None);
        for (index, (service, known)) in port.services.iter().zip(&mut self.known).enumerate() {
            let call = self.call.of(&self.peer, &self.own, service, port);
            let verdict = self.inbound.enforcer.decide_known(&call, known).await?;
            let flow = match known {
                Some(known) => known.flow(&self.inbound.shared.metrics.flows, &call),
                None => self.inbound.enforcer.flow(&call, Direction::Inbound),
            };
            self.call.seen = Some(self.inbound.enforcer.seen(&call, flow, &verdict));
            if !verdict.allow {
                self.call.open = None;
                return Some(Admitted::Answer(Box::new(answer::denied(Form::Http, verdict.decision_id))));
            }
            self.call.decision_id = verdict.decision_id;
            self.call.due_us = due(verdict.expires_at_us);
            self.call.open = Some((Arc::clone(port), index));
        }
        self.call.open.as_ref()?;
        self.inbound.shared.metrics.carried(&self.peer);
        Some(Admitted::Forward(Arc::clone(&port.app)))
    }

    /// The open call as a question that can be asked again. `None`: there is none.
    fn asked(&self) -> Option<Asked> {
        let (port, index) = self.call.open.as_ref()?;
        let service = port.services.get(*index)?;
        Some(Asked {
            peer: Arc::clone(&self.peer),
            destination: Arc::clone(&self.own),
            service: Arc::clone(&service.service),
            action: ActionOwned::Http {
                method: Method::from_bytes(self.call.method.as_bytes()).ok()?,
                path: PathAndQuery::try_from(self.call.path.as_str()).ok()?,
                host: Host::Header(HeaderValue::from_str(&self.call.host).ok()?),
            },
            dst_cluster: Arc::clone(&port.cluster),
            dst_port: service.port,
            end_user: None,
            trace_id: Some(self.call.trace_id),
            received: self.call.received,
        })
    }
}

/// A time before all others is as good as the first microsecond.
fn due(expires_at_us: Option<i64>) -> Option<NonZero<i64>> {
    NonZero::new(expires_at_us?.max(1))
}

/// Whether calls to this port can be relayed. What the relay does not know about a port has to be refused here: it reads
/// no end user's tokens.
pub(super) fn suits(port: &Port, enforcer: &Enforcer) -> bool {
    port.protocol == Protocol::Http
        && port.app.wire() == Wire::Http1
        && !port.services.iter().any(|service| enforcer.reads_tokens(&service.service))
}

impl Role for Relayed {
    fn side(&self) -> Side<'_> {
        Side::Inbound { source: self.peer.id.as_ref().map(signet_mtls::SpiffeId::as_str) }
    }

    async fn admit(&mut self, head: &RequestHead, bytes: &[u8]) -> Admitted {
        let received = Instant::now();
        let Some(port) = self.inbound.port.load_full().filter(|port| suits(port, &self.inbound.enforcer)) else {
            return Admitted::Other;
        };
        let text = |range: &std::ops::Range<usize>| {
            bytes.get(range.clone()).and_then(|part| std::str::from_utf8(part).ok()).unwrap_or_default()
        };
        let Some(path) = text(&head.target).get(..head.path) else { return Admitted::Other };
        // Only a path that is in its normal form already is forwarded as it came.
        if signet_policy::normalise_path(path).ok().is_none_or(|normal| normal != path) {
            return Admitted::Other;
        }
        for (kept, new) in [
            (&mut self.call.method, text(&head.method)),
            (&mut self.call.path, path),
            (&mut self.call.host, text(&head.host)),
        ] {
            kept.clear();
            kept.push_str(new);
        }
        self.call.received = received;
        self.call.seen = None;
        self.call.trace_id = head.trace_id;
        self.decide(&port).await.unwrap_or(Admitted::Other)
    }

    fn another(&mut self) -> Option<Arc<Upstream>> {
        None
    }

    fn failed(&self, error: &UpstreamError) -> Response<Body> {
        tracing::debug!(error = %signet_observe::error_chain(error), "the app gave no answer");
        let fault = match error {
            UpstreamError::Silent { .. } => answer::BROKEN,
            _ => answer::APP_DOWN,
        };
        answer::fault(Form::Http, fault)
    }

    fn answered(&mut self, status: u16, at: Instant) {
        let took = at.saturating_duration_since(self.call.received);
        self.inbound.shared.metrics.inbound.answered(Protocol::Http, status, took);
        if let Some(seen) = &self.call.seen {
            seen.answered(status, took);
        }
    }

    fn moved(&mut self, (received, sent): (u64, u64)) {
        if let Some(seen) = &self.call.seen {
            seen.flow.moved(received, sent);
        }
    }

    async fn signal(&mut self) {
        let ends_us = self.ends_us;
        tokio::select! {
            signal = self.signals.next(|| ends_us) => self.seen = signal,
            () = serve::until(self.call.due_us.map(NonZero::get)) => self.seen = Signal::Due,
        }
    }

    async fn look_again(&mut self, open: bool) -> Looked {
        match self.seen {
            Signal::Drain => {
                self.ending = true;
                return Looked::GoesOn;
            }
            Signal::Sooner => return Looked::GoesOn,
            Signal::Due if self.ends_us.is_some_and(|at| crate::decide::now_us() >= at) => {
                // The client makes new connections with its new SVID; this one takes no more calls.
                self.ends_us = None;
                self.ending = true;
            }
            Signal::Due | Signal::Changed => {}
        }
        let trusted = self.trust.look(&self.inbound.enforcer, &self.peer, self.seen == Signal::Due);
        self.ending |= trusted != Serves::Yes;
        let Some(asked) = self.asked().filter(|_| open) else { return Looked::GoesOn };
        let serves = self.inbound.serves(&asked, trusted);
        match self.inbound.enforcer.decide_again(&asked.call(), self.call.decision_id, serves).await {
            Again::Closed(verdict) => {
                self.inbound.shared.metrics.closed_by_policy.inc();
                if let Some(seen) = &mut self.call.seen {
                    seen.decided = Decided::Deny;
                }
                Looked::Denied(Box::new(answer::denied(Form::Http, verdict.decision_id)))
            }
            Again::GoesOn { expires_at_us } => {
                self.call.due_us = due(expires_at_us);
                Looked::GoesOn
            }
        }
    }

    fn ending(&self) -> bool {
        self.ending
    }

    fn closed(&mut self) {
        self.call.open = None;
        self.call.due_us = None;
    }
}
