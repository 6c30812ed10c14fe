//! The service's side: terminates mTLS, decides, records, and only then lets the app see anything.
//!
//! INVARIANT: the service that a call is for comes from the port's configuration in the snapshot, never from what the
//! caller sent. Services that share a port must all permit. A port that the snapshot does not know serves nobody.

mod connections;
mod http;
mod intercepted;
mod limit;
mod relayed;
mod tcp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use serde_json::{Value, json};
use signet_mtls::{HandshakeError, IdentitySource, Select, SpiffeId};
use signet_policy::Action;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use connections::Connections;
pub use intercepted::Intercepted;
use limit::Limiter;

use crate::decide::{ActionOwned, Asked, Call, Enforcer, Peer, Serves, Verdict, reason};
use crate::detect::{self, HttpVersion};
use crate::flow::{Flow, Seen};
use crate::metrics::{Direction, Metrics};
use crate::outbound::ListenError;
use crate::refusal::Refusals;
use crate::serve::{self, Stop};
use crate::snapshot::{InboundService, Protocol, Snapshot};
use crate::tls::{self, Wire};
use crate::token::Presented;
use crate::upstream::{Shared, Upstream};

/// On a permissive TCP port a client that says nothing may be one whose server speaks first; TLS clients never wait.
const SILENCE: Duration = Duration::from_millis(100);

/// What the snapshot says about one listener.
struct Port {
    services: Vec<Arc<InboundService>>,
    /// Of each service, in their order.
    limits: Vec<Option<Arc<Limiter>>>,
    protocol: Protocol,
    permissive: bool,
    /// The own trust domain, as the services name it.
    cluster: Arc<str>,
    app: Arc<Upstream>,
}

/// One inbound listener and the app behind it.
pub struct Inbound {
    target_port: u16,
    app: SocketAddr,
    port: ArcSwapOption<Port>,
    tls: Arc<ServerConfig>,
    shared: Shared,
    enforcer: Arc<Enforcer>,
    refusals: Refusals,
    stop: Stop,
    open: Connections,
}

impl Inbound {
    /// For the services whose target port is `target_port`; `app` is where the app listens.
    #[must_use]
    pub fn new(
        target_port: u16,
        app: SocketAddr,
        source: IdentitySource,
        enforcer: Arc<Enforcer>,
        refusals: Refusals,
        metrics: Arc<Metrics>,
        stop: Stop,
    ) -> Arc<Self> {
        Arc::new(Self::parts(target_port, app, source, enforcer, refusals, metrics, stop))
    }

    fn parts(
        target_port: u16,
        app: SocketAddr,
        source: IdentitySource,
        enforcer: Arc<Enforcer>,
        refusals: Refusals,
        metrics: Arc<Metrics>,
        stop: Stop,
    ) -> Self {
        let tls = tls::inbound(&source, Select::Workload);
        let shared = Shared { source, metrics, tasks: TaskTracker::new() };
        let (port, open) = (ArcSwapOption::empty(), Connections::default());
        Self { target_port, app, port, tls, shared, enforcer, refusals, stop, open }
    }

    /// Takes over what a snapshot says about this listener.
    pub fn apply(&self, snapshot: &Snapshot) {
        let services: Vec<_> =
            snapshot.inbound.iter().filter(|s| s.target_port == self.target_port).map(Arc::clone).collect();
        let Some(protocol) = services.first().map(|s| s.protocol) else {
            self.port.store(None);
            return;
        };
        let permissive = services.iter().all(|s| s.permissive);
        let wire = Wire::for_protocol(protocol);
        let old = self.port.load();
        let limits = services.iter().map(|service| limiter(service, old.as_deref())).collect();
        let app = match old.as_ref() {
            Some(old) if old.app.wire() == wire => Arc::clone(&old.app),
            _ => Upstream::app(self.app, wire, self.shared.clone()),
        };
        let cluster = Arc::from(snapshot.trust_domain.as_str());
        self.port.store(Some(Arc::new(Port { services, limits, protocol, permissive, cluster, app })));
    }

    /// Drops idle connections to the app that nobody will take any more.
    pub fn sweep(&self) {
        self.open.sweep();
        if let Some(port) = self.port.load().as_ref() {
            port.app.sweep();
        }
    }

