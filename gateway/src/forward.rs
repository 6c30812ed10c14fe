//! One CONNECT: find the exported service, decide, record, connect. In that order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use signet_mtls::{IdentitySource, Usage};
use signet_observe::trace;
use signet_policy::Action;
use signet_proxy::decide::{Call, Enforcer, Peer, Serves, Verdict, reason};
use signet_proxy::flow;
use signet_proxy::metrics::{Direction, Metrics};
use signet_proxy::refusal::Refusals;
use signet_proxy::snapshot::{Exported, Snapshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::balancer::Balancer;
use crate::metrics::{GatewayMetrics, Outcome};
use crate::tunnel;

/// The service that was asked for is not, or no longer, exported.
pub(crate) const NOT_EXPORTED: &str = "not_exported";
const ACTION: Action<'static> = Action::GatewayForward { sni: None };
/// Asked-for names go into records; a stranger's are cut there.
const MAX_AUTHORITY: usize = 300;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) enforcer: Arc<Enforcer>,
    /// The snapshot whose bundle the enforcer has.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) identity: IdentitySource,
    pub(crate) refusals: Refusals,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) own: GatewayMetrics,
    pub(crate) balancer: Balancer,
    pub(crate) idle: Duration,
    /// Owns the tunnels.
    pub(crate) tunnels: TaskTracker,
    /// Ends the tunnels that a drain did not.
    pub(crate) kill: CancellationToken,
}

impl Shared {
    /// Takes over a snapshot; the enforcer has its bundle already.
    pub(crate) fn apply(&self, snapshot: &Arc<Snapshot>) {
        self.balancer.apply(snapshot);
        self.snapshot.store(Arc::clone(snapshot));
    }

    /// Whether the roots of this moment still cover the peer. Its SVID's end alone does not end what it opened: the
    /// inner connection has an SVID of its own, which the sidecar behind looks after.
    pub(crate) fn trusts(&self, caller: &Caller) -> bool {
        let identity = self.identity.current();
        signet_mtls::verify_chain(&identity, &caller.peer.chain, Usage::Client, caller.since).is_ok()
    }
}

/// A verified sidecar of a linked cluster.
pub(crate) struct Caller {
    pub(crate) peer: Arc<Peer>,
    /// Unix seconds of the handshake.
    pub(crate) since: u64,
}

/// One allowed forwarding, kept to be decided again.
pub(crate) struct Forward {
    pub(crate) caller: Arc<Caller>,
    pub(crate) exported: Arc<Exported>,
    cluster: Arc<str>,
    trace_id: [u8; 16],
    received: Instant,
}

impl Forward {
    pub(crate) fn call(&self) -> Call<'_> {
        Call {
            peer: &self.caller.peer,
            // With several accounts behind the service, which one answers is between the two sidecars.
            destination: match self.exported.spiffe_ids.as_slice() {
                [only] => Some(only.as_str()),
                _ => None,
            },
            service: &self.exported.service,
            action: ACTION,
            dst_cluster: &self.cluster,
            dst_port: self.exported.port,
            end_user: None,
            trace_id: Some(self.trace_id),
            received: self.received,
        }
    }

    /// Whether what the tunnel was opened for still holds, policy aside.
    pub(crate) fn serves(&self, shared: &Shared) -> Serves {
        if !shared.trusts(&self.caller) {
            return Serves::No(reason::TRUST_WITHDRAWN);
        }
        let snapshot = shared.snapshot.load();
        match snapshot.exported(&self.exported.authority) {
            Some(exported) if exported.service == self.exported.service => Serves::Yes,
            _ => Serves::No(NOT_EXPORTED),
        }
    }
}

pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers one request of a remote sidecar.
pub(crate) async fn answer(shared: Arc<Shared>, caller: Arc<Caller>, mut request: Request<Incoming>) -> Answer {
    if request.method() == Method::OPTIONS {
        return availability(&shared);
    }
    let received = Instant::now();
    let mut context = trace::extract(request.headers());
    let span = tracing::info_span!("gateway:forward", otel.kind = "server", service = tracing::field::Empty);
    trace::enter(&span, &mut context);
    let authority = match (request.method(), request.uri().authority()) {
        (&Method::CONNECT, Some(authority)) if authority.as_str().len() <= MAX_AUTHORITY => {
            authority.as_str().to_ascii_lowercase()
        }
        (method, _) => {
            let status =
                if *method == Method::CONNECT { StatusCode::BAD_REQUEST } else { StatusCode::METHOD_NOT_ALLOWED };
            refuse(&shared, &caller, "not_connect", "http:parse", "");
            shared.own.count(Outcome::BadRequest);
            return text(status, "a gateway takes CONNECT for an exported service");
        }
    };
    connect(&shared, caller, authority, context.trace_id, received, &mut request).instrument(span).await
}

