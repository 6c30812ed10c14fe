//! The listener: mTLS with sidecars of linked clusters, HTTP/2 inside, everything bounded.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use signet_mtls::{Accepted, HandshakeError, IdentitySource, PeerRule, Refusal, Select, SpiffeId, TrustDomain, alpn};
use signet_proxy::decide::Peer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::forward::{self, Caller, Shared};

const MAX_CONNECTIONS: usize = 8192;
/// One workload pools its tunnels; who opens more connections than this is not a sidecar of ours.
const MAX_CONNECTIONS_OF_ONE: usize = 64;
const MAX_STREAMS: u32 = 100;
/// Every stream can be full without stopping the others: the connection's window holds them all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
const HANDSHAKE: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Sidecars of other trust domains only: those of our own reach the services without a gateway.
pub(crate) fn tls(identity: &IdentitySource, own: &TrustDomain) -> Arc<ServerConfig> {
    let own = own.clone();
    let remote_workload = move |id: &SpiffeId| id.as_workload().is_some() && *id.trust_domain() != own;
    let rule = PeerRule::Predicate(Arc::new(remote_workload));
    signet_mtls::server_config_with_rule(identity, Select::Component, rule, &[alpn::H2])
}

/// Accepts until `cancel`, then says goodbye on every connection and waits `drain` for the tunnels.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    shared: Arc<Shared>,
    drain: Duration,
    cancel: CancellationToken,
) {
    signet_proxy::sockets::notice_gone_peers(&listener);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let quota = Arc::new(Quota::default());
    let mut connections = JoinSet::new();
    loop {
        let (stream, address) = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "could not accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let golden = &shared.metrics.inbound;
        golden.connections_total.inc();
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            golden.connections_refused.inc();
            continue;
        };
        let (tls, shared, quota, cancel) = (Arc::clone(&tls), Arc::clone(&shared), Arc::clone(&quota), cancel.clone());
        connections.spawn(async move {
            let _permit = permit;
            shared.metrics.inbound.connections.inc();
            connection(tls, Arc::clone(&shared), quota, stream, address, drain, cancel).await;
            shared.metrics.inbound.connections.dec();
        });
    }
    drop(listener);
    shared.tunnels.close();
    if tokio::time::timeout(drain, shared.tunnels.wait()).await.is_err() {
        tracing::info!(tunnels = shared.tunnels.len(), "closing tunnels that did not end within the drain time");
    }
    shared.kill.cancel();
    shared.tunnels.wait().await;
    while connections.join_next().await.is_some() {}
}

async fn connection(
    tls: Arc<ServerConfig>,
    shared: Arc<Shared>,
    quota: Arc<Quota>,
    stream: TcpStream,
    address: SocketAddr,
    drain: Duration,
    cancel: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let accepted = match handshake(tls, stream).await {
        Ok(accepted) => accepted,
        Err(error) => {
            let protocol = if error.refusal == Refusal::NotTls { "none" } else { "" };
            shared.refusals.refused(
                address,
                error.refusal.as_str(),
                "tls:handshake",
                "",
                error.claimed.as_ref(),
                protocol,
            );
            return;
        }
    };
    let Accepted { stream, peer, chain, tls, .. } = accepted;
    let caller = Arc::new(Caller {
        since: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        peer: Arc::new(Peer {
            not_after: signet_proxy::tls::not_after(&chain),
            id: peer,
            address: Some(address),
            tls: Arc::from(tls),
            chain,
        }),
    });
    let Some(_slot) = caller.peer.id.clone().and_then(|id| quota.take(id)) else {
        forward::refuse(&shared, &caller, "too_many_connections", "tls:handshake", "");
        return;
    };
    let service = {
        let (shared, caller) = (Arc::clone(&shared), Arc::clone(&caller));
        service_fn(move |request| {
            let answer = forward::answer(Arc::clone(&shared), Arc::clone(&caller), request);
            async move { Ok::<_, Infallible>(answer.await) }
        })
    };
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(16 * 1024)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%address, error = signet_observe::error_chain(&error), "a connection ended badly");
            }
            return;
        }
        () = cancel.cancelled() => {}
        () = distrusted(&shared, &caller) => {
            tracing::info!(%address, "the peer's trust bundle no longer verifies it; closing its connection");
        }
    }
    connection.as_mut().graceful_shutdown();
    // Tunnels end by themselves, by decision, or by the drain's end; the margin is for their last frames.
    let _ = tokio::time::timeout(drain + Duration::from_millis(500), connection).await;
}

async fn handshake(
    tls: Arc<ServerConfig>,
    stream: TcpStream,
) -> Result<Accepted<tokio_rustls::server::TlsStream<TcpStream>>, HandshakeError> {
    let accepted = signet_mtls::accept(tls, stream, HANDSHAKE).await?;
    if accepted.alpn == alpn::H2 {
        return Ok(accepted);
    }
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "the client did not offer `signet/h2`");
    Err(HandshakeError { refusal: Refusal::Alpn, claimed: accepted.peer, source })
}

/// Returns when the peer's chain is no longer covered by the roots that we have.
async fn distrusted(shared: &Shared, caller: &Caller) {
    let mut changes = shared.identity.watch();
    while changes.changed().await.is_ok() {
        if !shared.trusts(caller) {
            return;
        }
    }
    std::future::pending().await
}

/// Connections of each peer.
#[derive(Default)]
struct Quota(Mutex<HashMap<SpiffeId, usize>>);

struct Slot {
    quota: Arc<Quota>,
    id: SpiffeId,
}

impl Quota {
    fn take(self: &Arc<Self>, id: SpiffeId) -> Option<Slot> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(id.clone()).or_insert(0);
        if *count >= MAX_CONNECTIONS_OF_ONE {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Slot { quota: Arc::clone(self), id })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.quota.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}
