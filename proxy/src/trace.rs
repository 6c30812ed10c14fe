//! One call's place in a trace: continued from the caller's headers or started here.

use http::HeaderMap;
use signet_observe::trace::{self, TraceContext};
use tracing::Span;

pub(crate) struct Trace {
    context: TraceContext,
    span_id: [u8; 8],
    /// Lives as long as the call; disabled unless spans are exported.
    span: Span,
}

impl Trace {
    /// `span` makes the span when spans are exported.
    pub(crate) fn start(headers: &HeaderMap, span: impl FnOnce() -> Span) -> Self {
        let mut context = trace::extract(headers);
        let span = if trace::exporting() { span() } else { Span::none() };
        let span_id = trace::enter(&span, &mut context);
        Self { context, span_id, span }
    }

    pub(crate) fn id(&self) -> [u8; 16] {
        self.context.trace_id
    }

    /// Writes the context for the next hop. A caller's own headers pass unchanged when no span of ours is to be seen
    /// between.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        if self.context.parent.is_none() || trace::exporting() {
            trace::inject(&self.context, self.span_id, headers);
        }
    }

    pub(crate) fn answered(&self, status: u16) {
        self.span.record("http.response.status_code", status);
    }
}
