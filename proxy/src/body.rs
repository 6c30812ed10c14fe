//! The one body type of the proxy: what came from a peer passes through without a copy or a box.
//!
//! A response body carries what has to happen when it ends: the upstream connection goes back to its pool, the call
//! leaves the connection's open calls, the endpoint has one call less in flight. A body that is dropped before its end
//! gives its HTTP/1.1 connection up instead.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::balance::InFlight;
use crate::flow::Flow;
use crate::open::OpenGuard;
use crate::upstream::{Lease, grpc_failed};

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body broke off")]
    Http(#[from] hyper::Error),
    #[error("a new policy decision closed the call")]
    Closed,
    #[error("the body did not end in the time that the route allows")]
    Late,
    #[error("another attempt of the call took its place, or its copy fell behind")]
    Overtaken,
}

enum Kind {
    Full(Option<Bytes>),
    Incoming(Incoming),
    /// What routes need beyond passing on.
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send + Sync>>),
}

/// A request or response body.
pub struct Body {
    kind: Kind,
    open: Option<OpenGuard>,
    lease: Option<Lease>,
    in_flight: Option<InFlight>,
    deadline: Option<Pin<Box<Sleep>>>,
    counted: Option<Counted>,
}

/// Whose bytes a body's are.
pub(crate) struct Counted {
    flow: Arc<Flow>,
    answer: bool,
}

impl Counted {
    /// A request's.
    pub(crate) fn from_source(flow: Arc<Flow>) -> Self {
        Self { flow, answer: false }
    }

    /// An answer's; its trailers may say that the call failed.
    pub(crate) fn to_source(flow: Arc<Flow>) -> Self {
        Self { flow, answer: true }
    }

    fn count(&self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        if !self.answer {
            return self.flow.received(bytes);
        }
        self.flow.sent(bytes);
        if frame.trailers_ref().is_some_and(grpc_failed) {
            self.flow.failed();
        }
    }
}

impl Body {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(Kind::Full(None))
    }

    /// A short text of our own.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::of(Kind::Full(Some(bytes.into()).filter(|b| !b.is_empty())))
    }

    fn of(kind: Kind) -> Self {
        Self { kind, open: None, lease: None, in_flight: None, deadline: None, counted: None }
    }

    pub(crate) fn boxed(body: impl HttpBody<Data = Bytes, Error = BodyError> + Send + Sync + 'static) -> Self {
        Self::of(Kind::Boxed(Box::pin(body)))
    }

    /// Breaks off when it has not ended by `deadline`; the sooner of two counts.
    pub(crate) fn until(mut self, deadline: Instant) -> Self {
        let sooner = self.deadline.as_ref().is_some_and(|earlier| earlier.deadline() <= deadline);
        if !self.is_end_stream() && !sooner {
            self.deadline = Some(Box::pin(tokio::time::sleep_until(deadline)));
        }
        self
    }

    pub(crate) fn leased(incoming: Incoming, lease: Option<Lease>, in_flight: Option<InFlight>) -> Self {
        let mut body = Self::of(Kind::Incoming(incoming));
        (body.lease, body.in_flight) = (lease, in_flight);
        body
    }

    pub(crate) fn keep_open(&mut self, guard: OpenGuard) {
        self.open = Some(guard);
    }

    /// Counts what passes from now on. A body of our own is nobody's traffic.
    pub(crate) fn count(&mut self, counted: Counted) {
        self.counted = Some(counted).filter(|_| !matches!(self.kind, Kind::Full(_)));
    }

    /// The bytes of a body of our own; none of one that comes from a peer.
    pub(crate) fn own_bytes(&self) -> &[u8] {
        match &self.kind {
            Kind::Full(bytes) => bytes.as_deref().unwrap_or_default(),
            Kind::Incoming(_) | Kind::Boxed(_) => &[],
        }
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        self.open = None;
        self.in_flight = None;
        self.deadline = None;
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self::of(Kind::Incoming(incoming))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(open) = &this.open
            && open.call.poll_closed(cx).is_ready()
        {
            this.lease = None;
            this.finish();
            this.kind = Kind::Full(None);
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            this.lease = None;
            this.finish();
            this.kind = Kind::Full(None);
            return Poll::Ready(Some(Err(BodyError::Late)));
        }
        let polled = match &mut this.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            // An empty DATA frame, as the end of many streams is, is not passed on by itself: h2 counts such frames and
            // gives a connection up after a hundred.
            Kind::Incoming(incoming) => loop {
                match Pin::new(&mut *incoming).poll_frame(cx).map_err(BodyError::Http) {
                    Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                    polled => break polled,
                }
            },
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
        };
        if let Some(in_flight) = &mut this.in_flight {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        in_flight.told(!grpc_failed(trailers), std::time::Instant::now());
                    }
                }
                Poll::Ready(Some(Err(_))) => in_flight.told(false, std::time::Instant::now()),
                _ => {}
            }
        }
        if let (Some(counted), Poll::Ready(Some(Ok(frame)))) = (&this.counted, &polled) {
            counted.count(frame);
        }
        match &polled {
            Poll::Ready(None) => this.finish(),
            Poll::Ready(Some(Err(_))) => {
                this.lease = None;
                this.finish();
            }
            Poll::Ready(Some(Ok(_))) if this.is_end_stream() => this.finish(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // A body without bytes is never polled: its connection is as good as new.
        if self.is_end_stream() {
            self.finish();
        }
    }
}