    /// For `/connections`: who has connections open to the port.
    #[must_use]
    pub fn connections(&self) -> Value {
        let port = self.port.load();
        let services = port.iter().flat_map(|port| &port.services).map(|service| service.service.as_ref());
        let mut shown = self.open.view(Instant::now());
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("port".to_owned(), json!(self.target_port));
            fields.insert("services".to_owned(), services.collect());
        }
        shown
    }

    /// Binds `address`.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
        TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })
    }

    /// Serves until drained.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let metrics = Arc::clone(&self.shared.metrics);
        let stop = self.stop.clone();
        serve::accept(listener, Direction::Inbound, metrics, stop, move |stream, address| {
            Arc::clone(&self).connection(stream, address)
        })
        .await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let received = Instant::now();
        let port = self.port.load_full();
        if let Some(port) = port.as_ref().filter(|p| p.permissive)
            && let Some(first) = plaintext(&stream, port.protocol).await
        {
            return Box::pin(self.plain(stream, address, first, received)).await;
        }
        // Boxed, like all that is over before the calls begin: it would stay with the connection.
        let accepted = match Box::pin(tls::accept(Arc::clone(&self.tls), stream, address)).await {
            Ok(accepted) => accepted,
            Err(error) => return self.refuse(address, &error, port.as_deref()),
        };
        let tls::Inbound { mut stream, peer, wire } = accepted;
        let denied = match (&port, wire) {
            (None, _) => Some(reason::UNKNOWN_SERVICE),
            (Some(port), Some(wire)) if wire.fits(port.protocol) => None,
            (Some(_), _) => Some(reason::PROTOCOL_MISMATCH),
        };
        if let Some(why) = denied {
            Box::pin(self.deny_connection(&peer, why, received)).await;
            let _ = stream.shutdown().await;
            return;
        }
        let protocol = wire.and_then(|wire| str::from_utf8(wire.alpn()).ok()).unwrap_or_default();
        self.open.add(&peer, protocol, received);
        match wire {
            Some(Wire::H2) => http::serve(self, stream, peer, HttpVersion::Two).await,
            Some(Wire::Http1) => http::serve(self, stream, peer, HttpVersion::One).await,
            Some(Wire::Tcp) | None => Box::pin(tcp::serve(&self, stream, peer, received)).await,
        }
    }

    async fn plain(self: Arc<Self>, stream: TcpStream, address: SocketAddr, first: FirstBytes, received: Instant) {
        self.shared.metrics.plaintext_connections.inc();
        let peer = Arc::new(Peer {
            id: None,
            address: Some(address),
            tls: Arc::from("none"),
            not_after: None,
            chain: Vec::new(),
        });
        self.open.add(&peer, "plaintext", received);
        match first {
            FirstBytes::Http(version) => http::serve(self, stream, peer, version).await,
            FirstBytes::Other => tcp::serve(&self, stream, peer, received).await,
        }
    }

    fn refuse(&self, address: SocketAddr, error: &HandshakeError, port: Option<&Port>) {
        let service = port.and_then(|p| p.services.first()).map_or("", |s| s.service.as_ref());
        let tls = if error.refusal == signet_mtls::Refusal::NotTls { "none" } else { "" };
        let id = error.claimed.as_ref();
        self.refusals.refused(address, error.refusal.as_str(), "tls:handshake", service, id, tls);
    }

    /// Denies a connection before any call on it could be read, once for each service of the port.
    async fn deny_connection(&self, peer: &Peer, why: &'static str, received: Instant) {
        let port = self.port.load_full();
        let services = port.as_ref().map(|p| p.services.as_slice()).unwrap_or_default();
        let own = self.own_id();
        let names = services.iter().map(|s| (s.service.as_ref(), s.port));
        let unnamed = services.is_empty().then_some(("", self.target_port));
        for (service, dst_port) in names.chain(unnamed) {
            let call = Call {
                peer,
                destination: own.as_deref(),
                service,
                action: Action::TcpConnect { sni: None },
                dst_cluster: cluster_of(service),
                dst_port,
                end_user: None,
                trace_id: None,
                received,
            };
            self.enforcer.deny(&call, why).await;
        }
    }

    fn own_id(&self) -> Option<Arc<str>> {
        own_id(&self.shared.source)
    }

    /// Counts a call for every service of the port. One that exceeds a limit is denied and recorded as that, before and
    /// whatever policy would say.
    async fn over_limit(&self, port: &Port, asked: &mut Asked) -> Option<Limited> {
        let (service, wait) = over(port, &asked.peer)?;
        asked.service = Arc::clone(&service.service);
        asked.dst_port = service.port;
        Some(self.limited(&asked.call(), wait).await)
    }

    async fn limited(&self, call: &Call<'_>, wait: Duration) -> Limited {
        self.shared.metrics.rate_limited.inc();
        Limited { verdict: self.enforcer.deny(call, reason::RATE_LIMITED).await, wait }
    }

    /// Decides for every service of the port. All must permit; the first that does not is the answer.
    async fn decide(&self, port: &Port, asked: &mut Asked, presented: Presented<'_>) -> Verdict {
        let mut verdict = None;
        for service in &port.services {
            asked.service = Arc::clone(&service.service);
            asked.dst_port = service.port;
            let one = self.enforcer.decide_for(asked, presented).await;
            if !one.allow {
                return one;
            }
            verdict = Some(one);
        }
        match verdict {
            Some(verdict) => {
                self.shared.metrics.carried(&asked.peer);
                verdict
            }
            // INVARIANT: a `Port` has a service; without one nothing could have been asked.
            None => self.enforcer.deny(&asked.call(), reason::UNKNOWN_SERVICE).await,
        }
    }

    /// The series of calls like this one.
    fn flow(&self, asked: &Asked) -> Arc<Flow> {
        self.enforcer.flow(&asked.call(), Direction::Inbound)
    }

    fn seen(&self, asked: &Asked, verdict: &Verdict) -> Seen {
        self.enforcer.seen(&asked.call(), self.flow(asked), verdict)
    }

    /// Whether the listener still serves what an open call was opened for, to a peer that is still trusted.
    fn serves(&self, asked: &Asked, trust: Serves) -> Serves {
        let port = self.port.load();
        let Some(port) = port.as_ref() else { return Serves::No(reason::UNKNOWN_SERVICE) };
        if !port.services.iter().any(|s| s.service == asked.service) {
            return Serves::No(reason::UNKNOWN_SERVICE);
        }
        let fits = match asked.action {
            ActionOwned::Http { .. } => matches!(port.protocol, Protocol::Http | Protocol::Http2),
            ActionOwned::Grpc { .. } => port.protocol == Protocol::Grpc,
            ActionOwned::Tcp { .. } => port.protocol == Protocol::Tcp,
        };
        if !fits {
            return Serves::No(reason::PROTOCOL_MISMATCH);
        }
        if asked.peer.id.is_none() && !port.permissive {
            return Serves::No(reason::STRICT_PORT);
        }
        trust
    }
}

