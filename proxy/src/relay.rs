//! HTTP/1.1 from one connection to another in one task: heads parsed once and rewritten as they are read, bodies passed
//! as they come, nothing allocated for a call that the connection does not keep.
//!
//! It serves what is plain. Whatever is not (CONNECT, chunked requests, upgrades, HTTP/1.0, heads that are unusual or
//! malformed, services that are not plain HTTP/1.1) goes to the general server with all bytes as they came, and with it the
//! rest of the connection: there is one place for refusals and rare protocols, and it is not here.
//!
//! A connection's future is what its idling costs in memory, and a future is as large as the largest thing that it may
//! ever wait for. So whatever is rare is boxed here: dialling, refusing, looking again.
//!
//! INVARIANT: a call is forwarded only after [`Role::admit`] said so, which decides and records.

mod buffer;
mod exchange;
mod framing;
mod head;
mod pump;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Response;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::body::Body;
use crate::limits;
use crate::upstream::{Upstream, UpstreamError, Wired};
use buffer::Buffer;
use exchange::{Ended, Exchange};
pub(crate) use framing::Framing;
pub(crate) use head::{MethodKind, Parsed, RequestHead, Side, request, response};

/// What is discarded of a refused request's body before the connection ends.
const DISCARDED: usize = 256 * 1024;
const DISCARDING: Duration = Duration::from_secs(2);

/// What a role says to a request.
pub(crate) enum Admitted {
    Forward(Arc<Upstream>),
    Answer(Box<Response<Body>>),
    /// For the general server.
    Other,
}

/// What a role found when it looked again.
pub(crate) enum Looked {
    GoesOn,
    /// The open call is denied now.
    Denied(Box<Response<Body>>),
}

/// One side's part in a connection: who may call what, and where it goes.
pub(crate) trait Role: Send {
    fn side(&self) -> Side<'_>;
    /// Decides a request whose head begins `bytes`.
    fn admit(&mut self, head: &RequestHead, bytes: &[u8]) -> impl Future<Output = Admitted> + Send;
    /// Where else to go when connecting failed; at most once for a call.
    fn another(&mut self) -> Option<Arc<Upstream>>;
    /// What the client is told when no answer came.
    fn failed(&self, error: &UpstreamError) -> Response<Body>;
    /// The answer's head is there, or the call ended without.
    fn answered(&mut self, status: u16, at: Instant);
    /// So many bytes of bodies went up and down; before [`Role::closed`].
    fn moved(&mut self, bytes: (u64, u64));
    /// Resolves when something changed that a connection or its call must attend to.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    fn signal(&mut self) -> impl Future<Output = ()> + Send;
    /// After a signal; `open` when a call is.
    fn look_again(&mut self, open: bool) -> impl Future<Output = Looked> + Send;
    /// No more calls are taken on this connection.
    fn ending(&self) -> bool;
    /// The call has ended.
    fn closed(&mut self);
}

/// What the general server has to go on with.
pub(crate) struct Rest<T> {
    pub(crate) stream: T,
    pub(crate) read: Vec<u8>,
}

/// Serves a connection until it ends, or gives it back with what was read of it and not served.
pub(crate) async fn serve<T, R>(mut client: T, role: &mut R) -> Option<Rest<T>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
    R: Role,
{
    let mut input = Buffer::default();
    // Heads on their way out.
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let idle = tokio::time::sleep(limits::SERVER_IDLE);
    tokio::pin!(idle);
    loop {
        let head = match next(&mut client, &mut input, role, idle.as_mut(), &mut up).await {
            Next::Head(head) => head,
            Next::End => {
                let _ = client.shutdown().await;
                return None;
            }
            Next::Other => return Some(Rest { stream: client, read: input.into_vec() }),
        };
        buffer::lend_head(&mut down);
        let upstream = match role.admit(&head, input.filled()).await {
            Admitted::Forward(upstream) => upstream,
            Admitted::Other => return Some(Rest { stream: client, read: input.into_vec() }),
            Admitted::Answer(response) => {
                input.consume(head.length);
                role.answered(response.status().as_u16(), Instant::now());
                role.closed();
                if Box::pin(refuse(&mut client, &mut input, &head, &response, &mut down)).await {
                    continue;
                }
                return None;
            }
        };
        input.consume(head.length);
        let keep = call(&mut client, &mut input, role, &head, upstream, &up, &mut down).await;
        role.closed();
        if !keep {
            let _ = client.shutdown().await;
            return None;
        }
        buffer::give_back_head(&mut up);
        buffer::give_back_head(&mut down);
        idle.as_mut().reset(tokio::time::Instant::now() + limits::SERVER_IDLE);
    }
}

enum Next {
    Head(RequestHead),
    Other,
    End,
}

