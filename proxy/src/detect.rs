//! Telling HTTP/2 with prior knowledge from HTTP/1, by the first bytes: the preface begins with `PRI`, and no method of
//! HTTP/1 does (RFC 9113, section 3.4).

mod first;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::limits;

pub(crate) use first::{First, first, is_token, tell as tell_first};

const PREFACE: &[u8] = b"PRI";
const LOOK_AGAIN: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    One,
    Two,
}

/// `None`: not enough bytes to tell.
fn tell(bytes: &[u8]) -> Option<HttpVersion> {
    if bytes.iter().zip(PREFACE).any(|(a, b)| a != b) {
        return Some(HttpVersion::One);
    }
    (bytes.len() >= PREFACE.len()).then_some(HttpVersion::Two)
}

/// Looks without taking. `None`: the client went away or said too little in time.
pub(crate) async fn on_socket(stream: &TcpStream) -> Option<HttpVersion> {
    on_socket_within(stream, limits::DETECT).await
}

/// The same with another limit.
pub(crate) async fn on_socket_within(stream: &TcpStream, limit: Duration) -> Option<HttpVersion> {
    let look = async {
        let mut seen = [0; PREFACE.len()];
        loop {
            let n = stream.peek(&mut seen).await.ok()?;
            if n == 0 {
                return None;
            }
            if let Some(version) = tell(seen.get(..n)?) {
                return Some(version);
            }
            // `P` or `PR` came alone; the socket stays readable, so wait a moment for the rest.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(limit, look).await.ok().flatten()
}

/// Reads what is needed to tell, and gives a stream that starts with it.
pub(crate) async fn on_stream<T: AsyncRead + Unpin>(mut stream: T) -> Option<(Prefixed<T>, HttpVersion)> {
    let read = async {
        let mut seen = Vec::with_capacity(PREFACE.len());
        loop {
            let mut chunk = [0; PREFACE.len()];
            let n = stream.read(chunk.get_mut(..PREFACE.len() - seen.len())?).await.ok()?;
            if n == 0 {
                return None;
            }
            seen.extend_from_slice(chunk.get(..n)?);
            if let Some(version) = tell(&seen) {
                return Some((seen, version));
            }
        }
    };
    let (seen, version) = tokio::time::timeout(limits::DETECT, read).await.ok().flatten()?;
    Some((Prefixed { prefix: seen, taken: 0, stream }, version))
}

/// A stream with bytes put back before it.
pub(crate) struct Prefixed<T> {
    prefix: Vec<u8>,
    taken: usize,
    stream: T,
}

impl<T> Prefixed<T> {
    pub(crate) fn new(prefix: Vec<u8>, stream: T) -> Self {
        Self { prefix, taken: 0, stream }
    }

    /// The stream, and what of the bytes before it was not read.
    pub(crate) fn into_parts(self) -> (T, Vec<u8>) {
        (self.stream, self.prefix.get(self.taken..).unwrap_or_default().to_vec())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = this.prefix.get(this.taken..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let n = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..n).unwrap_or_default());
        this.taken += n;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_http_versions_apart_by_the_first_bytes() {
        for (bytes, expected) in [
            (&b"PRI * HTTP/2.0"[..], Some(HttpVersion::Two)),
            (b"PR", None),
            (b"", None),
            (b"POST /", Some(HttpVersion::One)),
            (b"PUT", Some(HttpVersion::One)),
            (b"GET", Some(HttpVersion::One)),
            (b"\x16\x03\x01", Some(HttpVersion::One)),
        ] {
            assert_eq!(tell(bytes), expected, "{bytes:?}");
        }
    }
}
