//! The listener's side of calls that leave the mesh: CONNECT, HTTP requests, redirected connections.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tracing::debug;

use super::Outbound;
use super::http::{Client, Reach};
use crate::answer::{self, Form};
use crate::body::{Body, Counted};
use crate::decide::{Host, Peer, Verdict};
use crate::egress::{Asked, Egress, Outside, Refused};
use crate::flow::Seen;
use crate::snapshot::External;
use crate::tls::Wire;
use crate::trace::Trace;
use crate::{forward, headers};

impl Outbound {
    /// With it declared hosts outside of the mesh can be called.
    #[must_use]
    pub fn with_egress(self: Arc<Self>, egress: Egress) -> Arc<Self> {
        self.egress.store(Some(Arc::new(egress)));
        self
    }

    pub(super) fn outside(&self, host: &str, port: u16) -> Option<(Arc<Egress>, Arc<External>)> {
        let egress = self.egress.load_full()?;
        let external = egress.find(host, port)?;
        Some((egress, external))
    }

    /// A redirected connection's bytes, as they are.
    pub(super) async fn pass_outside(
        &self,
        stream: &mut TcpStream,
        (egress, external): (Arc<Egress>, Arc<External>),
        peer: Arc<Peer>,
        sni: Option<String>,
        received: Instant,
    ) -> Result<(), Refused> {
        let asked = Asked { external, peer, sni, trace_id: None, received };
        let (outside, verdict) = connect(&egress, &asked).await?;
        egress.relay(stream, outside, &asked, verdict).await;
        Ok(())
    }
}

impl Client {
    /// The declared host that an HTTP request means.
    pub(super) fn external(&self, host: &Host) -> Option<(Arc<Egress>, Arc<External>)> {
        let (name, port) = forward::split_host(host.as_str())?;
        match self.reach {
            Reach::Named => self.outbound.outside(name, port.unwrap_or(80)),
            // It was on its way to that port, whatever it says.
            Reach::Outside { port } => self.outbound.outside(name, port),
            Reach::Only(_) => None,
        }
    }

    /// CONNECT: 200 once the other side is up.
    pub(super) async fn connect_outside(
        self: &Arc<Self>,
        (egress, external): (Arc<Egress>, Arc<External>),
        request: &Request<Incoming>,
        upgrade: OnUpgrade,
        received: Instant,
    ) -> Response<Body> {
        let trace = Trace::start(request.headers(), tracing::Span::none);
        let asked = Asked { external, peer: Arc::clone(&self.peer), sni: None, trace_id: Some(trace.id()), received };
        let (outside, verdict) = match connect(&egress, &asked).await {
            Ok(opened) => opened,
            Err(refused) => return refusal(Form::Http, refused),
        };
        self.go_on(request.version(), async move {
            match upgrade.await {
                Ok(app) => egress.relay(TokioIo::new(app), outside, &asked, verdict).await,
                Err(error) => debug!(%error, "the app left before its CONNECT was up"),
            }
        });
        Response::new(Body::empty())
    }

    /// One request, on a connection of its own.
    pub(super) async fn request_outside(
        &self,
        (egress, external): (Arc<Egress>, Arc<External>),
        (mut parts, body): (Parts, Incoming),
        (host, path): (&Host, PathAndQuery),
        (form, trace): (Form, &Trace),
        received: Instant,
        seen: &mut Option<Seen>,
    ) -> Response<Body> {
        let asked = Asked { external, peer: Arc::clone(&self.peer), sni: None, trace_id: Some(trace.id()), received };
        let opened = egress.open(&asked, true).await;
        let flow = Arc::clone(&seen.insert(egress.seen(&asked, &opened)).flow);
        let (outside, verdict) = match opened {
            Ok(opened) => opened,
            Err(refused) => return refusal(form, refused),
        };
        headers::strip(&mut parts.headers);
        forward::shape(&mut parts, Wire::Http1, path, host);
        forward::frame(&mut parts, Wire::Http1, &body);
        let mut body = Body::from(body);
        body.count(Counted::from_source(flow));
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().clear();
        let (mut sender, connection) = match hyper::client::conn::http1::handshake(TokioIo::new(outside)).await {
            Ok(made) => made,
            Err(error) => {
                debug!(%error, "a host outside does not speak HTTP/1.1");
                return answer::fault(form, answer::EGRESS_UNREACHABLE);
            }
        };
        let stop = self.outbound.stop.clone();
        stop.tasks.spawn(async move {
            // The connection, and with it the response's body, ends when policy says so.
            stop.kill.run_until_cancelled(egress.until_denied(&asked, verdict, connection)).await;
        });
        match sender.send_request(request).await {
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                headers::strip(&mut parts.headers);
                Response::from_parts(parts, Body::leased(body, None, None))
            }
            Err(error) => {
                debug!(%error, "a host outside gave no answer");
                answer::fault(form, answer::EGRESS_UNREACHABLE)
            }
        }
    }
}

/// Opens a connection that is counted as one.
async fn connect(egress: &Egress, asked: &Asked) -> Result<(Box<dyn Outside>, Verdict), Refused> {
    let opened = egress.open(asked, false).await;
    let seen = egress.seen(asked, &opened);
    seen.connected(asked.received.elapsed());
    if let Err(Refused::Failed(_)) = opened {
        seen.flow.failed();
    }
    opened
}

fn refusal(form: Form, refused: Refused) -> Response<Body> {
    match refused {
        Refused::Denied(verdict) => answer::denied(form, verdict.decision_id),
        Refused::Failed(fault) => answer::fault(form, fault),
    }
}
