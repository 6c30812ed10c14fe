//! HTTP/2 connections, shared by calls up to a bound of streams each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failure, LeaseKind, Upstream, UpstreamError};
use crate::body::Body;
use crate::limits;

#[derive(Default)]
pub(super) struct Pool {
    open: Mutex<Vec<Shared>>,
    /// Held while one call connects, so that others wait for its connection instead of making their own.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Shared {
    sender: SendRequest<Body>,
    streams: Arc<AtomicUsize>,
    born: Instant,
    generation: u64,
}

impl Shared {
    fn usable(&self, now: Instant, generation: u64) -> bool {
        self.generation == generation
            && !self.sender.is_closed()
            && now.saturating_duration_since(self.born) < limits::POOL_LIFETIME
    }
}

/// One stream's place on its connection.
pub(super) struct Stream(Arc<AtomicUsize>);

impl Stream {
    pub(super) fn on(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// With `most` connections open, calls queue for streams rather than fail.
    fn take(&self, generation: u64, most: usize) -> Option<(SendRequest<Body>, Stream)> {
        let now = Instant::now();
        let mut open = self.open.lock();
        // Connections that are let go here live on until their last stream ends.
        open.retain(|c| c.usable(now, generation));
        let full = open.len() >= most;
        let least = open.iter().min_by_key(|c| c.streams.load(Ordering::Relaxed))?;
        if least.streams.load(Ordering::Relaxed) >= limits::H2_STREAMS && !full {
            return None;
        }
        Some((least.sender.clone(), Stream::on(&least.streams)))
    }

    pub(super) fn sweep(&self, generation: u64) {
        let now = Instant::now();
        self.open.lock().retain(|c| c.usable(now, generation));
    }

    pub(super) fn len(&self) -> usize {
        self.open.lock().len()
    }
}

pub(super) async fn send(
    upstream: &Arc<Upstream>,
    mut request: Request<Body>,
) -> Result<(Response<Incoming>, LeaseKind), Failure> {
    for last in [false, true] {
        let (mut sender, stream, reused) = match take(upstream, request.headers()).await {
            Ok(taken) => taken,
            Err(error) => return Err(Failure::unsent(error, request)),
        };
        match sender.try_send_request(request).await {
            Ok(response) => return Ok((response, LeaseKind::H2(stream))),
            Err(mut error) => match error.take_message() {
                Some(unsent) if reused && !last => {
                    upstream.shared.metrics.pool_retried.inc();
                    request = unsent;
                }
                unsent => {
                    return Err(Failure {
                        error: UpstreamError::Broken { address: upstream.address(), source: error.into_error() },
                        unsent: unsent.map(Box::new),
                    });
                }
            },
        }
    }
    Err(Failure::unsent(UpstreamError::Protocol { address: upstream.address() }, request))
}

async fn take(upstream: &Arc<Upstream>, cause: &HeaderMap) -> Result<(SendRequest<Body>, Stream, bool), UpstreamError> {
    let generation = upstream.generation();
    let asked_for = upstream.member().and_then(|member| member.most());
    let most = asked_for.map_or(limits::H2_CONNECTIONS, |most| limits::H2_CONNECTIONS.min(most as usize));
    if let Some((sender, stream)) = upstream.h2.take(generation, most) {
        upstream.shared.metrics.pool_reused.inc();
        return Ok((sender, stream, true));
    }
    let _waiting = upstream.waiting()?;
    let _turn = upstream.h2.connecting.lock().await;
    if let Some((sender, stream)) = upstream.h2.take(generation, most) {
        return Ok((sender, stream, true));
    }
    let transport = upstream.dial(cause).await?;
    let sender = connect(transport, &upstream.shared.tasks)
        .await
        .map_err(|source| UpstreamError::Broken { address: upstream.address(), source })?;
    let streams = Arc::new(AtomicUsize::new(0));
    let stream = Stream::on(&streams);
    upstream.h2.open.lock().push(Shared { sender: sender.clone(), streams, born: Instant::now(), generation });
    Ok((sender, stream, false))
}

/// Speaks HTTP/2 as a client on `transport`.
pub(super) async fn connect<T>(
    transport: T,
    tasks: &tokio_util::task::TaskTracker,
) -> Result<SendRequest<Body>, hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::H2_STREAM_WINDOW)
        .initial_connection_window_size(limits::H2_CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits::MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(limits::H2_PING)
        .keep_alive_timeout(limits::H2_PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(transport))
        .await?;
    tasks.spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
