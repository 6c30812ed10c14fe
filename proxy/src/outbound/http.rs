//! HTTP from the app, on the listener itself or inside CONNECT.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use http::header::UPGRADE;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use signet_observe::trace;
use signet_policy::Action;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{debug, info_span};

use super::relayed::Relayed;
use super::table::Destination;
use super::{Outbound, connect, faults, route};
use crate::ambiguity::Unambiguous;
use crate::answer::{self, Form};
use crate::balance::Tried;
use crate::body::{Body, Counted};
use crate::decide::{Call, Host, Peer, reason};
use crate::detect::{HttpVersion, Prefixed};
use crate::flow::{Decided, Seen};
use crate::headers::{self, HeadError};
use crate::relay::{self, Rest};
use crate::serve::{self, Graceful, Signal, Signals};
use crate::snapshot::Protocol;
use crate::tls::Wire;
use crate::trace::Trace;
use crate::websocket::{Behind, Handshake};
use crate::{forward, tcp, upstream};

/// One connection of the app.
pub(super) struct Client {
    pub(super) outbound: Arc<Outbound>,
    pub(super) peer: Arc<Peer>,
    pub(super) address: SocketAddr,
    pub(super) reach: Reach,
    /// What follows HTTP on this connection: a WebSocket, or what CONNECT asked for.
    pub(super) behind: Behind,
}

/// What a connection's requests can be for.
pub(super) enum Reach {
    /// The service that each names.
    Named,
    /// The service that CONNECT named or that the connection was on its way to; no other can be reached inside it.
    Only(Arc<Destination>),
    /// It was on its way to an address that is no service's: each request is for a declared host outside, or denied.
    Outside { port: u16 },
}

