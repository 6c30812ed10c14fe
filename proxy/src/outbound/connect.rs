//! CONNECT: raw TCP for services that declare it, HTTP parsed as usual for services that declare HTTP.
//!
//! It reaches services of the snapshot only, so it is no way out. The 200 comes after the inner side is up.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;
use signet_policy::Action;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tracing::debug;

use super::Outbound;
use super::http::{Client, Reach};
use super::table::Destination;
use crate::ambiguity::Unambiguous;
use crate::answer::{self, Form};
use crate::balance::{InFlight, Limit, Tried};
use crate::body::Body;
use crate::decide::{Call, reason};
use crate::detect::Prefixed;
use crate::flow::{Decided, Flow};
use crate::snapshot::Protocol;
use crate::trace::Trace;
use crate::upstream::{Transport, UpstreamError};
use crate::websocket::Behind;
use crate::{detect, tcp};

pub(super) async fn open(client: &Arc<Client>, mut request: Request<Incoming>, received: Instant) -> Response<Body> {
    if matches!(client.reach, Reach::Only(_)) {
        return answer::fault(Form::Http, answer::NESTED);
    }
    let Some((host, port)) = request.uri().authority().map(|a| (a.host().to_owned(), a.port_u16())) else {
        return answer::fault(Form::Http, answer::BAD_REQUEST);
    };
    let to = match client.reach {
        Reach::Named => client.outbound.table.load().find(&host, port, 80).map(Arc::clone),
        Reach::Only(_) | Reach::Outside { .. } => None,
    };
    let Some(to) = to else {
        if matches!(client.reach, Reach::Named)
            && let Some(external) = client.outbound.outside(&host, port.unwrap_or(443))
        {
            let upgrade = hyper::upgrade::on(&mut request);
            return client.connect_outside(external, &request, upgrade, received).await;
        }
        let trace = Trace::start(request.headers(), tracing::Span::none);
        let call = Call {
            peer: &client.peer,
            destination: None,
            service: &host,
            action: Action::TcpConnect { sni: None },
            dst_cluster: "",
            dst_port: port.unwrap_or_default(),
            end_user: None,
            trace_id: Some(trace.id()),
            received,
        };
        let outbound = &client.outbound;
        let verdict = outbound.enforcer.deny(&call, reason::UNKNOWN_SERVICE).await;
        let seen = outbound.enforcer.seen(&call, outbound.unknown_flow(&client.peer), &verdict);
        seen.connected(received.elapsed());
        return answer::denied(Form::Http, verdict.decision_id);
    };
    let (upgrade, version) = (hyper::upgrade::on(&mut request), request.version());
    if to.service.protocol == Protocol::Tcp {
        let outbound = Arc::clone(&client.outbound);
        let (transport, in_flight) = match outbound.dial(&to, request.headers()).await {
            Ok(dialled) => dialled,
            Err(response) => return *response,
        };
        client.go_on(version, async move {
            match upgrade.await {
                Ok(upgraded) => relay(upgraded, transport, in_flight, &to, &outbound).await,
                Err(error) => debug!(%error, "the app left before its CONNECT was up"),
            }
        });
    } else {
        let inner = Client {
            outbound: Arc::clone(&client.outbound),
            peer: Arc::clone(&client.peer),
            address: client.address,
            reach: Reach::Only(to),
            behind: Behind::default(),
        };
        client.go_on(version, async move {
            let Ok(upgraded) = upgrade.await else { return };
            if let Some((stream, version)) = detect::on_stream(TokioIo::new(upgraded)).await {
                Arc::new(inner).serve(stream, version).await;
            }
        });
    }
    Response::new(Body::empty())
}

impl Client {
    /// Has `next`, which waits for the upgrade, done: on HTTP/1 by the connection's own task, which keeps the connection's
    /// place among those of the listener; on HTTP/2 beside it, because the connection has more streams.
    pub(super) fn go_on(&self, version: Version, next: impl Future<Output = ()> + Send + 'static) {
        if version < Version::HTTP_2 {
            return self.behind.put(next);
        }
        let kill = self.outbound.stop.kill.clone();
        self.outbound.stop.tasks.spawn(async move {
            kill.run_until_cancelled(next).await;
        });
    }
}

impl Outbound {
    /// A connection to a TCP service, counted as one.
    pub(super) async fn dial(
        &self,
        to: &Destination,
        cause: &HeaderMap,
    ) -> Result<(Transport, InFlight), Box<Response<Body>>> {
        let dialled = dial(to, cause).await;
        let flow = to.flow(&self.shared);
        flow.connected(Decided::Elsewhere);
        if dialled.is_err() {
            flow.failed();
        }
        dialled
    }
}

async fn dial(to: &Destination, cause: &HeaderMap) -> Result<(Transport, InFlight), Box<Response<Body>>> {
    let mut tried = Tried::default();
    loop {
        let Some((index, upstream)) = to.pick(&tried, None) else {
            return Err(Box::new(answer::fault(Form::Http, to.none())));
        };
        match upstream.raw(cause).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) if may_be_elsewhere(&error) && to.unsent(&mut tried, index) => {}
            Err(error) => return Err(Box::new(answer::unreachable(Form::Http, &error))),
        }
    }
}

/// Whether another endpoint may do better; nothing was sent.
fn may_be_elsewhere(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Connect { .. } | UpstreamError::Timeout { .. } | UpstreamError::Broken { .. } => true,
        UpstreamError::Overflow { limit, .. } => *limit == Limit::Connections,
        UpstreamError::Gateway { .. } => error.denial().is_none(),
        UpstreamError::Identity { .. }
        | UpstreamError::Protocol { .. }
        | UpstreamError::Silent { .. }
        | UpstreamError::Switched { .. } => false,
    }
}

async fn relay(
    upgraded: Upgraded,
    mut transport: Transport,
    in_flight: InFlight,
    to: &Destination,
    outbound: &Outbound,
) {
    let flow = to.flow(&outbound.shared);
    // On HTTP/1.1 the upgraded connection is the socket itself: take it out of its box.
    let copied = match upgraded.downcast::<TokioIo<Unambiguous<Prefixed<TcpStream>>>>() {
        Ok(Parts { io, read_buf, .. }) => {
            let (mut socket, unread) = io.into_inner().into_inner().into_parts();
            let first = if unread.is_empty() { read_buf } else { [read_buf.as_ref(), &unread].concat().into() };
            copy(&mut socket, first, &mut transport, flow).await
        }
        Err(upgraded) => copy(&mut TokioIo::new(upgraded), Bytes::new(), &mut transport, flow).await,
    };
    drop(in_flight);
    match copied {
        Ok((sent, received)) => outbound.shared.metrics.copied(sent, received),
        Err(error) => debug!(%error, "a TCP connection broke"),
    }
}

pub(super) async fn copy<T>(
    app: &mut T,
    first: Bytes,
    transport: &mut Transport,
    flow: &Flow,
) -> std::io::Result<(u64, u64)>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    if !first.is_empty() {
        transport.write_all(&first).await?;
        transport.flush().await?;
        flow.received(first.len() as u64);
    }
    let (sent, received) = tcp::relay(app, transport, flow).await?;
    Ok((sent + first.len() as u64, received))
}
