//! Heads of HTTP/1.1, read once and written for the next hop in the same pass.
//!
//! INVARIANT: what this module takes, it takes as hyper would, and it takes less: whatever is unusual or could be read in
//! two ways is [`Parsed::Other`] and goes, byte for byte as it came, to the general server, which knows what to do with it.
//! The test beside it holds both parsers against each other.

use std::mem::MaybeUninit;
use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};
use signet_observe::trace::{self, TraceContext};

use super::framing::Framing;
use crate::limits;

/// Heads with more headers than this are unusual.
const HEADERS: usize = 64;

/// What became of the first bytes of a connection's input.
#[derive(Debug)]
pub(crate) enum Parsed<T> {
    /// The head is not there yet as a whole.
    Partial,
    /// A head that is not for this module.
    Other,
    Head(T),
}

/// Which side of a sidecar reads a request.
#[derive(Clone, Copy)]
pub(crate) enum Side<'a> {
    /// From the app: absolute-form or `Host`.
    Outbound,
    /// From another sidecar: the verified caller is named to the app.
    Inbound { source: Option<&'a str> },
}

/// A request's head. Ranges count from the head's first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) length: usize,
    pub(crate) method: Range<usize>,
    /// Path and query.
    pub(crate) target: Range<usize>,
    /// Length of the path alone.
    pub(crate) path: usize,
    /// Authority of the absolute form, or `Host`.
    pub(crate) host: Range<usize>,
    pub(crate) framing: Framing,
    /// The client said that it ends the connection.
    pub(crate) close: bool,
    pub(crate) trace_id: [u8; 16],
    pub(crate) method_is: MethodKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MethodKind {
    Head,
    /// May be sent twice (RFC 9110, section 9.2.2).
    Idempotent,
    Other,
}

/// Reads a request's head from the start of `bytes` and writes it for the next hop to `out`.
pub(crate) fn request(bytes: &[u8], side: Side<'_>, out: &mut Vec<u8>) -> Parsed<RequestHead> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < limits::MAX_HEAD => return Parsed::Partial,
        _ => return Parsed::Other,
    };
    match read_request(bytes, length, &request, side, out) {
        Some(head) => Parsed::Head(head),
        None => Parsed::Other,
    }
}

fn read_request(
    bytes: &[u8],
    length: usize,
    request: &httparse::Request<'_, '_>,
    side: Side<'_>,
    out: &mut Vec<u8>,
) -> Option<RequestHead> {
    let (method, uri) = (request.method?, request.path?);
    if request.version != Some(1) || method == "CONNECT" || method.len() > 32 {
        return None;
    }
    let (authority, target) = match side {
        Side::Outbound => match uri.strip_prefix("http://") {
            Some(rest) => {
                let slash = rest.find('/')?;
                let (authority, target) = rest.split_at_checked(slash)?;
                (Some(authority), target)
            }
            None => (None, uri),
        },
        Side::Inbound { .. } => (None, uri),
    };
    if !target.starts_with('/') || !target.bytes().all(plain_in_target) {
        return None;
    }
    let fields = fields(request.headers)?;
    let host = match (authority, fields.host?) {
        // RFC 9112, section 3.2.2: the absolute form stands above `Host`.
        (Some(authority), _) => authority,
        (None, host) => host,
    };
    if !plain_authority(host) {
        return None;
    }
    let trace = fields.trace(request.headers);
    let (trace_id, own_trace) = match trace {
        Some(found) => (found.trace_id, None),
        None => {
            let context = TraceContext::root();
            (context.trace_id, Some(context))
        }
    };

    out.clear();
    for part in [method.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\nhost: ", host.as_bytes(), b"\r\n"] {
        out.extend_from_slice(part);
    }
    for header in request.headers.iter() {
        match kind(header.name.as_bytes()) {
            Kind::Host | Kind::Hop | Kind::Connection | Kind::Signet => {}
            // INVARIANT: `fields` let no other value pass.
            Kind::Te => line(out, b"te", b"trailers"),
            Kind::Trace if own_trace.is_some() => {}
            _ => line(out, header.name.as_bytes(), header.value),
        }
    }
    if let Side::Inbound { source: Some(source) } = side {
        line(out, b"x-signet-source", source.as_bytes());
    }
    if let Some(context) = own_trace {
        line(out, b"traceparent", &trace::traceparent(&context));
    }
    out.extend_from_slice(b"\r\n");

    let path = target.find('?').unwrap_or(target.len());
    Some(RequestHead {
        length,
        method: within(bytes, method)?,
        target: within(bytes, target)?,
        path,
        host: within(bytes, host)?,
        framing: fields.length.map_or(Framing::NONE, Framing::length),
        close: fields.close,
        trace_id,
        method_is: match method {
            "HEAD" => MethodKind::Head,
            "GET" | "OPTIONS" | "PUT" | "DELETE" | "TRACE" => MethodKind::Idempotent,
            _ => MethodKind::Other,
        },
    })
}

