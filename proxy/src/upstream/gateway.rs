//! Tunnels through another cluster's gateway: pooled mTLS connections to its replicas, HTTP/2 CONNECT per inner connection.
//!
//! A replica that does not answer costs its callers about a second, once: connecting starts at another replica after
//! [`STAGGER`], and a CONNECT that is not answered for [`UNANSWERED`] is asked again elsewhere. Replicas that lost such a
//! race are asked last for [`SUSPECT`]. Tunnels that are open stay with their connection, whose own pings end it.

mod replicas;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::client::conn::http2::SendRequest;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use signet_mtls::{IdentitySource, PeerRule, Select, alpn};
use signet_observe::trace;

use super::{Shared, UpstreamError, dial, h2};
use crate::balance::Reach;
use crate::body::Body;
use crate::headers;
use crate::limits;
use crate::snapshot::RemoteGateway;
use replicas::Replicas;

/// From the start of connecting to one replica to that of the next (RFC 8305, section 5, calls it the attempt delay).
const STAGGER: Duration = Duration::from_millis(300);
/// A gateway answers CONNECT when it has decided and connected; one that is there is seldom slower.
const UNANSWERED: Duration = Duration::from_secs(1);
/// A probe's first connection has this long to answer.
const PING: Duration = Duration::from_millis(600);
/// From an answer to the next question, where services fail over to the gateway's cluster or from it.
const PING_EVERY: Duration = Duration::from_millis(750);
/// How long a replica that lost a race is asked last.
const SUSPECT: Duration = Duration::from_secs(5);

/// The gateway of one remote trust domain, as one sidecar sees it.
pub struct GatewayPool {
    replicas: Replicas,
    tls: Arc<ClientConfig>,
    open: Mutex<Vec<Connection>>,
    connecting: tokio::sync::Mutex<()>,
    /// Whether any replica answers, as far as services that fail over want to know.
    reach: Arc<Reach>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Body>,
    tunnels: Arc<AtomicUsize>,
    born: Instant,
    generation: u64,
    /// Which replica it leads to.
    replica: usize,
}

impl Connection {
    fn usable(&self, now: Instant, generation: u64) -> bool {
        self.generation == generation
            && !self.sender.is_closed()
            && now.saturating_duration_since(self.born) < limits::POOL_LIFETIME
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tunnels, &other.tunnels)
    }
}

type Answer = Result<(TokioIo<Upgraded>, h2::Stream), UpstreamError>;

impl GatewayPool {
    /// For `gateway`, shown the SVID that `select` selects.
    #[must_use]
    pub fn new(gateway: &RemoteGateway, source: &IdentitySource, select: Select) -> Arc<Self> {
        let rule = PeerRule::AnyOf(vec![gateway.spiffe_id.clone()]);
        Arc::new(Self {
            replicas: Replicas::new(gateway.addresses.clone()),
            tls: signet_mtls::client_config(source, select, rule, &[alpn::H2]),
            open: Mutex::new(Vec::new()),
            connecting: tokio::sync::Mutex::new(()),
            reach: Arc::default(),
        })
    }

    /// Whether any replica answers.
    #[must_use]
    pub fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    /// A tunnel to the exported service that `authority` names.
    pub(super) async fn tunnel(&self, authority: &str, cause: &HeaderMap, shared: &Shared) -> Answer {
        let answer = self.opened(authority, cause, shared).await;
        match &answer {
            Ok(_) | Err(UpstreamError::Gateway { .. }) => self.reached(),
            Err(_) => self.lost(shared, self.reach.failed(Instant::now())),
        }
        answer
    }

    async fn opened(&self, authority: &str, cause: &HeaderMap, shared: &Shared) -> Answer {
        let mut last = None;
        for _ in 0..=self.replicas.len() {
            let connection = self.connection(shared, None).await?;
            match self.ask_or_another(&connection, authority, cause, shared).await {
                // A dead pooled connection: CONNECT has no effect of its own, so it may be asked again.
                Err(error @ UpstreamError::Broken { .. }) => {
                    shared.metrics.pool_retried.inc();
                    last = Some(error);
                }
                answer => return answer,
            }
        }
        Err(last.unwrap_or_else(|| UpstreamError::Timeout { address: authority.to_owned() }))
    }

    /// Asks on `first`, and on another connection too when `first` gives no answer: the first answer counts.
    async fn ask_or_another(&self, first: &Connection, authority: &str, cause: &HeaderMap, shared: &Shared) -> Answer {
        let asked = self.ask(first, authority, cause);
        tokio::pin!(asked);
        if let Ok(answer) = tokio::time::timeout(UNANSWERED, asked.as_mut()).await {
            return answer;
        }
        let again = async {
            let other = self.connection(shared, Some(first)).await?;
            shared.metrics.pool_retried.inc();
            self.ask(&other, authority, cause).await
        };
        tokio::pin!(again);
        match select(asked, again).await {
            Either::Left((answer, again)) => match answer {
                Err(error) if !is_answer(&error) => again.await,
                answer => answer,
            },
            Either::Right((Err(error), asked)) if !is_answer(&error) => asked.await,
            Either::Right((answer, _)) => {
                // The other has answered: `first` is not slow because of what is behind the gateway.
                self.suspect(first);
                answer
            }
        }
    }

