//! Accepting connections and driving them: bounds, drain, and deciding open calls again.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::body::Body;
use crate::limits;
use crate::metrics::{Direction, Metrics};
use crate::open::OpenCalls;
use crate::sockets;

/// The two ends of a proxy's life: `drain` asks connections to end, `kill` ends them.
#[derive(Clone, Default)]
pub struct Stop {
    pub drain: CancellationToken,
    pub kill: CancellationToken,
    /// Every connection's task; empty when all have ended.
    pub tasks: TaskTracker,
}

/// Accepts until drained. At the limit of connections it leaves new ones in the kernel's queue.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    direction: Direction,
    metrics: Arc<Metrics>,
    stop: Stop,
    handle: impl Fn(TcpStream, SocketAddr) -> F + Send,
) where
    F: Future<Output = ()> + Send + 'static,
{
    sockets::notice_gone_peers(&listener);
    let permits = Arc::new(Semaphore::new(limits::CONNECTIONS));
    loop {
        let permit = match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                metrics.golden(direction).connections_refused.inc();
                tokio::select! {
                    () = stop.drain.cancelled() => return,
                    permit = Arc::clone(&permits).acquire_owned() => match permit {
                        Ok(permit) => permit,
                        Err(_) => return,
                    },
                }
            }
        };
        let accepted = tokio::select! {
            // What came after the drain began is not ours any more.
            biased;
            () = stop.drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a client that left: wait for better times rather than spin.
                warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let golden = metrics.golden(direction);
        golden.connections_total.inc();
        let gauge = golden.connections.clone();
        gauge.inc();
        // Boxed once: a future that is passed on by value is held in memory once for each hand that it goes through.
        let connection = Box::pin(handle(stream, address));
        let kill = stop.kill.clone();
        stop.tasks.spawn(async move {
            kill.run_until_cancelled(connection).await;
            gauge.dec();
            drop(permit);
        });
    }
}

/// Something that a connection's task has to attend to beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// End when the calls in flight have ended.
    Drain,
    /// Bundle, snapshot or trust bundles changed.
    Changed,
    /// A time bound that a decision read was reached, or the peer's certificate ended.
    Due,
    /// A sooner time bound has to be waited for.
    Sooner,
}

/// Waits for signals without being polled each time that bytes move: only a signal's own wake makes it look.
pub(crate) struct Signals {
    waiting: FuturesUnordered<BoxFuture<'static, (Signal, watch::Receiver<u64>)>>,
    drain: CancellationToken,
    drained: bool,
    open: Option<Arc<OpenCalls>>,
}

impl Signals {
    pub(crate) fn new(
        changes: watch::Receiver<u64>,
        drain: CancellationToken,
        open: Option<Arc<OpenCalls>>,
        due_us: Option<i64>,
    ) -> Self {
        let mut signals = Self { waiting: FuturesUnordered::new(), drain, drained: false, open };
        signals.arm(changes, due_us);
        signals
    }

    fn arm(&mut self, mut changes: watch::Receiver<u64>, due_us: Option<i64>) {
        let (drain, drained, open) = (self.drain.clone(), self.drained, self.open.clone());
        self.waiting.push(Box::pin(async move {
            let signal = {
                let sooner = async {
                    match &open {
                        Some(open) => open.sooner.notified().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = drain.cancelled(), if !drained => Signal::Drain,
                    Ok(()) = changes.changed() => Signal::Changed,
                    () = until(due_us) => Signal::Due,
                    () = sooner => Signal::Sooner,
                }
            };
            (signal, changes)
        }));
    }

    /// The next signal; `due_us` (Unix microseconds) is what to wait for after it.
    pub(crate) async fn next(&mut self, due_us: impl Fn() -> Option<i64>) -> Signal {
        match self.waiting.next().await {
            Some((signal, changes)) => {
                self.drained |= signal == Signal::Drain;
                self.arm(changes, due_us());
                signal
            }
            None => std::future::pending().await,
        }
    }
}

/// Until the given time, Unix microseconds; for ever without one.
pub(crate) async fn until(due_us: Option<i64>) {
    let Some(due) = due_us else { return std::future::pending().await };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
    let left = u64::try_from(due).unwrap_or(0).saturating_sub(u64::try_from(now).unwrap_or(u64::MAX));
    // A bound that lies in the past must not make a loop: whoever decides again gives a new one.
    tokio::time::sleep(Duration::from_micros(left).max(Duration::from_millis(10))).await;
}

/// A hyper connection that can be asked to end.
pub(crate) trait Graceful: Future<Output = hyper::Result<()>> {
    fn end(self: Pin<&mut Self>);
}

macro_rules! graceful {
    ($($kind:ty),* $(,)?) => {
        $(impl<I, S> Graceful for $kind
        where
            S: HttpService<Incoming, ResBody = Body> + Unpin,
            S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
            S::Future: Send + 'static,
            I: Read + Write + Unpin + Send + 'static,
        {
            fn end(self: Pin<&mut Self>) {
                self.graceful_shutdown();
            }
        })*
    };
}

graceful!(http1::Connection<I, S>, http1::UpgradeableConnection<I, S>, http2::Connection<I, S, TokioExecutor>);

/// HTTP/1.1 on the accepting side.
pub(crate) fn http1_server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits::SERVER_IDLE)
        .max_headers(limits::MAX_HEADERS)
        .max_buf_size(limits::MAX_HEAD * 2)
        .half_close(false)
        .auto_date_header(false);
    builder
}

/// HTTP/2 on the accepting side.
pub(crate) fn http2_server() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::H2_STREAM_WINDOW)
        .initial_connection_window_size(limits::H2_CONNECTION_WINDOW)
        .max_concurrent_streams(limits::H2_MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits::MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(limits::H2_PING)
        .keep_alive_timeout(limits::H2_PING_TIMEOUT)
        .auto_date_header(false);
    builder
}

/// Whether hyper's error means that the peer's bytes were not acceptable HTTP.
pub(crate) fn is_bad_http(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    error.is_parse()
        || error
            .source()
            .and_then(|s| s.downcast_ref::<h2::Error>())
            .is_some_and(|e| e.is_library() && e.reason().is_some_and(|r| r != h2::Reason::NO_ERROR))
}