/// Waits for a whole head.
async fn next<T, R>(
    client: &mut T,
    input: &mut Buffer,
    role: &mut R,
    mut idle: std::pin::Pin<&mut tokio::time::Sleep>,
    up: &mut Vec<u8>,
) -> Next
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
    R: Role,
{
    let mut looked = 0;
    loop {
        if input.len() > looked {
            buffer::lend_head(up);
            match head::request(input.filled(), role.side(), up) {
                Parsed::Partial => {
                    if looked == 0 {
                        // However slowly the rest trickles, and whoever means it: not for longer than this.
                        idle.as_mut().reset(tokio::time::Instant::now() + limits::HEAD);
                    }
                    looked = input.len();
                }
                Parsed::Other => return Next::Other,
                Parsed::Head(head) => return Next::Head(head),
            }
        }
        if role.ending() && input.is_empty() {
            return Next::End;
        }
        tokio::select! {
            biased;
            read = buffer::fill(input, client) => match read {
                Ok(0) | Err(_) => return Next::End,
                Ok(_) => {}
            },
            () = role.signal() => {
                Box::pin(role.look_again(false)).await;
            }
            () = idle.as_mut() => return Next::End,
        }
    }
}

/// One call from its decision to its end; `true` when the client's connection can be used for another.
async fn call<T, R>(
    client: &mut T,
    input: &mut Buffer,
    role: &mut R,
    head: &RequestHead,
    mut upstream: Arc<Upstream>,
    up: &[u8],
    down: &mut Vec<u8>,
) -> bool
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
    R: Role,
{
    let bodiless = head.framing.ended();
    let mut pooled = upstream.wired_idle();
    loop {
        let fresh = pooled.is_none();
        let connected = match pooled.take() {
            Some(wired) => Ok(wired),
            None => Box::pin(upstream.wired_new()).await,
        };
        let mut wired: Wired = match connected {
            Ok(wired) => wired,
            Err(error) => match role.another() {
                Some(other) => {
                    upstream = other;
                    pooled = upstream.wired_idle();
                    continue;
                }
                None => return Box::pin(fail(client, input, role, head, &error, down)).await,
            },
        };
        let mut exchange =
            Exchange::new(head.framing.clone(), head.method_is, wired.is_app(), head.close || role.ending());
        let ended = loop {
            let moved = poll_fn(|cx| exchange.poll(cx, client, input, up, wired.transport(), down));
            tokio::select! {
                biased;
                ended = moved => break ended,
                () = role.signal() => {}
            }
            let looked = Box::pin(role.look_again(true)).await;
            if role.ending() {
                exchange.end_after();
            }
            if let Looked::Denied(response) = looked {
                if exchange.unanswered() {
                    role.answered(response.status().as_u16(), Instant::now());
                    Box::pin(answer(client, &response, head.method_is, true, down)).await;
                }
                role.moved(exchange.moved());
                return false;
            }
        };
        if let Some((status, at)) = exchange.answered {
            wired.answered(status, at);
            role.answered(status, at);
        }
        role.moved(exchange.moved());
        match ended {
            Ended::Done { reusable, keep } => {
                if reusable {
                    wired.give_back();
                }
                return keep;
            }
            Ended::ClientGone | Ended::BrokeOff => return false,
            Ended::NoAnswer { dead, error } => {
                wired.failed(fresh);
                // The other side had closed an idle connection: nothing was acted on, or nothing that may not be repeated.
                if dead && !fresh && bodiless && head.method_is != MethodKind::Other {
                    continue;
                }
                let error = UpstreamError::Silent { address: upstream.name(), source: error };
                return Box::pin(fail(client, input, role, head, &error, down)).await;
            }
        }
    }
}

async fn fail<T, R>(
    client: &mut T,
    input: &mut Buffer,
    role: &mut R,
    head: &RequestHead,
    error: &UpstreamError,
    out: &mut Vec<u8>,
) -> bool
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
    R: Role,
{
    let response = role.failed(error);
    role.answered(response.status().as_u16(), Instant::now());
    refuse(client, input, head, &response, out).await
}

/// Answers in place of the app; `true` when the connection can go on, which it can when the request's body is over.
async fn refuse<T>(
    client: &mut T,
    input: &mut Buffer,
    head: &RequestHead,
    response: &Response<Body>,
    out: &mut Vec<u8>,
) -> bool
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut framing = head.framing.clone();
    let Ok(there) = framing.advance(input.filled()) else { return false };
    input.consume(there);
    let close = head.close || !framing.ended();
    if !answer(client, response, head.method_is, close, out).await {
        return false;
    }
    if !close {
        return true;
    }
    let _ = client.shutdown().await;
    // A connection that is closed over unread bytes is reset, and the answer with it.
    let mut discarded = 0;
    let discard = async {
        while discarded < DISCARDED && !framing.ended() {
            input.consume(input.len());
            match buffer::fill(input, client).await {
                Ok(0) | Err(_) => break,
                Ok(count) => discarded += count,
            }
            if framing.advance(input.filled()).is_err() {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARDING, discard).await;
    false
}

/// Writes an answer of the proxy's own.
async fn answer<T>(client: &mut T, response: &Response<Body>, asked: MethodKind, close: bool, out: &mut Vec<u8>) -> bool
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let body = response.body().own_bytes();
    let status = response.status();
    out.clear();
    for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    if close {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    if asked != MethodKind::Head {
        out.extend_from_slice(body);
    }
    client.write_all(out).await.is_ok() && client.flush().await.is_ok()
}

#[cfg(test)]
mod tests;
