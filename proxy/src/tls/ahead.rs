//! A socket below TLS that reads far ahead while a stream runs.
//!
//! rustls asks its socket for 4 KiB at a time, which is four system calls for a full record. Once a read filled all the
//! room it was given, more is likely to wait: then one call takes up to [`AHEAD`] bytes, and rustls gets them in its
//! portions. Memory is held only while such bytes wait; a connection that idles or carries small calls never has any.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that one system call takes from a stream.
const AHEAD: usize = 64 * 1024;
/// Buffers that a thread keeps for the next stream.
const KEPT: usize = 4;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// `T`, read ahead of what is asked for.
#[derive(Debug)]
pub struct ReadAhead<T> {
    inner: T,
    /// The last read filled its room.
    streams: bool,
    ahead: Option<Ahead>,
}

/// Bytes that were read and not asked for yet; never empty.
#[derive(Debug)]
struct Ahead {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<T> ReadAhead<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, streams: false, ahead: None }
    }

    /// Hands out what waits, and gives its memory back with the last of it.
    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let Some(ahead) = &mut self.ahead else { return };
        let waiting = ahead.bytes.get(ahead.start..ahead.end).unwrap_or_default();
        let taken = waiting.get(..buf.remaining()).unwrap_or(waiting);
        buf.put_slice(taken);
        ahead.start += taken.len();
        if ahead.start >= ahead.end
            && let Some(done) = self.ahead.take()
        {
            put_back(done.bytes);
        }
    }
}

fn take_free() -> Box<[u8]> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; AHEAD].into_boxed_slice())
}

fn put_back(bytes: Box<[u8]>) {
    // A thread that ends keeps nothing.
    let _ = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < KEPT {
            free.push(bytes);
        }
    });
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_none() {
            let room = buf.remaining();
            if !this.streams || room >= AHEAD {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
                this.streams = room > 0 && buf.filled().len() - before == room;
                return Poll::Ready(Ok(()));
            }
            let mut bytes = take_free();
            let mut read = ReadBuf::new(&mut bytes);
            let polled = Pin::new(&mut this.inner).poll_read(cx, &mut read);
            let end = read.filled().len();
            match polled {
                Poll::Ready(Ok(())) if end > 0 => {
                    this.streams = end > room;
                    this.ahead = Some(Ahead { bytes, start: 0, end });
                }
                other => {
                    put_back(bytes);
                    return other;
                }
            }
        }
        this.take(buf);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Gives its bytes in reads of at most these sizes, over and over, and counts them.
    struct Source {
        bytes: Vec<u8>,
        at: usize,
        sizes: Vec<usize>,
        reads: usize,
    }

    impl AsyncRead for Source {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            let most = this.sizes[this.reads % this.sizes.len()].min(buf.remaining());
            let end = (this.at + most).min(this.bytes.len());
            buf.put_slice(&this.bytes[this.at..end]);
            this.at = end;
            this.reads += 1;
            Poll::Ready(Ok(()))
        }
    }

    fn source(length: usize, sizes: &[usize]) -> Source {
        let bytes = (0..length).map(|n| (n % 251) as u8).collect();
        Source { bytes, at: 0, sizes: sizes.to_vec(), reads: 0 }
    }

    #[tokio::test]
    async fn bytes_come_in_order_whatever_the_sizes_and_end_where_they_end() {
        for sizes in [&[usize::MAX][..], &[1], &[4_096, 1, 100_000], &[5_000, 4_096]] {
            for length in [0, 1, 4_096, 4_097, 300_001] {
                let mut reader = ReadAhead::new(source(length, sizes));
                let (mut all, mut portion) = (Vec::new(), [0; 4_096]);
                loop {
                    match reader.read(&mut portion).await.unwrap() {
                        0 => break,
                        count => all.extend_from_slice(&portion[..count]),
                    }
                }
                assert_eq!(all, reader.inner.bytes, "{length} bytes by {sizes:?}");
                assert!(reader.ahead.is_none(), "memory is held at the end of {length} bytes by {sizes:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_stream_takes_a_sixteenth_of_the_reads_and_a_small_call_holds_nothing() {
        let mut reader = ReadAhead::new(source(10 << 20, &[usize::MAX]));
        let (mut portion, mut asked) = ([0; 4_096], 0);
        while reader.read(&mut portion).await.unwrap() > 0 {
            asked += 1;
        }
        assert_eq!(asked, (10 << 20) / 4_096);
        assert!(reader.inner.reads <= asked / 16 + 2, "{} reads for {asked}", reader.inner.reads);

        let mut reader = ReadAhead::new(source(1_000_000, &[900]));
        for _ in 0..100 {
            reader.read_exact(&mut portion[..900]).await.unwrap();
            // What was asked for was filled, and the next read finds that no more had come.
            assert_eq!(reader.read(&mut portion).await.unwrap(), 900);
            assert!(reader.ahead.is_none());
        }
    }

    #[tokio::test]
    async fn nothing_is_held_while_a_stream_waits() {
        let (mut writer, reader) = tokio::io::duplex(1 << 20);
        let mut reader = ReadAhead::new(reader);
        let mut portion = [0; 4_096];
        tokio::io::AsyncWriteExt::write_all(&mut writer, &[7; 4_096]).await.unwrap();
        reader.read_exact(&mut portion).await.unwrap();
        assert!(reader.streams);
        assert!(futures::poll!(std::pin::pin!(reader.read(&mut portion))).is_pending());
        assert!(reader.ahead.is_none());
        drop(writer);
        assert_eq!(reader.read(&mut portion).await.unwrap(), 0);
    }
}
