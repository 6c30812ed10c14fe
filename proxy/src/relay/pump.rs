//! One direction of a call: a head of our own making, then a body as it comes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffer;
use super::framing::Framing;

/// Why a direction ended before its end.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The side that is read from.
    Read,
    /// The side that is written to.
    Write,
    /// What was read is not the body that was announced.
    Malformed,
}

/// What is left to do.
#[derive(Debug)]
pub(crate) struct Pump {
    framing: Framing,
    /// Bytes of the head that were written.
    written: usize,
    /// Bytes at the buffer's front that belong to the body and wait to be written.
    waiting: usize,
    /// Bytes of the body that were written.
    pub(super) moved: u64,
    flushed: bool,
}

impl Pump {
    pub(crate) fn new(framing: Framing) -> Self {
        Self { framing, written: 0, waiting: 0, moved: 0, flushed: false }
    }

    /// Nothing of it was written yet.
    pub(crate) fn untouched(&self) -> bool {
        self.written == 0
    }

    /// Moves `head` and then the body from `from`, through `buffer`, to `to`. Ready when all of it was taken over.
    pub(crate) fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        from: &mut A,
        buffer: &mut Buffer,
        to: &mut B,
    ) -> Poll<Result<(), Broken>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        loop {
            if self.waiting == 0 && !self.framing.ended() && !buffer.is_empty() {
                self.waiting = self.framing.advance(buffer.filled()).map_err(|_| Broken::Malformed)?;
            }
            let rest = head.get(self.written..).unwrap_or_default();
            if !rest.is_empty() || self.waiting > 0 {
                let body = buffer.filled().get(..self.waiting).unwrap_or_default();
                let count = ready!(write(cx, to, rest, body)).map_err(|_| Broken::Write)?;
                let of_head = count.min(rest.len());
                self.written += of_head;
                self.waiting -= count - of_head;
                buffer.consume(count - of_head);
                self.moved += (count - of_head) as u64;
                self.flushed = false;
                continue;
            }
            if !self.flushed {
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Broken::Write)?;
                self.flushed = true;
            }
            if self.framing.ended() {
                return Poll::Ready(Ok(()));
            }
            match ready!(buffer.poll_fill(cx, from)).map_err(|_| Broken::Read)? {
                0 if self.framing.is_until_close() => return Poll::Ready(Ok(())),
                0 => return Poll::Ready(Err(Broken::Read)),
                _ => {}
            }
        }
    }
}

/// Both parts in one write where there are two: one system call, one TLS record.
fn write<B: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut B, head: &[u8], body: &[u8]) -> Poll<io::Result<usize>> {
    let to = Pin::new(to);
    let polled = match (head.is_empty(), body.is_empty()) {
        (true, _) => to.poll_write(cx, body),
        (_, true) => to.poll_write(cx, head),
        _ => to.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)]),
    };
    match ready!(polled)? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        count => Poll::Ready(Ok(count)),
    }
}