impl Client {
    /// Serves HTTP until the connection ends or is drained: in the relay for as long as its requests are plain.
    pub(super) async fn serve<T>(self: Arc<Self>, stream: T, version: HttpVersion)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let reach = match &self.reach {
            Reach::Named => Some(None),
            Reach::Only(route) => Some(Some(Arc::clone(route))),
            Reach::Outside { .. } => None,
        };
        // Spans are the general server's.
        if let Some(only) = reach
            && version == HttpVersion::One
            && !trace::exporting()
        {
            let mut role = Relayed::new(Arc::clone(&self.outbound), only);
            if let Some(Rest { stream, read }) = relay::serve(stream, &mut role).await {
                drop(role);
                self.serve_general(Prefixed::new(read, stream), version).await;
            }
        } else {
            self.serve_general(stream, version).await;
        }
    }

    /// Serves any HTTP. Boxed because it contains itself, through CONNECT.
    fn serve_general<T>(self: Arc<Self>, stream: T, version: HttpVersion) -> BoxFuture<'static, ()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Box::pin(async move {
            let this = Arc::clone(&self);
            let service = service_fn(move |request| {
                let this = Arc::clone(&this);
                async move { Ok::<_, Infallible>(this.request(request).await) }
            });
            let ended = match version {
                HttpVersion::One => {
                    let io = TokioIo::new(Unambiguous::new(stream));
                    self.drive(serve::http1_server().serve_connection(io, service).with_upgrades()).await
                }
                HttpVersion::Two => {
                    self.drive(serve::http2_server().serve_connection(TokioIo::new(stream), service)).await
                }
            };
            if let Err(error) = ended {
                debug!(error = %signet_observe::error_chain(&error), "an app's connection ended badly");
                if serve::is_bad_http(&error) {
                    self.outbound.refusals.refused(
                        self.address,
                        "bad_http",
                        "http:parse",
                        "",
                        self.peer.id.as_ref(),
                        "none",
                    );
                }
            }
            if let Some(next) = self.behind.take() {
                next.await;
            }
        })
    }

    async fn drive(&self, connection: impl Graceful) -> hyper::Result<()> {
        tokio::pin!(connection);
        let changes = self.outbound.enforcer.changes();
        let mut signals = Signals::new(changes, self.outbound.stop.drain.clone(), None, None);
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => return ended,
                signal = signals.next(|| None) => if signal == Signal::Drain {
                    connection.as_mut().end();
                },
            }
        }
    }

    async fn request(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let received = Instant::now();
        let form = if headers::is_grpc(request.headers()) { Form::Grpc } else { Form::Http };
        let upgrade = request.headers().contains_key(UPGRADE);
        if request.method() == Method::CONNECT {
            let response = connect::open(self, request, received).await;
            self.outbound.shared.metrics.outbound.answered(
                Protocol::Tcp,
                response.status().as_u16(),
                received.elapsed(),
            );
            return response;
        }
        let (mut protocol, version) = (Protocol::Http, request.version());
        let mut seen = None;
        let mut response = self.forward(request, form, received, &mut protocol, &mut seen).await;
        *response.version_mut() = if version == Version::HTTP_2 { version } else { Version::HTTP_11 };
        if upgrade {
            answer::end_unless_switched(&mut response);
        }
        let (status, took) = (response.status(), received.elapsed());
        self.outbound.shared.metrics.outbound.answered(protocol, status.as_u16(), took);
        if let Some(seen) = seen {
            seen.answered_by(status, response.headers(), took);
            response.body_mut().count(Counted::to_source(seen.flow));
        }
        response
    }

    /// `protocol` and `seen` are set once it is known where the call goes.
    async fn forward(
        &self,
        request: Request<Incoming>,
        form: Form,
        received: Instant,
        protocol: &mut Protocol,
        seen: &mut Option<Seen>,
    ) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let checked = headers::check(&parts.headers, parts.version).and_then(|()| Handshake::asked(&mut parts));
        let handshake = match checked {
            Ok(handshake) => handshake,
            Err(error) => {
                self.refused(error);
                return answer::refused_head(form, error, parts.version);
            }
        };
        let host = forward::host_of(&parts);
        let trace = Trace::start(&parts.headers, || {
            info_span!(target: "signet_proxy", "outbound", otel.kind = "client", http.request.method = %parts.method,
                server.address = host.as_str(), http.response.status_code = tracing::field::Empty)
        });
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let Some(to) = self.destination(&host) else {
            if let Some(external) = self.external(&host).filter(|_| handshake.is_none()) {
                trace.pass_on(&mut parts.headers);
                let request = (parts, body);
                return self.request_outside(external, request, (&host, path), (form, &trace), received, seen).await;
            }
            let trace_id = trace.id();
            return self.unknown((&parts.method, &path, &host), form, trace_id, received, seen).await;
        };
        *protocol = to.service.protocol;
        *seen = Some(Seen::new(Arc::clone(to.flow(&self.outbound.shared)), Decided::Elsewhere));
        if to.service.protocol == Protocol::Tcp {
            return answer::fault(form, answer::USE_CONNECT);
        }
        let wire = Wire::for_protocol(to.service.protocol);
        if handshake.is_some() && wire != Wire::Http1 {
            self.refused(HeadError::Upgrade);
            return answer::refused_head(form, HeadError::Upgrade, parts.version);
        }
        if let Some(asked_for) = to.service.traffic.as_ref().and_then(|traffic| traffic.faults.as_ref())
            && let Some(response) = Box::pin(faults::make(asked_for, form, &self.outbound.shared.metrics)).await
        {
            trace.answered(response.status().as_u16());
            return response;
        }
        if let Some(routing) = &to.routing {
            let websocket = handshake.is_some();
            let asked = route::Asked {
                client: self,
                destination: &to,
                parts,
                path,
                host,
                form,
                trace: &trace,
                websocket,
                seen,
            };
            // Boxed: what routes need must not make the future of every other call larger.
            let response = Box::pin(route::forward(routing, asked, body)).await;
            let response = self.switch(handshake, response, seen.as_ref());
            trace.answered(response.status().as_u16());
            return response;
        }
        headers::strip(&mut parts.headers);
        trace.pass_on(&mut parts.headers);
        let key = to.key(&parts.headers, path.query());
        forward::shape(&mut parts, wire, path, &host);
        forward::frame(&mut parts, wire, &body);
        if handshake.is_some() {
            Handshake::pass_on(&mut parts.headers);
        }
        let mut body = Body::from(body);
        body.count(Counted::from_source(Arc::clone(to.flow(&self.outbound.shared))));
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().clear();
        let mut response = send(&to, request, form, key).await;
        headers::strip_hop(response.headers_mut());
        response = self.switch(handshake, response, seen.as_ref());
        trace.answered(response.status().as_u16());
        response
    }

    /// Takes the connection over from HTTP when the service granted the handshake. The decision, and every further one,
    /// is the destination's: it ends the connection when policy does.
    fn switch(&self, handshake: Option<Handshake>, response: Response<Body>, seen: Option<&Seen>) -> Response<Body> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        let granted = handshake.and_then(|handshake| handshake.granted(response));
        let (Some((answer, switching)), Some(seen)) = (granted, seen) else {
            debug!("a service switched to a protocol that was not asked for");
            return answer::fault(Form::Http, answer::BROKEN);
        };
        let (metrics, flow) = (Arc::clone(&self.outbound.shared.metrics), Arc::clone(&seen.flow));
        self.behind.put(async move {
            let Some((mut app, mut service, _held)) = switching.streams().await else { return };
            match tcp::relay(&mut app, &mut service, &flow).await {
                Ok((sent, received)) => metrics.copied(sent, received),
                Err(error) => debug!(%error, "a WebSocket broke"),
            }
        });
        answer
    }

    fn refused(&self, error: HeadError) {
        let refusals = &self.outbound.refusals;
        refusals.refused(self.address, error.code(), "http:parse", "", self.peer.id.as_ref(), "none");
    }

    fn destination(&self, host: &Host) -> Option<Arc<Destination>> {
        match &self.reach {
            Reach::Only(to) => return Some(Arc::clone(to)),
            Reach::Outside { .. } => return None,
            Reach::Named => {}
        }
        let (host, port) = forward::split_host(host.as_str())?;
        self.outbound.table.load().find(host, port, 80).map(Arc::clone)
    }

    /// Denies a call to what is not in the snapshot, and records it.
    async fn unknown(
        &self,
        (method, path, host): (&Method, &PathAndQuery, &Host),
        form: Form,
        trace_id: [u8; 16],
        received: Instant,
        seen: &mut Option<Seen>,
    ) -> Response<Body> {
        let normal = signet_policy::normalise_path(path.path()).unwrap_or_default();
        let (service, grpc_method) = crate::decide::grpc_parts(&normal).unwrap_or_default();
        let action = match form {
            Form::Grpc => Action::Grpc { service, method: grpc_method },
            Form::Http => Action::Http { method: method.as_str(), path: &normal, host: host.as_str() },
        };
        let (name, port) = forward::split_host(host.as_str()).unwrap_or((host.as_str(), None));
        let call = Call {
            peer: &self.peer,
            destination: None,
            service: name,
            action,
            dst_cluster: "",
            dst_port: port.unwrap_or(80),
            end_user: None,
            trace_id: Some(trace_id),
            received,
        };
        let verdict = self.outbound.enforcer.deny(&call, reason::UNKNOWN_SERVICE).await;
        *seen = Some(self.outbound.enforcer.seen(&call, self.outbound.unknown_flow(&self.peer), &verdict));
        answer::denied(form, verdict.decision_id)
    }
}

/// Sends to an endpoint, and to another one when the request certainly never left.
async fn send(to: &Destination, mut request: Request<Body>, form: Form, key: Option<u64>) -> Response<Body> {
    let mut tried = Tried::default();
    loop {
        let Some((index, upstream)) = to.pick(&tried, key) else {
            return answer::fault(form, to.none());
        };
        match upstream.send(request).await {
            Ok(response) => return response,
            Err(upstream::Failure { error, unsent }) => {
                debug!(service = %to.service.service, error = %signet_observe::error_chain(&error), "no answer");
                match unsent {
                    Some(unsent) if error.denial().is_none() && to.unsent(&mut tried, index) => request = *unsent,
                    _ => return answer::unreachable(form, &error),
                }
            }
        }
    }
}