async fn connect(
    shared: &Arc<Shared>,
    caller: Arc<Caller>,
    authority: String,
    trace_id: [u8; 16],
    received: Instant,
    request: &mut Request<Incoming>,
) -> Answer {
    // Before the decision, so that no change between it and the tunnel's watch is missed.
    let mut changes = shared.enforcer.changes();
    changes.borrow_and_update();
    let snapshot = shared.snapshot.load_full();
    let cluster: Arc<str> = Arc::from(snapshot.trust_domain.as_str());
    let Some(exported) = snapshot.exported(&authority) else {
        let call = Call {
            peer: &caller.peer,
            destination: None,
            service: &authority,
            action: ACTION,
            dst_cluster: &cluster,
            dst_port: 0,
            end_user: None,
            trace_id: Some(trace_id),
            received,
        };
        let unknown = Call { service: flow::UNKNOWN, ..call };
        let flow = shared.metrics.flows.get(unknown.flow_key(Direction::Forward, None));
        let verdict = shared.enforcer.deny(&call, NOT_EXPORTED).await;
        shared.enforcer.seen(&call, flow, &verdict).connected(received.elapsed());
        shared.own.count(Outcome::NotExported);
        return denied(&verdict);
    };
    tracing::Span::current().record("service", exported.service.as_ref());
    let forward = Forward { caller, exported: Arc::clone(exported), cluster, trace_id, received };
    let verdict = shared.enforcer.decide(&forward.call()).await;
    let flow = shared.metrics.flows.get(forward.call().flow_key(Direction::Forward, None));
    shared.enforcer.seen(&forward.call(), Arc::clone(&flow), &verdict).connected(received.elapsed());
    if !verdict.allow {
        shared.own.count(Outcome::Denied);
        return denied(&verdict);
    }
    let (endpoint, in_flight) = match shared.balancer.connect(&forward.exported.endpoints).await {
        Ok(connected) => connected,
        Err(error) => {
            tracing::warn!(service = %forward.exported.service, %error, "no endpoint of an exported service could be connected");
            shared.own.count(Outcome::Unreachable);
            flow.failed();
            let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, "no endpoint of the service could be connected");
            answer.headers_mut().insert("x-signet-decision", id(&verdict));
            return answer;
        }
    };
    let upgrade = hyper::upgrade::on(request);
    let tunnel = tunnel::Tunnel { shared: Arc::clone(shared), forward, verdict, changes, endpoint, in_flight, flow };
    shared.tunnels.spawn(tunnel.run(upgrade));
    shared.own.count(Outcome::Opened);
    let mut answer = Response::new(Full::default());
    answer.headers_mut().insert("x-signet-decision", id(&verdict));
    answer
}

/// Whether this gateway would take a CONNECT, for sidecars that choose between clusters. It is about the gateway alone, says
/// nothing of what is exported, and so is no decision.
fn availability(shared: &Shared) -> Answer {
    if shared.snapshot.load().bundle.is_none() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the gateway has no policy yet");
    }
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// Counts and records what was refused before there was anything to decide.
pub(crate) fn refuse(shared: &Shared, caller: &Caller, cause: &str, action: &str, service: &str) {
    if let Some(address) = caller.peer.address {
        shared.refusals.refused(address, cause, action, service, caller.peer.id.as_ref(), &caller.peer.tls);
    }
}

fn denied(verdict: &Verdict) -> Answer {
    let mut answer = text(StatusCode::FORBIDDEN, "denied by policy");
    answer.headers_mut().insert("x-signet-decision", id(verdict));
    answer
}

fn id(verdict: &Verdict) -> HeaderValue {
    HeaderValue::from_str(&verdict.decision_id.to_string()).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