/// The denial of a call that exceeded a limit, and how long until its client may call again.
struct Limited {
    verdict: Verdict,
    wait: Duration,
}

/// The first service of the port whose limit the next call of `peer` exceeds.
fn over<'p>(port: &'p Port, peer: &Peer) -> Option<(&'p Arc<InboundService>, Duration)> {
    let mut limits = port.services.iter().zip(&port.limits);
    limits.find_map(|(service, limiter)| {
        let wait = limiter.as_ref()?.take(peer.id.as_ref(), Instant::now()).err()?;
        Some((service, wait))
    })
}

/// The limiter of `service`: `old`'s, with what it counted, while its limits stay the same.
fn limiter(service: &InboundService, old: Option<&Port>) -> Option<Arc<Limiter>> {
    let kept = old.into_iter().flat_map(|port| port.services.iter().zip(&port.limits)).find_map(|(known, limiter)| {
        let same = known.service == service.service && known.port == service.port;
        limiter.as_ref().filter(|limiter| same && limiter.is_of(&service.rate_limits))
    });
    kept.map_or_else(|| Limiter::new(&service.rate_limits).map(Arc::new), |kept| Some(Arc::clone(kept)))
}

/// Whether a connection's peer is still trusted; its chain is verified again only when that can have changed.
#[derive(Default)]
struct Trust {
    seen: Option<(u64, Serves)>,
}

impl Trust {
    /// `ended`: the peer's certificate may have ended since the last look.
    fn look(&mut self, enforcer: &Enforcer, peer: &Peer, ended: bool) -> Serves {
        let epoch = enforcer.trust_epoch();
        match self.seen {
            Some((seen, trust)) if seen == epoch && !ended => trust,
            _ => {
                let trust = enforcer.trusts(peer);
                self.seen = Some((epoch, trust));
                trust
            }
        }
    }
}

/// What a client of a permissive port that speaks no TLS began with.
#[derive(Debug, Clone, Copy)]
enum FirstBytes {
    Http(HttpVersion),
    Other,
}

/// `None`: it is a TLS handshake, or nothing came.
async fn plaintext(stream: &TcpStream, protocol: Protocol) -> Option<FirstBytes> {
    let mut first = [0_u8; 1];
    let limit = if protocol == Protocol::Tcp { SILENCE } else { crate::limits::DETECT };
    match tokio::time::timeout(limit, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first == [0x16] => None,
        Ok(Ok(1)) if protocol == Protocol::Tcp => Some(FirstBytes::Other),
        Ok(Ok(1)) => detect::on_socket(stream).await.map(FirstBytes::Http),
        Ok(_) => None,
        Err(_) => (protocol == Protocol::Tcp).then_some(FirstBytes::Other),
    }
}

/// The trust domain in `<td>/<ns>/<name>`.
fn cluster_of(service: &str) -> &str {
    service.split('/').next().unwrap_or_default()
}

fn own_id(source: &IdentitySource) -> Option<Arc<str>> {
    let identity = source.current();
    Select::Workload.svid(&identity).map(|svid| Arc::from(SpiffeId::as_str(&svid.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_little_memory() {
        fn bytes<F>(_: impl Fn(Arc<Inbound>, TcpStream, SocketAddr) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = bytes(Inbound::connection);
        assert!(bytes <= 2_048, "{bytes} bytes for each idle connection");
    }
}
