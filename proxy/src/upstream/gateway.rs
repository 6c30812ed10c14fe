//! Tunnels through another cluster's gateway: one pooled mTLS connection, HTTP/2 CONNECT per inner connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::{HeaderMap, Method, Request, StatusCode};
use hyper::client::conn::http2::SendRequest;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use signet_mtls::{IdentitySource, PeerRule, Select, alpn};
use signet_observe::trace;

use super::{Shared, UpstreamError, dial, h2};
use crate::body::Body;
use crate::headers;
use crate::limits;
use crate::snapshot::RemoteGateway;

/// The gateway of one remote trust domain, as one sidecar sees it.
pub struct GatewayPool {
    addresses: Vec<Arc<str>>,
    tls: Arc<ClientConfig>,
    next: AtomicUsize,
    open: Mutex<Vec<Connection>>,
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Body>,
    tunnels: Arc<AtomicUsize>,
    born: Instant,
    generation: u64,
}

impl Connection {
    fn usable(&self, now: Instant, generation: u64) -> bool {
        self.generation == generation
            && !self.sender.is_closed()
            && now.saturating_duration_since(self.born) < limits::POOL_LIFETIME
    }
}

impl GatewayPool {
    /// For `gateway`, shown the SVID that `select` selects.
    #[must_use]
    pub fn new(gateway: &RemoteGateway, source: &IdentitySource, select: Select) -> Arc<Self> {
        let rule = PeerRule::AnyOf(vec![gateway.spiffe_id.clone()]);
        Arc::new(Self {
            addresses: gateway.addresses.clone(),
            tls: signet_mtls::client_config(source, select, rule, &[alpn::H2]),
            next: AtomicUsize::new(0),
            open: Mutex::new(Vec::new()),
            connecting: tokio::sync::Mutex::new(()),
        })
    }

    /// A tunnel to the exported service that `authority` names.
    pub(super) async fn tunnel(
        &self,
        authority: &str,
        cause: &HeaderMap,
        shared: &Shared,
    ) -> Result<(TokioIo<Upgraded>, h2::Stream), UpstreamError> {
        let mut last = None;
        for _ in 0..2 {
            let connection = self.connection(shared).await?;
            let place = h2::Stream::on(&connection.tunnels);
            match self.ask(connection, authority, cause).await {
                Ok(tunnel) => return Ok((tunnel, place)),
                // A dead pooled connection: CONNECT has no effect of its own, so it may be asked again.
                Err(error @ UpstreamError::Broken { .. }) => {
                    shared.metrics.pool_retried.inc();
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| UpstreamError::Timeout { address: authority.to_owned() }))
    }

    async fn ask(
        &self,
        mut connection: Connection,
        authority: &str,
        cause: &HeaderMap,
    ) -> Result<TokioIo<Upgraded>, UpstreamError> {
        let broken = |source| UpstreamError::Broken { address: authority.to_owned(), source };
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() =
            authority.parse().map_err(|_| UpstreamError::Protocol { address: authority.to_owned() })?;
        trace::copy(cause, request.headers_mut());
        let answer = tokio::time::timeout(limits::HANDSHAKE, connection.sender.send_request(request)).await;
        let response = match answer {
            Err(_) => return Err(UpstreamError::Timeout { address: authority.to_owned() }),
            Ok(answer) => answer.map_err(broken)?,
        };
        if response.status() != StatusCode::OK {
            let decision =
                response.headers().get(headers::DECISION).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
            return Err(UpstreamError::Gateway {
                address: authority.to_owned(),
                status: response.status().as_u16(),
                decision,
            });
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await.map_err(broken)?))
    }

    async fn connection(&self, shared: &Shared) -> Result<Connection, UpstreamError> {
        let generation = shared.source.current().generation;
        if let Some(open) = self.take(generation) {
            return Ok(open);
        }
        let _turn = self.connecting.lock().await;
        if let Some(open) = self.take(generation) {
            return Ok(open);
        }
        let mut last = UpstreamError::Protocol { address: "a gateway without address".to_owned() };
        for _ in 0..self.addresses.len() {
            // Round robin over replicas; one that is down is passed over.
            let i = self.next.fetch_add(1, Ordering::Relaxed) % self.addresses.len().max(1);
            let Some(address) = self.addresses.get(i) else { break };
            match self.connect(address, shared, generation).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect(&self, address: &str, shared: &Shared, generation: u64) -> Result<Connection, UpstreamError> {
        let stream = dial::tcp_named(address).await?;
        let accepted = signet_mtls::connect(Arc::clone(&self.tls), stream, limits::HANDSHAKE)
            .await
            .map_err(|e| dial::refused(address.to_owned(), e))?;
        if accepted.alpn != alpn::H2 {
            return Err(UpstreamError::Protocol { address: address.to_owned() });
        }
        let sender = h2::connect(accepted.stream, &shared.tasks)
            .await
            .map_err(|source| UpstreamError::Broken { address: address.to_owned(), source })?;
        shared.metrics.pool_opened.inc();
        let connection =
            Connection { sender, tunnels: Arc::new(AtomicUsize::new(0)), born: Instant::now(), generation };
        self.open.lock().push(connection.clone());
        Ok(connection)
    }

    fn take(&self, generation: u64) -> Option<Connection> {
        let now = Instant::now();
        let mut open = self.open.lock();
        open.retain(|c| c.usable(now, generation));
        open.iter()
            .filter(|c| c.tunnels.load(Ordering::Relaxed) < limits::H2_STREAMS)
            .min_by_key(|c| c.tunnels.load(Ordering::Relaxed))
            .cloned()
    }

    pub(super) fn sweep(&self, generation: u64) {
        let now = Instant::now();
        self.open.lock().retain(|c| c.usable(now, generation));
    }
}
