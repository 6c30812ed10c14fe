//! gRPC of Signet's components over mTLS: bounded servers that know their peer, and channels that reconnect.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tower::Service as _;

use crate::{Accepted, HandshakeError, Identity, IdentitySource, Refusal, SpiffeId, Usage, alpn};

const MAX_CONNECTIONS: usize = 4096;
const MAX_STREAMS: u32 = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const DRAIN: Duration = Duration::from_secs(2);

/// The verified caller; an extension of each request: `request.extensions().get::<Peer>()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(pub SpiffeId);

/// Where a connection came from; an extension of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// Told of every refused handshake.
pub type OnRefusal = Arc<dyn Fn(SocketAddr, &HandshakeError) + Send + Sync>;

/// Options of [`serve_with`].
#[derive(Clone, Default)]
pub struct ServeOptions {
    pub on_refusal: Option<OnRefusal>,
    /// With it, a connection is closed when its peer's chain no longer verifies against the current bundles.
    pub identity: Option<IdentitySource>,
}

/// Serves `routes` until `cancel`, then lets what is in flight finish for a short while.
///
/// # Errors
/// When the listener is not usable any more.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    routes: Routes,
    cancel: CancellationToken,
) -> io::Result<()> {
    serve_with(listener, tls, routes, ServeOptions::default(), cancel).await
}

/// [`serve`] with options.
///
/// # Errors
/// When the listener is not usable any more.
pub async fn serve_with(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    routes: Routes,
    options: ServeOptions,
    cancel: CancellationToken,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let routes = routes.prepare();
    loop {
        let accept = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (stream, address, permit) = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            (accepted, permit) = accept => match accepted {
                Ok((stream, address)) => (stream, address, permit),
                Err(error) => {
                    // Out of descriptors or a client that left: wait for better times rather than spin.
                    tracing::warn!(%error, "could not accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (tls, routes, options, cancel) = (Arc::clone(&tls), routes.clone(), options.clone(), cancel.clone());
        connections.spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            match handshake(tls, stream).await {
                Ok(accepted) => connection(accepted, address, routes, options.identity, cancel).await,
                Err(error) => {
                    tracing::info!(cause = %error.refusal, %address, error = signet_observe::error_chain(&error),
                        claimed = error.claimed.as_ref().map(SpiffeId::as_str), "refused a handshake");
                    if let Some(on_refusal) = &options.on_refusal {
                        on_refusal(address, &error);
                    }
                }
            }
        });
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

async fn handshake(tls: Arc<ServerConfig>, stream: TcpStream) -> Result<Accepted<TlsStream>, HandshakeError> {
    let accepted = crate::accept(tls, stream, HANDSHAKE).await?;
    if accepted.alpn == alpn::GRPC {
        return Ok(accepted);
    }
    Err(HandshakeError {
        refusal: Refusal::Alpn,
        claimed: accepted.peer,
        source: io::Error::new(io::ErrorKind::InvalidData, "the client did not offer the protocol `h2`"),
    })
}

async fn connection(
    accepted: Accepted<TlsStream>,
    address: SocketAddr,
    routes: Routes,
    identity: Option<IdentitySource>,
    cancel: CancellationToken,
) {
    let Accepted { stream, peer, chain, .. } = accepted;
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        if let Some(peer) = peer.clone() {
            request.extensions_mut().insert(Peer(peer));
        }
        request.extensions_mut().insert(PeerAddress(address));
        let answer = routes.clone().call(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(16 * 1024)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
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
        () = distrusted(identity, chain) => {
            tracing::info!(%address, "the peer's trust bundle no longer verifies it; closing its connection");
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(DRAIN, connection).await;
}

/// Returns when the roots have changed in a way that no longer covers the chain. Expiry alone does not end a connection:
/// the handshake proved the key while it was valid.
async fn distrusted(identity: Option<IdentitySource>, chain: Vec<CertificateDer<'static>>) {
    let (Some(source), false) = (identity, chain.is_empty()) else { return std::future::pending().await };
    let mut changes = source.watch();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut known: BTreeMap<_, _> = roots(&changes.borrow_and_update());
    while changes.changed().await.is_ok() {
        let current = Arc::clone(&changes.borrow_and_update());
        let now_known = roots(&current);
        if now_known != known && crate::verify_chain(&current, &chain, Usage::Client, since).is_err() {
            return;
        }
        known = now_known;
    }
    std::future::pending().await
}

fn roots(identity: &Identity) -> BTreeMap<crate::TrustDomain, Vec<CertificateDer<'static>>> {
    identity.bundles.clone()
}

/// A lazy channel to `address` (`host:port`) that reconnects by itself. TLS configuration and its [`crate::PeerRule`] say
/// who may answer; ALPN must be [`alpn::GRPC`].
pub fn channel(address: &str, tls: Arc<ClientConfig>) -> Channel {
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let (address, tls) = (address.clone(), Arc::clone(&tls));
        async move {
            let stream = tokio::time::timeout(HANDSHAKE, TcpStream::connect(&address)).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, format!("no connection to `{address}` in time"))
            })??;
            stream.set_nodelay(true)?;
            let accepted = crate::connect(tls, stream, HANDSHAKE).await.map_err(io::Error::other)?;
            if accepted.alpn != alpn::GRPC {
                return Err(io::Error::other(format!("`{address}` does not speak gRPC over mutual TLS")));
            }
            Ok::<_, io::Error>(TokioIo::new(accepted.stream))
        }
    });
    Endpoint::from_static("http://signet")
        .connect_timeout(HANDSHAKE * 2)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .connect_with_connector_lazy(connector)
}
