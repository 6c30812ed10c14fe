//! Where calls go: one [`Upstream`] per endpoint (or app), with its pools, its load and its way of dialling.
//!
//! Pools follow the identity: a connection made under an older SVID is not taken for a new call and goes when its last
//! call ends, so rotation costs no call. A call is repeated once, and only when it cannot have been acted on, or when it
//! is idempotent, had no body and met a pooled connection that turned out to be dead.

mod dial;
mod gateway;
mod h1;
mod h2;
mod judge;
mod probe;
mod turn;
mod wired;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::UPGRADE;
use http::{HeaderMap, Request, Response, StatusCode};
use rustls::ClientConfig;
use signet_mtls::{IdentitySource, Refusal};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::balance::{InFlight, Limit, Load, Member};
use crate::body::Body;
use crate::limits;
use crate::metrics::Metrics;
use crate::tls::Wire;
use crate::websocket;

pub use dial::Transport;
pub use gateway::GatewayPool;
pub(crate) use judge::grpc_failed;
pub(crate) use wired::Wired;

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("cannot connect to `{address}`")]
    Connect { address: String, source: std::io::Error },
    #[error("connecting to `{address}` took too long")]
    Timeout { address: String },
    #[error("`{address}` did not prove an expected identity ({refusal})")]
    Identity { address: String, refusal: Refusal },
    #[error("`{address}` does not speak the declared protocol")]
    Protocol { address: String },
    #[error("gateway `{address}` answered {status}")]
    Gateway { address: String, status: u16, decision: Option<Uuid> },
    #[error("`{address}` gave no answer")]
    Silent { address: String, source: std::io::Error },
    #[error("`{address}` switched to a protocol that nobody asked for")]
    Switched { address: String },
    #[error("the limit of {} to `{address}` was met", .limit.as_str())]
    Overflow { address: String, limit: Limit },
    #[error("the connection to `{address}` broke")]
    Broken { address: String, source: hyper::Error },
}

impl UpstreamError {
    /// The decision by which another cluster's gateway refused.
    #[must_use]
    pub fn denial(&self) -> Option<Uuid> {
        match self {
            Self::Gateway { status: 403, decision, .. } => *decision,
            _ => None,
        }
    }

    /// Whether it says that no connection to the endpoint could be made.
    fn is_unreached(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Identity { .. } | Self::Protocol { .. } => true,
            Self::Gateway { .. } => self.denial().is_none(),
            Self::Silent { .. } | Self::Switched { .. } | Self::Overflow { .. } | Self::Broken { .. } => false,
        }
    }
}

/// No answer; `unsent` is the request when it certainly never left.
pub struct Failure {
    pub error: UpstreamError,
    pub unsent: Option<Box<Request<Body>>>,
}

impl Failure {
    fn unsent(error: UpstreamError, request: Request<Body>) -> Self {
        Self { error, unsent: Some(Box::new(request)) }
    }
}

/// What all upstreams of a proxy share.
#[derive(Clone)]
pub struct Shared {
    pub source: IdentitySource,
    pub metrics: Arc<Metrics>,
    /// Owns the tasks that drive upstream connections.
    pub tasks: TaskTracker,
}

enum Target {
    /// The app beside the sidecar: plain, on loopback.
    App(SocketAddr),
    Sidecar {
        address: SocketAddr,
        tls: Arc<ClientConfig>,
    },
    Remote {
        gateway: Arc<GatewayPool>,
        authority: Arc<str>,
        tls: Arc<ClientConfig>,
    },
}

/// One endpoint.
pub struct Upstream {
    target: Target,
    wire: Wire,
    shared: Shared,
    load: Arc<Load>,
    /// Set when a TrafficPolicy governs the service.
    member: Option<Arc<Member>>,
    h1: h1::Pool,
    h2: h2::Pool,
    wired: wired::Pool,
}

/// An upstream connection in use by one call.
pub struct Lease(LeaseKind);

enum LeaseKind {
    Http1(h1::Lease),
    H2(h2::Stream),
}

impl Lease {
    /// The call ended as it should.
    pub(crate) fn give_back(self) {
        match self.0 {
            LeaseKind::Http1(lease) => lease.give_back(),
            LeaseKind::H2(stream) => drop(stream),
        }
    }
}

impl Upstream {
    /// The app behind an inbound listener.
    #[must_use]
    pub fn app(address: SocketAddr, wire: Wire, shared: Shared) -> Arc<Self> {
        Self::make(Target::App(address), wire, shared, None)
    }

    /// A sidecar of the own cluster; `tls` says who may answer.
    #[must_use]
    pub fn sidecar(
        address: SocketAddr,
        tls: Arc<ClientConfig>,
        wire: Wire,
        shared: Shared,
        member: Option<Arc<Member>>,
    ) -> Arc<Self> {
        Self::make(Target::Sidecar { address, tls }, wire, shared, member)
    }

    /// A service behind another cluster's gateway; `tls` is the inner, end-to-end one.
    #[must_use]
    pub fn remote(
        gateway: Arc<GatewayPool>,
        authority: Arc<str>,
        tls: Arc<ClientConfig>,
        wire: Wire,
        shared: Shared,
        member: Option<Arc<Member>>,
    ) -> Arc<Self> {
        Self::make(Target::Remote { gateway, authority, tls }, wire, shared, member)
    }

