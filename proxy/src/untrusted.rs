//! The readers of bytes that strangers send, for the fuzz targets of `fuzz/` alone. Nothing here is called by a sidecar.

use std::ops::Range;

use crate::ambiguity::Scanner;
use crate::detect;
use crate::forward;
use crate::relay::{self, Framing, Side};
use crate::serve;

/// What a connection that begins with `bytes` is, as text; `None` when more bytes may tell.
#[must_use]
pub fn detect(bytes: &[u8]) -> Option<String> {
    detect::tell_first(bytes).map(|first| format!("{first:?}"))
}

/// A request that the relay takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub host: String,
    /// `None`: it has not ended yet.
    pub body: Option<Vec<u8>>,
    /// The head for the next hop.
    pub onward: Vec<u8>,
}

/// What the relay makes of a connection's first bytes; `None` when it leaves them to the general server.
#[must_use]
pub fn relayed(bytes: &[u8], inbound: bool) -> Option<Request> {
    let side = if inbound { Side::Inbound { source: Some("spiffe://east/ns/bank/sa/web") } } else { Side::Outbound };
    let mut onward = Vec::new();
    let relay::Parsed::Head(head) = relay::request(bytes, side, &mut onward) else { return None };
    let text = |range: &Range<usize>| Some(String::from_utf8_lossy(bytes.get(range.clone())?).into_owned());
    let rest = bytes.get(head.length..)?;
    let mut framing = head.framing.clone();
    let taken = framing.advance(rest).ok()?;
    let body = if framing.ended() { Some(rest.get(..taken)?.to_vec()) } else { None };
    Some(Request { method: text(&head.method)?, target: text(&head.target)?, host: text(&head.host)?, body, onward })
}

/// Reads an answer of an app as the relay does, to find out that it can: the head for the caller.
#[must_use]
pub fn answered(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match relay::response(bytes, relay::MethodKind::Other, true, &mut out) {
        relay::Parsed::Head(_) => Some(out),
        relay::Parsed::Partial | relay::Parsed::Other => None,
    }
}

/// How many of `bytes`, read `piece` at a time, are a chunked body, and whether it has ended; `None` when it is malformed.
#[must_use]
pub fn chunked(bytes: &[u8], piece: usize) -> Option<(usize, bool)> {
    let (mut framing, mut taken) = (Framing::chunked(), 0);
    for part in bytes.chunks(piece.max(1)) {
        taken += framing.advance(part).ok()?;
        if framing.ended() {
            break;
        }
    }
    Some((taken, framing.ended()))
}

/// What hyper gets to read when `bytes` come `piece` at a time; `None` when the connection ends instead.
#[must_use]
pub fn unambiguous(bytes: &[u8], piece: usize) -> Option<Vec<u8>> {
    let (mut scanner, mut bytes) = (Scanner::default(), bytes.to_vec());
    bytes.chunks_mut(piece.max(1)).try_for_each(|part| scanner.look(part)).ok()?;
    Some(bytes)
}

/// The general server's reader of HTTP/1, as it serves both listeners.
#[must_use]
pub fn general_server() -> hyper::server::conn::http1::Builder {
    serve::http1_server()
}

/// Host and port of a CONNECT's authority; `None` when it is refused.
#[must_use]
pub fn authority(text: &str) -> Option<(&str, Option<u16>)> {
    forward::split_host(text)
}
