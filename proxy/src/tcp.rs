//! Raw TCP: bytes both ways, each direction ended by its own end (half-close), counted as they pass.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::flow::Flow;
use crate::limits;

/// Copies until both directions have ended. `source` is the flow's. Gives the bytes from it and to it.
///
/// # Errors
/// When either side broke; what was in flight then is lost, as with a reset.
pub(crate) async fn relay<A, B>(source: &mut A, destination: &mut B, flow: &Flow) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut source = Counted { source, flow };
    tokio::io::copy_bidirectional_with_sizes(&mut source, destination, limits::COPY_BUFFER, limits::COPY_BUFFER).await
}

/// The source's side, counting what passes.
struct Counted<'s, S> {
    source: &'s mut S,
    flow: &'s Flow,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.source).poll_read(cx, buffer);
        self.flow.received(buffer.filled().len().saturating_sub(before) as u64);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut *self.source).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.flow.sent(written as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.source).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.source).poll_shutdown(cx)
    }
}
