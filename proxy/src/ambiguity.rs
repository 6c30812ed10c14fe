//! Refuses HTTP/1 requests that name both a length and a transfer coding, before hyper resolves them.
//!
//! RFC 9112, section 6.1, lets a server read such a message by its transfer coding alone, and hyper does: it drops the
//! length, and nobody behind it can know. Whoever sends one either smuggles or is broken, so here the second of the two
//! fields is made unreadable on its way in: hyper answers 400, ends the connection, and the refusal is counted like any
//! other bad head.
//!
//! Bodies are followed by their framing, so that what looks like a head inside one is left alone. A chunked body that two
//! readers could take in two ways ends the connection. Behind CONNECT and upgrades everything passes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::relay::Framing;

/// What of a line is looked at; the fields that matter are shorter.
const LINE: usize = 64;
/// No field name and no value has this byte.
const UNREADABLE: u8 = 0;

/// A server's side of a connection.
pub(crate) struct Unambiguous<T> {
    stream: T,
    scanner: Scanner,
}

impl<T> Unambiguous<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self { stream, scanner: Scanner::default() }
    }

    pub(crate) fn into_inner(self) -> T {
        self.stream
    }
}

/// A chunked body that could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ambiguous;

/// Follows the requests of a connection.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    at: At,
    /// The start of the current line, or of a field's value.
    line: Line,
    field: Field,
    length: Option<u64>,
    /// Whether the transfer coding ends with `chunked`.
    chunked: Option<bool>,
    /// What follows this head need not be HTTP.
    opaque: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    RequestLine,
    Name,
    Value,
    Body(Framing),
    /// Nothing is looked at any more: not HTTP, or what hyper refuses by itself.
    Through,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Field {
    Length,
    Coding,
    Upgrade,
    #[default]
    Other,
}

#[derive(Debug)]
struct Line {
    bytes: [u8; LINE],
    /// Counts what did not fit, too.
    seen: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; LINE], seen: 0 }
    }
}

impl Line {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.seen) {
            *place = byte;
        }
        self.seen = self.seen.saturating_add(1);
    }

    /// Without what did not fit.
    fn start(&self) -> &[u8] {
        self.bytes.get(..self.seen.min(LINE)).unwrap_or_default()
    }

    /// `None` when it did not fit.
    fn whole(&self) -> Option<&[u8]> {
        self.bytes.get(..self.seen).map(<[u8]>::trim_ascii)
    }
}