/// A response's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) length: usize,
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    /// The connection may be used for another call when the body has ended.
    pub(crate) reusable: bool,
}

/// Reads a response's head and writes it for the caller to `out`, without its last empty line: the caller ends it.
/// [`Parsed::Other`] is an answer that must not be passed on. `from_app`: what the mesh alone may say is removed.
pub(crate) fn response(bytes: &[u8], asked: MethodKind, from_app: bool, out: &mut Vec<u8>) -> Parsed<ResponseHead> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS * 2];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut response, bytes, &mut headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < limits::MAX_HEAD => return Parsed::Partial,
        _ => return Parsed::Other,
    };
    match read_response(length, &response, asked, from_app, out) {
        Some(head) => Parsed::Head(head),
        None => Parsed::Other,
    }
}

fn read_response(
    length: usize,
    response: &httparse::Response<'_, '_>,
    asked: MethodKind,
    from_app: bool,
    out: &mut Vec<u8>,
) -> Option<ResponseHead> {
    let (status, version) = (response.code?, response.version?);
    let fields = fields_of_response(response.headers)?;
    let framing = match (status, fields.chunked, fields.length) {
        (100..=199 | 204 | 304, ..) => Framing::NONE,
        _ if asked == MethodKind::Head => Framing::NONE,
        // RFC 9112, section 6.1: both is an attack or a broken server.
        (_, true, Some(_)) => return None,
        (_, true, None) if version == 1 => Framing::chunked(),
        (_, true, None) => return None,
        (_, false, Some(length)) => Framing::length(length),
        (_, false, None) => Framing::until_close(),
    };
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 ");
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + u8::try_from(digit).unwrap_or(0));
    out.extend_from_slice(&digits);
    out.push(b' ');
    out.extend_from_slice(response.reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for header in response.headers.iter() {
        let name = header.name.as_bytes();
        match kind(name) {
            Kind::Hop | Kind::Te | Kind::Connection | Kind::Unusual => {}
            Kind::Signet if from_app => {}
            _ if fields.named(name) => {}
            _ => line(out, name, header.value),
        }
    }
    if framing.is_chunked() {
        line(out, b"transfer-encoding", b"chunked");
    }
    let reusable = version == 1 && !fields.close && !framing.is_until_close();
    Some(ResponseHead { length, status, framing, reusable })
}

/// What the headers of a request say about the connection, the body and the call.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a str>,
    length: Option<u64>,
    close: bool,
    traced: bool,
}

impl Fields<'_> {
    fn trace(&self, headers: &[httparse::Header<'_>]) -> Option<TraceContext> {
        if !self.traced {
            return None;
        }
        let mut map = HeaderMap::new();
        for header in headers.iter().filter(|header| kind(header.name.as_bytes()) == Kind::Trace) {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
            map.append(name, HeaderValue::from_bytes(header.value).ok()?);
        }
        Some(trace::extract(&map)).filter(|context| context.parent.is_some())
    }
}

