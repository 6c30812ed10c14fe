//! HTTP/1.1 and HTTP/2, gRPC included: one decision per request, recorded before the app sees it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http::header::UPGRADE;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use signet_observe::trace;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tracing::{debug, info_span};

use super::relayed::{self, Relayed};
use super::{Inbound, Port, Trust, tcp};
use crate::ambiguity::Unambiguous;
use crate::answer::{self, Form};
use crate::body::{Body, Counted};
use crate::decide::{ActionOwned, Asked, Peer, Serves, Verdict, grpc_parts, reason};
use crate::detect::{HttpVersion, Prefixed};
use crate::flow::{Decided, Seen};
use crate::headers::{self, HeadError};
use crate::open::{OpenCall, OpenCalls, OpenGuard};
use crate::relay::{self, Rest};
use crate::serve::{self, Graceful, Signal, Signals};
use crate::snapshot::Protocol;
use crate::tls::Wire;
use crate::token::Presented;
use crate::trace::Trace;
use crate::upstream::UpstreamError;
use crate::websocket::{Behind, Handshake};
use crate::{forward, upstream};

/// One connection.
struct Connection {
    inbound: Arc<Inbound>,
    peer: Arc<Peer>,
    /// Own SPIFFE ID, and what `x-signet-source` says; made once.
    own: Arc<str>,
    source: Option<HeaderValue>,
    open: Arc<OpenCalls>,
    behind: Behind,
}

/// Serves a connection: in the relay for as long as its requests are plain, and generally from then on.
pub(super) async fn serve<T>(inbound: Arc<Inbound>, stream: T, peer: Arc<Peer>, version: HttpVersion)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Spans are the general server's.
    let relayed = version == HttpVersion::One
        && !trace::exporting()
        && inbound.port.load().as_ref().is_some_and(|port| relayed::suits(port, &inbound.enforcer));
    if relayed {
        let own = inbound.own_id().unwrap_or_default();
        let mut role = Relayed::new(Arc::clone(&inbound), Arc::clone(&peer), own);
        if let Some(Rest { stream, read }) = relay::serve(stream, &mut role).await {
            drop(role);
            Box::pin(serve_general(inbound, Prefixed::new(read, stream), peer, version)).await;
        }
    } else {
        Box::pin(serve_general(inbound, stream, peer, version)).await;
    }
}

async fn serve_general<T>(inbound: Arc<Inbound>, stream: T, peer: Arc<Peer>, version: HttpVersion)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Arc::new(Connection {
        own: inbound.own_id().unwrap_or_default(),
        source: peer.id.as_ref().and_then(|id| HeaderValue::from_str(id.as_str()).ok()),
        inbound,
        peer,
        open: Arc::new(OpenCalls::default()),
        behind: Behind::default(),
    });
    let this = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let this = Arc::clone(&this);
        async move { Ok::<_, Infallible>(this.request(request).await) }
    });
    let ended = match version {
        HttpVersion::One => {
            let io = TokioIo::new(Unambiguous::new(stream));
            connection.drive(serve::http1_server().serve_connection(io, service).with_upgrades()).await
        }
        HttpVersion::Two => {
            connection.drive(serve::http2_server().serve_connection(TokioIo::new(stream), service)).await
        }
    };
    if let Err(error) = ended {
        debug!(error = %signet_observe::error_chain(&error), "a connection ended badly");
        if serve::is_bad_http(&error) {
            connection.refused("bad_http");
        }
    }
    if let Some(next) = connection.behind.take() {
        next.await;
    }
}

impl Connection {
    /// Drives the connection, and decides its open calls again when something changed.
    async fn drive(&self, connection: impl Graceful) -> hyper::Result<()> {
        tokio::pin!(connection);
        let enforcer = &self.inbound.enforcer;
        // A certificate is valid through the whole second that it names.
        let ends_us = self.peer.not_after.map(|s| s.saturating_add(1).saturating_mul(1_000_000));
        let mut expired = false;
        let mut trust = Trust::default();
        let drain = self.inbound.stop.drain.clone();
        let mut signals = Signals::new(enforcer.changes(), drain, Some(Arc::clone(&self.open)), ends_us);
        loop {
            let due = || {
                let ends_us = ends_us.filter(|_| !expired);
                [ends_us, self.open.soonest_us()].into_iter().flatten().min()
            };
            let signal = tokio::select! {
                biased;
                ended = connection.as_mut() => return ended,
                signal = signals.next(due) => signal,
            };
            match signal {
                Signal::Sooner => continue,
                Signal::Drain => {
                    connection.as_mut().end();
                    continue;
                }
                Signal::Due if !expired && ends_us.is_some_and(|at| crate::decide::now_us() >= at) => {
                    // The client makes new connections with its new SVID; this one takes no more calls.
                    expired = true;
                    connection.as_mut().end();
                }
                Signal::Due | Signal::Changed => {}
            }
            let trusted = trust.look(enforcer, &self.peer, signal == Signal::Due);
            let closed = self.open.decide_again(enforcer, |asked| self.inbound.serves(asked, trusted)).await;
            self.inbound.shared.metrics.closed_by_policy.inc_by(closed as u64);
            if trusted != Serves::Yes {
                connection.as_mut().end();
            }
        }
    }

