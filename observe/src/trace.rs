//! Trace context on the wire: W3C `traceparent` first, B3 (single and multiple headers) second.
//!
//! What came in is passed on: a caller that speaks B3 finds B3 further down. A request without either starts a trace.

use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

static EXPORTING: AtomicBool = AtomicBool::new(false);

pub(crate) fn set_exporting(on: bool) {
    EXPORTING.store(on, Ordering::Relaxed);
}

/// Whether spans leave this process; when not, making them can be saved.
pub fn exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

/// Which headers carried the context, so that the same are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    W3c,
    B3Single,
    B3Multi,
}

/// One request's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: [u8; 16],
    /// The caller's span; `None` starts a trace.
    pub parent: Option<[u8; 8]>,
    pub sampled: bool,
    pub format: Format,
}

impl TraceContext {
    /// A trace that starts here.
    pub fn root() -> Self {
        Self { trace_id: random(), parent: None, sampled: exporting(), format: Format::W3c }
    }

    /// The trace id as 32 hex digits, the form that records carry.
    pub fn trace_id_hex(&self) -> String {
        hex(&self.trace_id)
    }
}

/// The context that the headers carry, or a new one.
pub fn extract(headers: &HeaderMap) -> TraceContext {
    w3c(headers).or_else(|| b3_single(headers)).or_else(|| b3_multi(headers)).unwrap_or_else(TraceContext::root)
}

/// Writes the context for the next hop, whose parent is `span_id`; B3 too when B3 came.
pub fn inject(context: &TraceContext, span_id: [u8; 8], headers: &mut HeaderMap) {
    let (trace, span) = (hex(&context.trace_id), hex(&span_id));
    let flag = if context.sampled { "1" } else { "0" };
    set(headers, TRACEPARENT, &format!("00-{trace}-{span}-0{flag}"));
    match context.format {
        Format::W3c => {}
        Format::B3Single => set(headers, B3, &format!("{trace}-{span}-{flag}")),
        Format::B3Multi => {
            set(headers, B3_TRACE, &trace);
            set(headers, B3_SPAN, &span);
            set(headers, B3_SAMPLED, flag);
            headers.remove(B3_PARENT);
        }
    }
    if context.parent.is_none() {
        headers.remove(TRACESTATE);
    }
}

/// The value of `traceparent` for a trace that starts here and whose spans are not exported: the parent of the next hop is
/// a span id that nobody will look up.
pub fn traceparent(context: &TraceContext) -> [u8; 55] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let span: [u8; 8] = random();
    let (trace, rest) = text.split_at_mut(35);
    let places = trace.iter_mut().skip(3).chain(rest.iter_mut().skip(1));
    let nibbles = context.trace_id.iter().chain(&span).flat_map(|byte| [byte >> 4, byte & 15]);
    for (place, nibble) in places.zip(nibbles) {
        *place = DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    }
    if let (true, Some(flag)) = (context.sampled, text.last_mut()) {
        *flag = b'1';
    }
    text
}

/// Copies the context as it stands in `from`, for another request that is made because of this one.
pub fn copy(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [TRACEPARENT, TRACESTATE, B3, B3_TRACE, B3_SPAN, B3_PARENT, B3_SAMPLED, B3_FLAGS] {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
}

/// Ties `span` to the context and gives the span id to send on. When spans are exported this is the span's own id, and a
/// trace that starts here takes the span's trace id; otherwise the id is random and costs nothing else.
pub fn enter(span: &tracing::Span, context: &mut TraceContext) -> [u8; 8] {
    if !exporting() {
        return random();
    }
    if let Some(parent) = context.parent {
        let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let remote = SpanContext::new(
            TraceId::from_bytes(context.trace_id),
            SpanId::from_bytes(parent),
            flags,
            true,
            TraceState::default(),
        );
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote));
    }
    let own = span.context();
    let own = own.span().span_context().clone();
    if !own.is_valid() {
        return random();
    }
    context.trace_id = own.trace_id().to_bytes();
    own.span_id().to_bytes()
}