/// `None`: something is there that the general server has to see.
fn fields<'h>(headers: &[httparse::Header<'h>]) -> Option<Fields<'h>> {
    let mut fields = Fields::default();
    for header in headers {
        match kind(header.name.as_bytes()) {
            Kind::Plain | Kind::Signet => {}
            Kind::Hop if header.name.eq_ignore_ascii_case("transfer-encoding") => return None,
            Kind::Te if header.value != b"trailers" => return None,
            Kind::Hop | Kind::Te => {}
            Kind::Unusual => return None,
            Kind::Trace => fields.traced = true,
            Kind::Host => {
                if fields.host.is_some() {
                    return None;
                }
                fields.host = Some(std::str::from_utf8(header.value).ok()?);
            }
            Kind::Length => {
                if fields.length.is_some() {
                    return None;
                }
                fields.length = Some(number(header.value)?);
            }
            Kind::Connection => match header.value {
                value if value.eq_ignore_ascii_case(b"keep-alive") => {}
                value if value.eq_ignore_ascii_case(b"close") => fields.close = true,
                _ => return None,
            },
        }
    }
    Some(fields)
}

#[derive(Default)]
struct ResponseFields<'a> {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    /// What `Connection` names beside `close` and `keep-alive`.
    connection: Option<&'a [u8]>,
}

impl ResponseFields<'_> {
    fn named(&self, name: &[u8]) -> bool {
        // RFC 9110, section 7.6.1: framing cannot be removed by naming it.
        self.connection.is_some_and(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(name)))
            && kind(name) != Kind::Length
    }
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// `None`: the framing is not to be trusted.
fn fields_of_response<'h>(headers: &[httparse::Header<'h>]) -> Option<ResponseFields<'h>> {
    let mut fields = ResponseFields::default();
    for header in headers {
        match kind(header.name.as_bytes()) {
            Kind::Length => {
                let length = number(header.value)?;
                if fields.length.is_some_and(|other| other != length) {
                    return None;
                }
                fields.length = Some(length);
            }
            Kind::Hop if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if fields.chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return None;
                }
                fields.chunked = true;
            }
            Kind::Connection => {
                fields.close |= tokens(header.value).any(|token| token.eq_ignore_ascii_case(b"close"));
                if tokens(header.value).any(|token| !token.eq_ignore_ascii_case(b"keep-alive")) {
                    // Two such lines with further names are rarer than what they could hide.
                    if fields.connection.is_some() {
                        return None;
                    }
                    fields.connection = Some(header.value);
                }
            }
            _ => {}
        }
    }
    Some(fields)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Host,
    Length,
    Connection,
    /// Concerns one hop only, and is removed.
    Hop,
    Te,
    /// Of a request: makes it one for the general server.
    Unusual,
    Trace,
    /// Said by the mesh alone.
    Signet,
}

fn kind(name: &[u8]) -> Kind {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
        (2, Some(b't')) if is("te") => Kind::Te,
        (2, Some(b'b')) if is("b3") => Kind::Trace,
        (4, Some(b'h')) if is("host") => Kind::Host,
        (6, Some(b'e')) if is("expect") => Kind::Unusual,
        (7, Some(b'u')) if is("upgrade") => Kind::Unusual,
        (10, Some(b'c')) if is("connection") => Kind::Connection,
        (10, Some(b'k')) if is("keep-alive") => Kind::Hop,
        (10, Some(b't')) if is("tracestate") => Kind::Trace,
        (11, Some(b't')) if is("traceparent") => Kind::Trace,
        (14, Some(b'c')) if is("content-length") => Kind::Length,
        (14, Some(b'h')) if is("http2-settings") => Kind::Unusual,
        (16, Some(b'p')) if is("proxy-connection") => Kind::Hop,
        (17, Some(b't')) if is("transfer-encoding") => Kind::Hop,
        (19, Some(b'p')) if is("proxy-authorization") => Kind::Hop,
        (length, Some(b'x')) if length > 5 => match name.get(..5) {
            Some(start) if start.eq_ignore_ascii_case(b"x-b3-") => Kind::Trace,
            _ if name.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"x-signet-")) => Kind::Signet,
            _ => Kind::Plain,
        },
        _ => Kind::Plain,
    }
}

/// Characters that every reader takes for themselves.
fn plain_in_target(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~%?=&:@!$'()*+,;".contains(&byte)
}

/// A name or an IPv4 address, and a port or none (RFC 3986, section 3.2). What else an authority may be, readers differ on:
/// a second colon, an empty port, brackets.
fn plain_authority(authority: &str) -> bool {
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// Digits alone, fewer than overflow (RFC 9110, section 8.6).
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Where `part`, a slice of `whole`, lies in it.
fn within(whole: &[u8], part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

#[cfg(test)]
mod tests;
