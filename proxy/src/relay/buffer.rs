//! Memory for bytes on their way: none while a connection is idle, little for a call, more for a stream.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// What a call begins with; larger than most heads with their bodies.
const FIRST: usize = 4 * 1024;
/// A stream that fills its buffer gets one four times as large, up to this.
const MOST: usize = 256 * 1024;
/// Where in a page a stream's bytes begin. TLS copies them to a page's fifth byte, and a copy from the page's start to there
/// takes twenty times as long on processors whose string moves are slow where both ends share the low bits of their
/// addresses (docs/decisions/0017-where-a-stream-s-bytes-lie.md).
const LEAD: usize = PAGE / 2;
const PAGE: usize = 4096;
/// First buffers that a thread keeps for the next call.
const KEPT: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static HEADS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Makes `head` one that an earlier call wrote its head into, unless it has memory already.
pub(crate) fn lend_head(head: &mut Vec<u8>) {
    if head.capacity() == 0 {
        *head = HEADS.with_borrow_mut(Vec::pop).unwrap_or_default();
    }
}

/// Takes the memory of `head` back for the next call, whoever's it is: an idle connection holds none.
pub(crate) fn give_back_head(head: &mut Vec<u8>) {
    let mut head = std::mem::take(head);
    head.clear();
    let _ = HEADS.try_with(|heads| {
        let mut heads = heads.borrow_mut();
        if heads.len() < KEPT && (1..=FIRST).contains(&head.capacity()) {
            heads.push(head);
        }
    });
}

/// Bytes that were read and not yet passed on.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Empty, or initialised to its whole length.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all the room there was.
    filled_up: bool,
    /// What a read behind others met; for the next one.
    broken: Option<io::Error>,
}

impl Buffer {
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// The first `count` bytes were passed on.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            let lead = self.lead();
            (self.start, self.end) = (lead, lead);
        }
    }

    /// Empties it, with `room` for bytes that begin at [`LEAD`] of a page.
    fn begin_stream(&mut self, room: usize) {
        self.release();
        self.bytes = vec![0; room + PAGE];
        let lead = self.lead();
        self.bytes.truncate(lead + room);
        (self.start, self.end) = (lead, lead);
    }

    /// Bytes at the front that a stream leaves unused. Not a field: every idle connection would hold it.
    fn lead(&self) -> usize {
        if self.bytes.len() > FIRST { LEAD.wrapping_sub(self.bytes.as_ptr().addr()) % PAGE } else { 0 }
    }

    /// Bytes that it can hold.
    fn room(&self) -> usize {
        self.bytes.len() - self.lead()
    }

    /// Reads what is there, behind what was read before: once, or for a stream until its buffer is full, since TLS gives
    /// a record at a time. 0 is the end of the stream. Memory is held only once bytes are there.
    pub(crate) fn poll_fill<T: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut T,
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        self.make_room();
        let before = self.end;
        self.filled_up = false;
        let polled = loop {
            match self.poll_once(cx, from) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) if self.end == self.bytes.len() => {
                    self.filled_up = true;
                    break Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) if self.bytes.len() == FIRST => break Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                // What was read counts first.
                Poll::Ready(Err(error)) if self.end > before => {
                    self.broken = Some(error);
                    break Poll::Ready(Ok(()));
                }
                Poll::Pending if self.end > before => break Poll::Ready(Ok(())),
                other => break other.map_ok(drop),
            }
        };
        if self.is_empty() {
            self.release();
        }
        polled.map_ok(|()| self.end.saturating_sub(before))
    }

    fn poll_once<T: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut T) -> Poll<io::Result<usize>> {
        let Some(room) = self.bytes.get_mut(self.end..) else { return Poll::Ready(Ok(0)) };
        let mut read = ReadBuf::new(room);
        let polled = Pin::new(from).poll_read(cx, &mut read);
        let count = read.filled().len();
        self.end += count;
        polled.map_ok(|()| count)
    }

    fn make_room(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; FIRST]);
            return;
        }
        if self.is_empty() && self.filled_up && self.room() < MOST {
            self.begin_stream((self.room() * 4).min(MOST));
        } else if self.end == self.bytes.len() {
            let lead = self.lead();
            let front = if self.start > lead { lead } else { 0 };
            if self.start > front {
                self.bytes.copy_within(self.start..self.end, front);
                (self.start, self.end) = (front, front + self.end - self.start);
            } else {
                let longer = (self.bytes.len() * 4).min(MOST * 4);
                self.bytes.resize(longer, 0);
            }
        }
    }

    /// Gives the memory back; what was in it is gone.
    pub(crate) fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        (self.start, self.end) = (0, 0);
        if bytes.len() == FIRST {
            // Other threads' calls may have left their own here; a thread that ends keeps nothing.
            let _ = FREE.try_with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < KEPT {
                    free.push(bytes);
                }
            });
        }
    }

    /// What was read, for another reader.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        let taken = self.filled().to_vec();
        self.release();
        taken
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

