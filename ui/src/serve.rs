//! The listener: HTTP/1.1 on loopback, bounded in connections, header size and header time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

/// The next connection waits in the kernel's queue until one of these ends.
const MAX_CONNECTIONS: usize = 256;
const HEADER_TIME: Duration = Duration::from_secs(15);
const HEADER_BYTES: usize = 32 * 1024;
const AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);
/// What is still open after this long is cut.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves `router` until `cancel`, then lets open requests end within five seconds.
pub async fn serve(listener: TcpListener, router: Router, cancel: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let Some(Some((place, accepted))) = cancel.run_until_cancelled(accept).await else { break };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, router.clone(), cancel.clone(), place);
                let cut = cut.clone();
                connections.spawn(async move { cut.run_until_cancelled(connection).await });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(AFTER_ACCEPT_ERROR).await;
            }
        }
    }
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    cancel: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut router = router.clone();
        async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, error = signet_observe::error_chain(&error), "connection ended early");
    }
}