    fn refused(&self, code: &str) {
        let port = self.inbound.port.load();
        let service = port.as_ref().and_then(|p| p.services.first()).map_or("", |s| s.service.as_ref());
        if let Some(address) = self.peer.address {
            self.inbound.refusals.refused(address, code, "http:parse", service, self.peer.id.as_ref(), &self.peer.tls);
        }
    }

    async fn request(&self, request: Request<Incoming>) -> Response<Body> {
        let received = Instant::now();
        let version = request.version();
        let upgrade = request.headers().contains_key(UPGRADE);
        let port = self.inbound.port.load_full();
        let protocol = port.as_ref().map_or(Protocol::Http, |p| p.protocol);
        let mut seen = None;
        let mut response = match port {
            Some(port) => self.answer(request, &port, received, &mut seen).await,
            None => {
                self.inbound.deny_connection(&self.peer, reason::UNKNOWN_SERVICE, received).await;
                answer::fault(Form::Http, answer::NO_ENDPOINTS)
            }
        };
        *response.version_mut() = if version == Version::HTTP_2 { version } else { Version::HTTP_11 };
        if upgrade {
            answer::end_unless_switched(&mut response);
        }
        let (status, took) = (response.status(), received.elapsed());
        self.inbound.shared.metrics.inbound.answered(protocol, status.as_u16(), took);
        if let Some(seen) = seen {
            seen.answered_by(status, response.headers(), took);
            response.body_mut().count(Counted::to_source(seen.flow));
        }
        response
    }

