//! HTTP/1.1 connections, kept while idle, newest first.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::turn::Turn;
use super::{Failure, LeaseKind, Upstream, UpstreamError};
use crate::balance::Slot;
use crate::body::Body;
use crate::limits;

#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    sender: SendRequest<Body>,
    born: Instant,
    since: Instant,
    generation: u64,
    slot: Option<Slot>,
}

impl Idle {
    fn usable(&self, now: Instant, generation: u64) -> bool {
        self.generation == generation
            && !self.sender.is_closed()
            && now.saturating_duration_since(self.since) < limits::POOL_IDLE
            && now.saturating_duration_since(self.born) < limits::POOL_LIFETIME
    }
}

impl Pool {
    fn take(&self, generation: u64) -> Option<Idle> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        // A connection whose task has not yet seen the end of its last call is passed over, not thrown away.
        let mut busy = Vec::new();
        let mut found = None;
        while let Some(next) = idle.pop() {
            if !next.usable(now, generation) {
                continue;
            }
            if next.sender.is_ready() {
                found = Some(next);
                break;
            }
            busy.push(next);
        }
        idle.append(&mut busy);
        found
    }

    fn put(&self, idle: Idle) {
        let mut pool = self.idle.lock();
        if pool.len() < limits::POOL_MAX_IDLE {
            pool.push(idle);
        }
    }

    pub(super) fn sweep(&self, generation: u64) {
        let now = Instant::now();
        self.idle.lock().retain(|idle| idle.usable(now, generation));
    }

    pub(super) fn len(&self) -> usize {
        self.idle.lock().len()
    }
}

/// A connection that one call uses.
pub(super) struct Lease {
    upstream: Arc<Upstream>,
    sender: SendRequest<Body>,
    born: Instant,
    generation: u64,
    slot: Option<Slot>,
}

impl Lease {
    pub(super) fn give_back(self) {
        let Self { upstream, sender, born, generation, slot } = self;
        if !sender.is_closed() {
            upstream.h1.put(Idle { sender, born, since: Instant::now(), generation, slot });
            upstream.freed();
        }
    }
}

pub(super) async fn send(
    upstream: &Arc<Upstream>,
    mut request: Request<Body>,
) -> Result<(Response<Incoming>, LeaseKind), Failure> {
    let generation = upstream.generation();
    let mut turn = match upstream.h1.take(generation) {
        Some(idle) => Turn { idle: Some(idle), slot: None, waiting: None },
        None => match upstream.turn(|| upstream.h1.take(generation)).await {
            Ok(turn) => turn,
            Err(error) => return Err(Failure::unsent(error, request)),
        },
    };
    if let Some(idle) = turn.idle {
        turn.waiting = None;
        upstream.shared.metrics.pool_reused.inc();
        let spare = repeatable(&request);
        let mut sender = idle.sender;
        match sender.try_send_request(request).await {
            Ok(response) => {
                let lease =
                    Lease { upstream: Arc::clone(upstream), sender, born: idle.born, generation, slot: idle.slot };
                return Ok((response, LeaseKind::Http1(lease)));
            }
            Err(mut error) => {
                request = match (error.take_message(), spare) {
                    (Some(unsent), _) => unsent,
                    // The connection had been closed by the other side while it was idle.
                    (None, Some(spare)) if went_away(error.error()) => spare,
                    _ => {
                        return Err(Failure {
                            error: UpstreamError::Broken { address: upstream.address(), source: error.into_error() },
                            unsent: None,
                        });
                    }
                };
                upstream.shared.metrics.pool_retried.inc();
                // In the place of the one that was dead.
                turn.slot = idle.slot;
            }
        }
    }
    // A new connection is not repeated on: what fails now is not staleness.
    let mut sender = match connect(upstream, request.headers()).await {
        Ok(sender) => sender,
        Err(error) => return Err(Failure::unsent(error, request)),
    };
    drop(turn.waiting);
    match sender.try_send_request(request).await {
        Ok(response) => {
            let slot = turn.slot;
            let lease = Lease { upstream: Arc::clone(upstream), sender, born: Instant::now(), generation, slot };
            Ok((response, LeaseKind::Http1(lease)))
        }
        Err(mut error) => {
            let unsent = error.take_message().map(Box::new);
            Err(Failure {
                error: UpstreamError::Broken { address: upstream.address(), source: error.into_error() },
                unsent,
            })
        }
    }
}

/// The other side ended the connection without an answer.
fn went_away(error: &hyper::Error) -> bool {
    let reset = || {
        let io = error.source().and_then(|s| s.downcast_ref::<io::Error>());
        io.is_some_and(|e| {
            matches!(
                e.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::UnexpectedEof
            )
        })
    };
    error.is_incomplete_message() || error.is_canceled() || reset()
}

/// A second copy of a request that may be sent twice: idempotent (RFC 9110, section 9.2.2) and without a body.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    );
    if !idempotent || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

async fn connect(upstream: &Arc<Upstream>, cause: &HeaderMap) -> Result<SendRequest<Body>, UpstreamError> {
    let transport = upstream.dial(cause).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(limits::MAX_HEAD * 2)
        .max_headers(limits::MAX_HEADERS)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|source| UpstreamError::Broken { address: upstream.address(), source })?;
    upstream.shared.tasks.spawn(async move {
        // Calls on the connection see its error; idle, it is of no interest.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}