impl Scanner {
    /// Looks at the bytes that come next on the connection.
    ///
    /// # Errors
    /// When a body is ambiguous; the connection must end.
    pub(crate) fn look(&mut self, bytes: &mut [u8]) -> Result<(), Ambiguous> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match &mut self.at {
                At::Through => return Ok(()),
                At::Body(framing) => {
                    let taken = framing.advance(rest).map_err(|_| Ambiguous)?;
                    if framing.ended() {
                        self.at = At::RequestLine;
                        self.line.seen = 0;
                    }
                    rest = rest.get_mut(taken..).unwrap_or_default();
                }
                At::RequestLine | At::Name | At::Value => {
                    let Some((byte, more)) = rest.split_first_mut() else { return Ok(()) };
                    self.step(byte);
                    rest = more;
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, byte: &mut u8) {
        match (&self.at, *byte) {
            // Servers skip empty lines before a request (RFC 9112, section 2.2).
            (At::RequestLine, b'\r' | b'\n') if self.line.seen == 0 => {}
            (At::RequestLine, b'\n') => {
                self.opaque = self.line.start().starts_with(b"CONNECT ");
                (self.length, self.chunked) = (None, None);
                self.next(At::Name);
            }
            (At::Name, b'\r') if self.line.seen == 0 => {}
            (At::Name, b'\n') if self.line.seen == 0 => self.body(),
            (At::Name, b':') => {
                self.field = match self.line.whole() {
                    Some(name) if name.eq_ignore_ascii_case(b"content-length") => Field::Length,
                    Some(name) if name.eq_ignore_ascii_case(b"transfer-encoding") => Field::Coding,
                    Some(name) if name.eq_ignore_ascii_case(b"upgrade") => Field::Upgrade,
                    _ => Field::Other,
                };
                let second = match self.field {
                    Field::Length => self.chunked.is_some(),
                    Field::Coding => self.length.is_some(),
                    Field::Upgrade | Field::Other => false,
                };
                if second {
                    *byte = UNREADABLE;
                    self.at = At::Through;
                } else {
                    self.next(At::Value);
                }
            }
            // A line without a colon is not a field, and hyper says so.
            (At::Name, b'\n') => self.at = At::Through,
            (At::Value, b'\n') => self.value(),
            (_, byte) => self.line.push(byte),
        }
    }

    fn next(&mut self, at: At) {
        self.at = at;
        self.line.seen = 0;
    }

    fn value(&mut self) {
        match self.field {
            Field::Length => {
                // As hyper reads it: digits that fit. It refuses everything else.
                let value = self.line.whole().filter(|value| value.iter().all(u8::is_ascii_digit));
                match value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()) {
                    Some(length) => self.length = Some(length),
                    None => return self.at = At::Through,
                }
            }
            Field::Coding => {
                let last = self.line.whole().and_then(|value| value.rsplit(|byte| *byte == b',').next());
                self.chunked = Some(last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked")));
            }
            Field::Upgrade => self.opaque = true,
            Field::Other => {}
        }
        self.next(At::Name);
    }

    /// The head has ended.
    fn body(&mut self) {
        let at = match (self.chunked, self.length) {
            _ if self.opaque => At::Through,
            (Some(true), _) => At::Body(Framing::chunked()),
            // Refused by hyper.
            (Some(false), _) => At::Through,
            (None, Some(0) | None) => At::RequestLine,
            (None, Some(length)) => At::Body(Framing::length(length)),
        };
        self.next(at);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Unambiguous<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let new = buf.filled_mut().get_mut(before..).unwrap_or_default();
        Poll::Ready(this.scanner.look(new).map_err(|Ambiguous| {
            io::Error::new(io::ErrorKind::InvalidData, "a chunked body that can be read in two ways")
        }))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Unambiguous<T> {
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
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    /// What arrives of `given`, in pieces of every size: the same for all.
    fn passed(given: &str) -> Result<String, Ambiguous> {
        let mut results = Vec::new();
        for piece in 1..=given.len() {
            let (mut scanner, mut bytes) = (Scanner::default(), given.as_bytes().to_vec());
            let result = bytes.chunks_mut(piece).try_for_each(|part| scanner.look(part));
            results.push(result.map(|()| String::from_utf8(bytes).unwrap()));
        }
        assert!(results.windows(2).all(|two| two[0] == two[1]), "pieces matter for {given:?}");
        results.pop().unwrap()
    }

    #[test]
    fn a_length_beside_a_transfer_coding_is_made_unreadable_in_every_order_and_every_request() {
        let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let length = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        for before in ["", chunked, length, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "\r\n\r\n"] {
            for (first, second) in [
                ("Content-Length: 4", "Transfer-Encoding: chunked"),
                ("transfer-encoding: chunked", "content-length: 4"),
                ("transfer-encoding: gzip", "CONTENT-LENGTH: 0"),
                ("content-length: 0", "transfer-encoding: identity"),
            ] {
                let head = format!("{before}POST / HTTP/1.1\r\n{first}\r\nx: y\r\n");
                let given = format!("{head}{second}\r\n\r\n0\r\n\r\n");
                let expected = format!("{head}{}\r\n\r\n0\r\n\r\n", second.replace(':', "\0"));
                assert_eq!(passed(&given), Ok(expected), "{given:?}");
            }
        }
    }

    #[test]
    fn everything_else_passes_as_it_came() {
        let both = "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        for given in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{both}", both.len()),
            format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{both}\r\n0\r\n\r\n", both.len()),
            format!("CONNECT db:5432 HTTP/1.1\r\nhost: db\r\n\r\n{both}"),
            format!("GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n{both}"),
            "POST / HTTP/1.1\r\ncontent-length: 3\r\nx-content-length: 4\r\nx-transfer-encoding: chunked\r\n\r\nabc"
                .to_owned(),
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "transfer-encoding: chunked ".repeat(20)),
        ] {
            assert_eq!(passed(&given).as_ref(), Ok(&given), "{given:?}");
        }
    }

    #[test]
    fn chunks_that_two_readers_take_in_two_ways_end_the_connection() {
        for body in ["3\nabc\n0\n\n", "3 \r\nabc\r\n", "3\r\nabcX", "\r\n", "3;\nabc\r\n0\r\n\r\n"] {
            let given = format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{body}");
            assert_eq!(passed(&given), Err(Ambiguous), "{body:?}");
        }
    }
}