fn w3c(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let text = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let [version] = unhex::<1>(version)?;
    // W3C Trace Context 3.2.2: version ff is invalid, version 00 has exactly four parts.
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let [flags] = unhex::<1>(flags)?;
    Some(TraceContext {
        trace_id: nonzero(unhex(trace)?)?,
        parent: Some(nonzero(unhex(span)?)?),
        sampled: flags & 1 == 1,
        format: Format::W3c,
    })
}

fn b3_single(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parts = headers.get(B3)?.to_str().ok()?.split('-');
    let (trace, span) = (parts.next()?, parts.next()?);
    let sampled = parts.next().is_none_or(|s| s == "1" || s == "d");
    Some(TraceContext {
        trace_id: b3_trace_id(trace)?,
        parent: Some(nonzero(unhex(span)?)?),
        sampled,
        format: Format::B3Single,
    })
}

fn b3_multi(headers: &HeaderMap) -> Option<TraceContext> {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    Some(TraceContext {
        trace_id: b3_trace_id(text(B3_TRACE)?)?,
        parent: Some(nonzero(unhex(text(B3_SPAN)?)?)?),
        sampled: text(B3_FLAGS) == Some("1") || text(B3_SAMPLED).is_none_or(|s| s == "1" || s == "true"),
        format: Format::B3Multi,
    })
}

/// B3 allows trace ids of 64 bits; they are padded on the left.
fn b3_trace_id(text: &str) -> Option<[u8; 16]> {
    match text.len() {
        32 => nonzero(unhex(text)?),
        16 => {
            let low: [u8; 8] = unhex(text)?;
            let mut id = [0; 16];
            id.get_mut(8..)?.copy_from_slice(&low);
            nonzero(id)
        }
        _ => None,
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn random<const N: usize>() -> [u8; N] {
    loop {
        let mut bytes = [0; N];
        fastrand::fill(&mut bytes);
        if let Some(bytes) = nonzero(bytes) {
            return bytes;
        }
    }
}

fn nonzero<const N: usize>(bytes: [u8; N]) -> Option<[u8; N]> {
    bytes.iter().any(|b| *b != 0).then_some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Lower-case hex only, as both specifications ask of the wire.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != N * 2 {
        return None;
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn passes_on_the_format_that_came() {
        let cases: &[(&[(&'static str, &str)], Format)] = &[
            (&[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")], Format::W3c),
            (&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")], Format::B3Single),
            (&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")], Format::B3Multi),
        ];
        for (given, format) in cases {
            let context = extract(&headers(given));
            assert_eq!((context.trace_id_hex().as_str(), context.format), (TRACE, *format));
            assert_eq!(context.parent, unhex(SPAN));
            assert!(context.sampled);
            let mut out = HeaderMap::new();
            inject(&context, [7; 8], &mut out);
            let next = extract(&out);
            assert_eq!((next.trace_id, next.parent), (context.trace_id, Some([7; 8])));
            let mut other = HeaderMap::new();
            copy(&out, &mut other);
            assert_eq!(extract(&other), next);
            assert_eq!(out.contains_key(B3), *format == Format::B3Single);
            assert_eq!(out.contains_key(B3_TRACE), *format == Format::B3Multi);
        }
    }

    #[test]
    fn a_trace_that_starts_here_can_be_continued() {
        for sampled in [false, true] {
            let context = TraceContext { sampled, ..TraceContext::root() };
            let text = traceparent(&context);
            let next = extract(&headers(&[("traceparent", std::str::from_utf8(&text).unwrap())]));
            assert_eq!((next.trace_id, next.sampled), (context.trace_id, sampled));
            assert!(next.parent.is_some());
        }
    }

    #[test]
    fn garbage_starts_a_new_trace() {
        for bad in [
            "",
            "00-x-y-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            let context = extract(&headers(&[("traceparent", bad)]));
            assert_eq!(context.parent, None, "`{bad}` was taken");
        }
    }

    #[test]
    fn pads_short_b3_trace_ids() {
        let context = extract(&headers(&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7")]));
        assert_eq!(context.trace_id_hex(), "0000000000000000a3ce929d0e0e4736");
    }
}