    /// `seen` is set once the call was decided.
    async fn answer(
        &self,
        request: Request<Incoming>,
        port: &Port,
        received: Instant,
        seen: &mut Option<Seen>,
    ) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let form =
            if port.protocol == Protocol::Grpc && headers::is_grpc(&parts.headers) { Form::Grpc } else { Form::Http };
        if let Err(error) = headers::check(&parts.headers, parts.version) {
            self.refused(error.code());
            return answer::refused_head(form, error, parts.version);
        }
        let handshake = match Handshake::asked(&mut parts) {
            Ok(handshake) if handshake.is_none() || port.app.wire() == Wire::Http1 => handshake,
            _ => {
                self.refused(HeadError::Upgrade.code());
                return answer::refused_head(form, HeadError::Upgrade, parts.version);
            }
        };
        // Before deciding, so that no change falls between the decision and the waiting for changes.
        let changes = handshake.as_ref().map(|_| self.inbound.enforcer.changes());
        let trace = Trace::start(&parts.headers, || {
            info_span!(target: "signet_proxy", "inbound", otel.kind = "server", http.request.method = %parts.method,
                url.path = parts.uri.path(), http.response.status_code = tracing::field::Empty)
        });
        let host = forward::host_of(&parts);
        let given = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let (path, mut wrong) = match normal(&given) {
            Some(path) => (path, None),
            None => (given, Some(reason::BAD_PATH)),
        };
        // The declared protocol is held to: what contradicts it is denied.
        let contradicts = match port.protocol {
            Protocol::Grpc => form == Form::Http || parts.method != Method::POST || grpc_parts(path.path()).is_none(),
            Protocol::Http | Protocol::Http2 => parts.method == Method::CONNECT,
            Protocol::Tcp => true,
        };
        if contradicts {
            wrong = wrong.or(Some(reason::PROTOCOL_MISMATCH));
        }
        let action = match port.protocol {
            Protocol::Grpc => ActionOwned::Grpc { path: path.clone() },
            _ => ActionOwned::Http { method: parts.method.clone(), path: path.clone(), host: host.clone() },
        };
        let Some(service) = port.services.first() else {
            return answer::fault(form, answer::NO_ENDPOINTS);
        };
        let mut asked = Asked {
            peer: Arc::clone(&self.peer),
            destination: Arc::clone(&self.own),
            service: Arc::clone(&service.service),
            action,
            dst_cluster: Arc::clone(&port.cluster),
            dst_port: service.port,
            end_user: None,
            trace_id: Some(trace.id()),
            received,
        };
        if wrong.is_none()
            && let Some(limited) = self.inbound.over_limit(port, &mut asked).await
        {
            trace.answered(429);
            *seen = Some(self.inbound.seen(&asked, &limited.verdict));
            return answer::limited(form, limited.verdict.decision_id, limited.wait);
        }
        let epoch = self.inbound.enforcer.epoch();
        let verdict = match wrong {
            Some(why) => self.inbound.enforcer.deny(&asked.call(), why).await,
            None => self.inbound.decide(port, &mut asked, Presented::of(&parts.headers)).await,
        };
        let flow = Arc::clone(&seen.insert(self.inbound.seen(&asked, &verdict)).flow);
        if !verdict.allow {
            let answer = match verdict.token_refused {
                true => answer::token_refused(form, verdict.decision_id),
                false => answer::denied(form, verdict.decision_id),
            };
            trace.answered(answer.status().as_u16());
            return answer;
        }
        let guard = self.open.open(asked, verdict);
        if self.inbound.enforcer.epoch() != epoch {
            // Something changed between deciding and registering: nobody else will look at this call.
            let trust = self.inbound.enforcer.trusts(&self.peer);
            self.open.decide_again(&self.inbound.enforcer, |asked| self.inbound.serves(asked, trust)).await;
        }
        headers::strip(&mut parts.headers);
        if let Some(source) = &self.source {
            parts.headers.insert(headers::SOURCE, source.clone());
        }
        trace.pass_on(&mut parts.headers);
        forward::shape(&mut parts, port.app.wire(), path, &host);
        forward::frame(&mut parts, port.app.wire(), &body);
        if handshake.is_some() {
            Handshake::pass_on(&mut parts.headers);
        }
        let mut body = Body::from(body);
        body.count(Counted::from_source(flow));
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().clear();
        let call = Arc::clone(&guard.call);
        let mut response = self.forward(port, request, guard, form, seen).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            response = self.switch(handshake, response, call, (verdict, changes));
        }
        trace.answered(response.status().as_u16());
        response.extensions_mut().clear();
        response
    }

    /// Asks the app, unless a new decision closes the call first.
    async fn forward(
        &self,
        port: &Port,
        request: Request<Body>,
        guard: OpenGuard,
        form: Form,
        seen: &mut Option<Seen>,
    ) -> Response<Body> {
        let closed = std::future::poll_fn(|cx| guard.call.poll_closed(cx));
        let answered: Result<Response<Body>, Verdict> = tokio::select! {
            biased;
            verdict = closed => Err(verdict),
            sent = port.app.send(request) => Ok(match sent {
                Ok(mut response) => {
                    headers::strip(response.headers_mut());
                    response
                }
                Err(upstream::Failure { error, .. }) => {
                    debug!(error = %signet_observe::error_chain(&error), "the app gave no answer");
                    let fault = match error {
                        UpstreamError::Broken { .. } | UpstreamError::Switched { .. } => answer::BROKEN,
                        _ => answer::APP_DOWN,
                    };
                    answer::fault(form, fault)
                }
            }),
        };
        match answered {
            Ok(mut response) => {
                response.body_mut().keep_open(guard);
                response
            }
            Err(verdict) => {
                if let Some(seen) = seen {
                    seen.decided = Decided::Deny;
                }
                answer::denied(form, verdict.decision_id)
            }
        }
    }
}

impl Connection {
    /// Takes the connection over from HTTP when the app granted the handshake. From here the call is decided again by
    /// the relay of its bytes: it left the connection's open calls with its answer.
    fn switch(
        &self,
        handshake: Option<Handshake>,
        response: Response<Body>,
        call: Arc<OpenCall>,
        (verdict, changes): (Verdict, Option<watch::Receiver<u64>>),
    ) -> Response<Body> {
        let granted = handshake.and_then(|handshake| handshake.granted(response));
        let (Some((answer, switching)), Some(changes)) = (granted, changes) else {
            debug!("the app switched to a protocol that was not asked for");
            return answer::fault(Form::Http, answer::BROKEN);
        };
        let inbound = Arc::clone(&self.inbound);
        self.behind.put(async move {
            if let Some((mut client, mut app, _held)) = switching.streams().await {
                tcp::relay(&inbound, (&mut client, &mut app), &call.asked, verdict, changes).await;
            }
        });
        answer
    }
}

/// The path in its one normal form, with the query as it came. `None`: it has none.
fn normal(given: &PathAndQuery) -> Option<PathAndQuery> {
    let path = signet_policy::normalise_path(given.path()).ok()?;
    if path == given.path() {
        return Some(given.clone());
    }
    match given.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
        None => PathAndQuery::try_from(path.as_ref()).ok(),
    }
}