    fn make(target: Target, wire: Wire, shared: Shared, member: Option<Arc<Member>>) -> Arc<Self> {
        Arc::new(Self {
            target,
            wire,
            shared,
            load: Arc::new(Load::default()),
            member,
            h1: h1::Pool::default(),
            h2: h2::Pool::default(),
            wired: wired::Pool::default(),
        })
    }

    #[must_use]
    pub fn load(&self) -> &Arc<Load> {
        &self.load
    }

    #[must_use]
    pub fn member(&self) -> Option<&Arc<Member>> {
        self.member.as_ref()
    }

    #[must_use]
    pub fn wire(&self) -> Wire {
        self.wire
    }

    fn address(&self) -> String {
        match &self.target {
            Target::App(address) | Target::Sidecar { address, .. } => address.to_string(),
            Target::Remote { authority, .. } => authority.as_ref().to_owned(),
        }
    }

    /// Of the identity that new connections would show; the app is shown none.
    fn generation(&self) -> u64 {
        match self.target {
            Target::App(_) => 0,
            _ => self.shared.source.current().generation,
        }
    }

    /// Sends a request whose head is already in the form of [`Upstream::wire`], and gives the response's head. The
    /// response's body holds the connection until it ends.
    ///
    /// # Errors
    /// When no answer came; see [`Failure`].
    pub async fn send(self: &Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let in_flight = match self.begin() {
            Ok(in_flight) => in_flight,
            Err(error) => return Err(Failure::unsent(error, request)),
        };
        let upgrade = request.headers().contains_key(UPGRADE);
        let sent = match self.wire {
            Wire::H2 => h2::send(self, request).await,
            Wire::Http1 | Wire::Tcp => h1::send(self, request).await,
        };
        match sent {
            Ok((response, lease)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                // The connection is HTTP's no more, whatever was asked.
                drop(lease);
                if !upgrade || !websocket::switches(response.headers()) {
                    let error = UpstreamError::Switched { address: self.address() };
                    self.failed(&error, &in_flight);
                    return Err(Failure { error, unsent: None });
                }
                in_flight.answered(Instant::now());
                self.reached();
                self.judge(true);
                Ok(response.map(|incoming| Body::leased(incoming, None, Some(in_flight))))
            }
            Ok((response, lease)) => {
                in_flight.answered(Instant::now());
                self.reached();
                let in_flight = self.judge_head(response.status(), response.headers(), in_flight);
                Ok(response.map(|incoming| Body::leased(incoming, Some(Lease(lease)), Some(in_flight))))
            }
            Err(failure) => {
                self.failed(&failure.error, &in_flight);
                Err(failure)
            }
        }
    }

    /// A connection of its own for raw TCP. `cause` is the head of the request that asks for it.
    ///
    /// # Errors
    /// When none could be made.
    pub async fn raw(&self, cause: &HeaderMap) -> Result<(Transport, InFlight), UpstreamError> {
        let in_flight = self.begin()?;
        let dialled = async {
            let (waiting, slot) = self.slot()?;
            let transport = self.dial(cause).await?;
            drop(waiting);
            Ok((transport, slot))
        };
        match dialled.await {
            Ok((transport, slot)) => {
                in_flight.answered(Instant::now());
                self.reached();
                self.judge(true);
                let in_flight = match slot {
                    Some(slot) => in_flight.on(slot),
                    None => in_flight,
                };
                Ok((transport, in_flight))
            }
            Err(error) => {
                self.failed(&error, &in_flight);
                Err(error)
            }
        }
    }

    fn failed(&self, error: &UpstreamError, in_flight: &InFlight) {
        // What was not asked has not failed.
        if matches!(error, UpstreamError::Overflow { .. }) {
            return;
        }
        let now = Instant::now();
        in_flight.failed(now);
        self.shared.metrics.pool_failed.inc();
        if error.is_unreached() {
            self.unreached(now);
        }
        self.judge_error(error);
    }

    /// `cause` is the head of the call that needs the connection: a gateway sees the trace of the call that it forwards for.
    async fn dial(&self, cause: &HeaderMap) -> Result<Transport, UpstreamError> {
        self.shared.metrics.pool_opened.inc();
        if !self.member.as_ref().is_some_and(|member| member.is_watched()) {
            return self.connect(cause).await;
        }
        // There is somewhere else to go.
        match tokio::time::timeout(limits::CONNECT_WATCHED, self.connect(cause)).await {
            Ok(connected) => connected,
            Err(_) => Err(UpstreamError::Timeout { address: self.address() }),
        }
    }

    async fn connect(&self, cause: &HeaderMap) -> Result<Transport, UpstreamError> {
        match &self.target {
            Target::App(address) => dial::plain(*address).await,
            Target::Sidecar { address, tls } => dial::mesh(*address, tls, self.wire).await,
            Target::Remote { gateway, authority, tls } => {
                let tunnel = gateway.tunnel(authority, cause, &self.shared).await?;
                dial::inside(tunnel, authority, tls, self.wire).await
            }
        }
    }

    /// Drops idle connections that nobody will take any more.
    pub fn sweep(&self) {
        let generation = self.generation();
        self.h1.sweep(generation);
        self.h2.sweep(generation);
        self.wired.sweep(generation);
        if let Target::Remote { gateway, .. } = &self.target {
            gateway.sweep(generation);
        }
    }

    /// Idle HTTP/1.1 and open HTTP/2 connections, for the admin listener.
    #[must_use]
    pub fn pooled(&self) -> (usize, usize) {
        (self.h1.len() + self.wired.len(), self.h2.len())
    }
}