    /// Asks whether the gateway would take tunnels (RFC 9110, section 9.3.7), on a connection that is there or on a new one;
    /// when a replica gives no answer another is asked.
    pub(super) async fn ping(&self, shared: &Shared) -> Result<(), UpstreamError> {
        let first = self.connection(shared, None).await?;
        if let Ok(Ok(())) = tokio::time::timeout(PING, self.options(&first)).await {
            return Ok(());
        }
        self.suspect(&first);
        let other = self.connection(shared, Some(&first)).await?;
        let answer = self.options(&other).await;
        if answer.is_err() {
            self.suspect(&other);
        }
        answer
    }

    async fn options(&self, connection: &Connection) -> Result<(), UpstreamError> {
        let address = || self.replicas.address(connection.replica).to_owned();
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = http::Uri::from_static("https://gateway/");
        let mut sender = connection.sender.clone();
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|source| UpstreamError::Broken { address: address(), source })?;
        // One that does not know the question is there, and so is its answer.
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Err(UpstreamError::Gateway { address: address(), status: 503, decision: None });
        }
        Ok(())
    }

    /// [`GatewayPool::ping`], and services that fail over take note.
    pub(crate) async fn look(&self, shared: &Shared) {
        let answer = tokio::time::timeout(limits::PROBE, self.ping(shared)).await;
        let now = Instant::now();
        match answer {
            Ok(Ok(())) => {
                self.reached();
                self.reach.look_again(PING_EVERY, now);
            }
            Ok(Err(_)) | Err(_) => self.lost(shared, self.reach.still_down(now)),
        }
    }

    fn reached(&self) {
        if self.reach.reached() {
            tracing::info!(gateway = %self.replicas, "a linked cluster's gateway is reached again");
        }
    }

    fn lost(&self, shared: &Shared, news: bool) {
        if news {
            shared.metrics.gateways_lost.inc();
            tracing::warn!(gateway = %self.replicas, "no replica of a linked cluster's gateway can be reached");
        }
    }

    async fn ask(&self, connection: &Connection, authority: &str, cause: &HeaderMap) -> Answer {
        let place = h2::Stream::on(&connection.tunnels);
        let broken = |source| {
            self.suspect(connection);
            UpstreamError::Broken { address: authority.to_owned(), source }
        };
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() =
            authority.parse().map_err(|_| UpstreamError::Protocol { address: authority.to_owned() })?;
        trace::copy(cause, request.headers_mut());
        let mut sender = connection.sender.clone();
        let answer = tokio::time::timeout(limits::HANDSHAKE, sender.send_request(request)).await;
        let response = match answer {
            Err(_) => {
                self.suspect(connection);
                return Err(UpstreamError::Timeout { address: authority.to_owned() });
            }
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
        let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
        Ok((TokioIo::new(upgraded), place))
    }

    /// A pooled connection, or a new one; another one than `not`.
    async fn connection(&self, shared: &Shared, not: Option<&Connection>) -> Result<Connection, UpstreamError> {
        let generation = shared.source.current().generation;
        if let Some(open) = self.take(generation, not) {
            return Ok(open);
        }
        let _turn = self.connecting.lock().await;
        if let Some(open) = self.take(generation, not) {
            return Ok(open);
        }
        let connection = self.race(shared, generation, not).await?;
        self.open.lock().push(connection.clone());
        Ok(connection)
    }

    /// Connects to the replicas in turn, to the next one when one failed or is slow; the first that is there counts.
    async fn race(
        &self,
        shared: &Shared,
        generation: u64,
        not: Option<&Connection>,
    ) -> Result<Connection, UpstreamError> {
        let mut waiting = self.replicas.order(Instant::now(), not.map(|connection| connection.replica)).into_iter();
        let mut running = FuturesUnordered::new();
        let mut last = UpstreamError::Protocol { address: "a gateway without address".to_owned() };
        loop {
            match waiting.next() {
                Some(replica) => {
                    running.push(async move { (replica, self.connect(replica, shared, generation).await) })
                }
                None if running.is_empty() => return Err(last),
                None => {}
            }
            tokio::select! {
                biased;
                Some((replica, connected)) = running.next() => match connected {
                    Ok(connection) => {
                        self.replicas.well(replica);
                        return Ok(connection);
                    }
                    Err(error) => {
                        self.replicas.suspect(replica, Instant::now() + SUSPECT);
                        last = error;
                    }
                },
                () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {}
            }
        }
    }

    async fn connect(&self, replica: usize, shared: &Shared, generation: u64) -> Result<Connection, UpstreamError> {
        let address = self.replicas.address(replica);
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
        Ok(Connection { sender, tunnels: Arc::new(AtomicUsize::new(0)), born: Instant::now(), generation, replica })
    }

    fn take(&self, generation: u64, not: Option<&Connection>) -> Option<Connection> {
        let now = Instant::now();
        let mut open = self.open.lock();
        open.retain(|c| c.usable(now, generation));
        open.iter()
            .filter(|c| not.is_none_or(|not| !c.is(not)))
            .filter(|c| c.tunnels.load(Ordering::Relaxed) < limits::H2_STREAMS)
            .min_by_key(|c| c.tunnels.load(Ordering::Relaxed))
            .cloned()
    }

    /// Takes no more tunnels on a connection that failed or gave no answer, and asks its replica last for a while.
    fn suspect(&self, connection: &Connection) {
        self.open.lock().retain(|c| !c.is(connection));
        self.replicas.suspect(connection.replica, Instant::now() + SUSPECT);
        tracing::debug!(gateway = self.replicas.address(connection.replica), "a gateway's replica gave no answer");
    }

    pub(super) fn sweep(&self, generation: u64) {
        let now = Instant::now();
        self.open.lock().retain(|c| c.usable(now, generation));
    }
}

/// Whether the gateway itself said so.
fn is_answer(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Gateway { .. })
}
