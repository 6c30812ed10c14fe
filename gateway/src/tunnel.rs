//! A tunnel: bytes both ways between a remote sidecar and an endpoint, for as long as the decision stands.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use signet_proxy::balance::InFlight;
use signet_proxy::decide::{Again, Verdict};
use signet_proxy::flow::Flow;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::forward::{Forward, Shared, refuse};
use crate::hello;
use crate::metrics::Outcome;

/// For the upgrade and for the ClientHello, each.
const OPENING: Duration = Duration::from_secs(5);
const BUFFER: usize = 16 * 1024;
/// Time bounds in policies are not looked at more often than this.
const SOONEST: Duration = Duration::from_millis(100);

pub(crate) struct Tunnel {
    pub(crate) shared: Arc<Shared>,
    pub(crate) forward: Forward,
    pub(crate) verdict: Verdict,
    pub(crate) changes: watch::Receiver<u64>,
    pub(crate) endpoint: TcpStream,
    pub(crate) in_flight: InFlight,
    pub(crate) flow: Arc<Flow>,
}

impl Tunnel {
    /// Passes bytes until either side ends, the decision falls, nothing moves any more, or the gateway ends.
    pub(crate) async fn run(self, upgrade: OnUpgrade) {
        let Self { shared, forward, verdict, changes, mut endpoint, in_flight: _in_flight, flow } = self;
        let _open = Open::new(&shared.own.open);
        let moved = AtomicU64::new(0);
        let transfer = async {
            let Ok(Ok(upgraded)) = tokio::time::timeout(OPENING, upgrade).await else {
                tracing::debug!("a tunnel was not taken up");
                return;
            };
            let mut client = Counted { inner: TokioIo::new(upgraded), moved: &moved, shared: &shared, flow: &flow };
            let opening = match tokio::time::timeout(OPENING, hello::read(&mut client)).await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => return not_mesh(&shared, &forward, error.cause()),
                Err(_) => return not_mesh(&shared, &forward, "timeout"),
            };
            if endpoint.write_all(&opening).await.is_err() {
                return;
            }
            drop(opening);
            let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER).await;
            if let Err(error) = copied {
                tracing::debug!(%error, "a tunnel broke");
            }
        };
        tokio::select! {
            () = transfer => {}
            closed = falls(&shared, &forward, verdict, changes) => {
                shared.own.count(Outcome::ClosedByPolicy);
                shared.metrics.closed_by_policy.inc();
                tracing::info!(service = %forward.exported.service, decision = %closed.decision_id, "closed a tunnel by a new decision");
            }
            () = idle(&moved, shared.idle) => shared.own.count(Outcome::Idle),
            () = shared.kill.cancelled() => {}
        }
    }
}

fn not_mesh(shared: &Shared, forward: &Forward, cause: &str) {
    shared.own.count(Outcome::NotMesh);
    refuse(shared, &forward.caller, cause, "gateway:forward", &forward.exported.service);
}

/// Returns with the decision that closes the tunnel.
async fn falls(shared: &Shared, forward: &Forward, opened: Verdict, mut changes: watch::Receiver<u64>) -> Verdict {
    let mut expires_at_us = opened.expires_at_us;
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            () = until(expires_at_us) => {}
        }
        match shared.enforcer.decide_again(&forward.call(), opened.decision_id, forward.serves(shared)).await {
            Again::GoesOn { expires_at_us: next } => expires_at_us = next,
            Again::Closed(verdict) => return verdict,
        }
    }
}

async fn until(at_us: Option<i64>) {
    let Some(at) = at_us.and_then(|at| u64::try_from(at).ok()) else { return std::future::pending().await };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    tokio::time::sleep(Duration::from_micros(at).saturating_sub(now).max(SOONEST)).await;
}

/// Returns when no byte moved for `limit`, at most a quarter of it late.
async fn idle(moved: &AtomicU64, limit: Duration) {
    let step = (limit / 4).max(Duration::from_millis(10));
    let (mut seen, mut since) = (moved.load(Ordering::Relaxed), Duration::ZERO);
    loop {
        tokio::time::sleep(step).await;
        let now = moved.load(Ordering::Relaxed);
        since = if now == seen { since + step } else { Duration::ZERO };
        seen = now;
        if since >= limit {
            return;
        }
    }
}

/// Counts an open tunnel.
struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The client's side, counting what moves.
struct Counted<'a, S> {
    inner: S,
    moved: &'a AtomicU64,
    shared: &'a Shared,
    flow: &'a Flow,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let read = buffer.filled().len().saturating_sub(before) as u64;
        if read > 0 {
            self.moved.fetch_add(read, Ordering::Relaxed);
            self.shared.own.received.inc_by(read);
            self.flow.received(read);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.moved.fetch_add(written as u64, Ordering::Relaxed);
            self.shared.own.sent.inc_by(written as u64);
            self.flow.sent(written as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