/// Reads once; see [`Buffer::poll_fill`].
pub(crate) async fn fill<T: AsyncRead + Unpin>(buffer: &mut Buffer, from: &mut T) -> io::Result<usize> {
    std::future::poll_fn(|cx| buffer.poll_fill(cx, from)).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_stream_gets_more_room_and_an_idle_connection_has_none() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let (mut buffer, mut from, mut seen) = (Buffer::default(), &bytes[..], Vec::new());
        while fill(&mut buffer, &mut from).await.unwrap() > 0 {
            seen.extend_from_slice(buffer.filled());
            assert!(buffer.room() <= MOST);
            if buffer.room() > FIRST {
                assert_eq!(buffer.filled().as_ptr().addr() % PAGE, LEAD);
            }
            buffer.consume(buffer.len());
        }
        assert_eq!(seen, bytes);
        assert_eq!((buffer.bytes.len(), buffer.len()), (0, 0));
        let (mut idle, _other) = tokio::io::duplex(64);
        assert!(futures::poll!(std::pin::pin!(fill(&mut buffer, &mut idle))).is_pending());
        assert_eq!(buffer.bytes.len(), 0);
    }

    #[tokio::test]
    async fn what_is_left_is_kept_in_order_when_more_is_read() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let (mut buffer, mut from, mut seen) = (Buffer::default(), &bytes[..], Vec::new());
        while fill(&mut buffer, &mut from).await.unwrap() > 0 {
            let take = buffer.len() / 2;
            seen.extend_from_slice(&buffer.filled()[..take]);
            buffer.consume(take);
        }
        seen.extend(buffer.into_vec());
        assert_eq!(seen, bytes);
    }

    /// Gives 4 KiB for each read, and then breaks once.
    struct Breaks(usize);

    impl AsyncRead for Breaks {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.0 += 1;
            match self.0 {
                1..=3 => buf.put_slice(&[7; 4_096]),
                4 => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                _ => {}
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_stream_fills_its_buffer_and_one_that_breaks_is_not_taken_for_one_that_ends() {
        let (mut buffer, mut from) = (Buffer::default(), Breaks(0));
        for expected in [4_096, 8_192] {
            assert_eq!(fill(&mut buffer, &mut from).await.unwrap(), expected);
            buffer.consume(expected);
        }
        assert_eq!(fill(&mut buffer, &mut from).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(fill(&mut buffer, &mut from).await.unwrap(), 0);
    }

    #[test]
    fn a_head_s_memory_goes_to_the_next_call_and_a_long_one_s_does_not_stay() {
        let mut head = Vec::with_capacity(300);
        head.extend_from_slice(b"GET / HTTP/1.1");
        let (place, capacity) = (head.as_ptr(), head.capacity());
        give_back_head(&mut head);
        assert_eq!(head.capacity(), 0);
        let mut next = Vec::new();
        lend_head(&mut next);
        assert_eq!((next.as_ptr(), next.capacity(), next.len()), (place, capacity, 0));
        let mut long = vec![0; FIRST + 1];
        give_back_head(&mut long);
        lend_head(&mut long);
        assert_eq!(long.capacity(), 0);
    }
}
