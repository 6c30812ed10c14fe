//! One call on two connections: request up, response down, both at once where the app answers early.

use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::Buffer;
use super::framing::Framing;
use super::head::{self, MethodKind, Parsed};
use super::pump::{Broken, Pump};

/// What of a client's further requests is read while it waits for an answer.
const AHEAD: usize = 32 * 1024;

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The whole answer is with the client.
    Done {
        /// The upstream connection can serve another call.
        reusable: bool,
        /// The client's connection can.
        keep: bool,
    },
    /// The client went away, or what it sent broke off.
    ClientGone,
    /// The upstream gave no answer. `dead`: it had ended the connection without a byte.
    NoAnswer { dead: bool, error: io::Error },
    /// The answer broke off behind its head: the client sees its connection end.
    BrokeOff,
}

/// A call between its decision and its end.
pub(crate) struct Exchange {
    up: Pump,
    uploaded: bool,
    /// The upstream takes no more of the request; its answer may be there all the same.
    refused: bool,
    method: MethodKind,
    from_app: bool,
    /// Client and sidecar end the client's connection with this call.
    closing: bool,
    answer: Buffer,
    /// How much of `answer` was looked at for a head.
    looked: usize,
    down: Option<Pump>,
    reusable: bool,
    /// The answer's status and when its head came, once it did.
    pub(crate) answered: Option<(u16, Instant)>,
}

impl Exchange {
    pub(crate) fn new(body: Framing, method: MethodKind, from_app: bool, closing: bool) -> Self {
        Self {
            up: Pump::new(body),
            uploaded: false,
            refused: false,
            method,
            from_app,
            closing,
            answer: Buffer::default(),
            looked: 0,
            down: None,
            reusable: false,
            answered: None,
        }
    }

    /// Nothing of the answer is with the client yet.
    pub(crate) fn unanswered(&self) -> bool {
        self.down.as_ref().is_none_or(Pump::untouched)
    }

    /// Bytes of the request's body that the upstream has, and of the answer's that the client has.
    pub(crate) fn moved(&self) -> (u64, u64) {
        (self.up.moved, self.down.as_ref().map_or(0, |down| down.moved))
    }

    /// The client's connection ends with this call, and is told so if its answer has not begun.
    pub(crate) fn end_after(&mut self) {
        self.closing = true;
    }

    /// Moves what can be moved. `request` is the head for the upstream; the one for the client is made in `response`.
    pub(crate) fn poll<C, U>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        input: &mut Buffer,
        request: &[u8],
        upstream: &mut U,
        response: &mut Vec<u8>,
    ) -> Poll<Ended>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.uploaded && !self.refused {
            match self.up.poll(cx, request, client, input, upstream) {
                Poll::Ready(Ok(())) => self.uploaded = true,
                Poll::Ready(Err(Broken::Write)) => self.refused = true,
                Poll::Ready(Err(Broken::Read | Broken::Malformed)) => return Poll::Ready(Ended::ClientGone),
                Poll::Pending => {}
            }
        } else if client_left(cx, client, input) {
            return Poll::Ready(Ended::ClientGone);
        }
        if self.down.is_none()
            && let Poll::Ready(ended) = self.poll_head(cx, upstream, response)
        {
            match ended {
                Ok(()) => {}
                Err(ended) => return Poll::Ready(ended),
            }
        }
        let Some(down) = &mut self.down else { return Poll::Pending };
        match down.poll(cx, response, upstream, &mut self.answer, client) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                // Bytes behind an answer belong to no call.
                let reusable = self.reusable && self.uploaded && self.answer.is_empty();
                Poll::Ready(Ended::Done { reusable, keep: self.uploaded && !self.closing })
            }
            Poll::Ready(Err(Broken::Write)) => Poll::Ready(Ended::ClientGone),
            Poll::Ready(Err(Broken::Read | Broken::Malformed)) => Poll::Ready(Ended::BrokeOff),
        }
    }

    /// Reads the answer's head, past interim ones.
    fn poll_head<U: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &mut U,
        response: &mut Vec<u8>,
    ) -> Poll<Result<(), Ended>> {
        let broken =
            |dead, why: &str| Poll::Ready(Err(Ended::NoAnswer { dead, error: io::Error::other(why.to_owned()) }));
        loop {
            if self.answer.len() > self.looked {
                match head::response(self.answer.filled(), self.method, self.from_app, response) {
                    Parsed::Partial => self.looked = self.answer.len(),
                    Parsed::Other => return broken(false, "its answer is not to be passed on"),
                    // 101 answers what was never asked here; others are news that the client can do without.
                    Parsed::Head(head) if head.status == 101 => return broken(false, "it switched protocols"),
                    Parsed::Head(head) if head.status < 200 => {
                        self.answer.consume(head.length);
                        self.looked = 0;
                        continue;
                    }
                    Parsed::Head(head) => {
                        self.answer.consume(head.length);
                        self.closing |= head.framing.is_until_close() || !self.uploaded;
                        if self.closing {
                            response.extend_from_slice(b"connection: close\r\n");
                        }
                        response.extend_from_slice(b"\r\n");
                        self.answered = Some((head.status, Instant::now()));
                        self.reusable = head.reusable;
                        self.down = Some(Pump::new(head.framing));
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            match self.answer.poll_fill(cx, upstream) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return broken(self.answer.is_empty(), "it ended the connection"),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Ended::NoAnswer { dead: self.answer.is_empty(), error }));
                }
            }
        }
    }
}

/// Whether the client is gone; what it sends meanwhile is kept, up to a bound.
fn client_left<C: AsyncRead + Unpin>(cx: &mut Context<'_>, client: &mut C, input: &mut Buffer) -> bool {
    while input.len() < AHEAD {
        match input.poll_fill(cx, client) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0) | Err(_)) => return true,
            Poll::Ready(Ok(_)) => {}
        }
    }
    false
}
